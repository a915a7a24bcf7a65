#!/bin/sh
# Builds the pinned module from the Go module proxy into $INSTALLED. A module of our own requires it, because `go install
# module@version` also asks for the list of all versions, which not every proxy gives.
set -eu
module=github.com/anycable/anycable-go
version=v1.5.0
command -v go >/dev/null || { echo "go is not installed" >&2; exit 1; }
[ -x "$INSTALLED/anycable-go" ] && exit 0
mkdir -p "$INSTALLED/build"
cd "$INSTALLED/build"
printf 'module bench\n\ngo 1.23\n\nrequire %s %s\n' "$module" "$version" > go.mod
# The checksums of this one module are pinned here, so that Go does not ask the checksum database for them: not every mirror
# of it has this module. They are what the module proxy served when this was written, and any other bytes are refused.
# Every other module is still verified against the database.
cat > go.sum <<SUMS
$module $version h1:hyKeCvJIAUEKsHijYPnsR3Um0zbARm6+hbFzvJGhmhE=
$module $version/go.mod h1:qlDYXiXrF32hZFH8EGQ4r/QFsfKAinBFu9QrlZ4uxTg=
SUMS
go build -mod=mod -p 2 -o "$INSTALLED/anycable-go" "$module/cmd/anycable-go" ||
  { echo "AnyCable-Go could not be built: the module proxy or the checksum database lacks it or one of its modules, see above" >&2; exit 1; }
