#!/bin/sh
# Builds the pinned module from the Go module proxy into $INSTALLED. A module of our own requires it, because `go install
# module@version` also asks for the list of all versions, which not every proxy gives.
set -eu
module=github.com/centrifugal/centrifugo/v5
version=v5.4.9
command -v go >/dev/null || { echo "go is not installed" >&2; exit 1; }
[ -x "$INSTALLED/centrifugo" ] && exit 0
mkdir -p "$INSTALLED/build"
cd "$INSTALLED/build"
printf 'module bench\n\ngo 1.23\n\nrequire %s %s\n' "$module" "$version" > go.mod
go build -mod=mod -p 2 -o "$INSTALLED/centrifugo" github.com/centrifugal/centrifugo/v5
