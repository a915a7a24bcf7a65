#!/bin/sh
# Installs what `uwebsockets` needs, in its place: the two share it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export INSTALLED="${INSTALLED%/*}/uwebsockets"
exec sh "$here/../uwebsockets/install.sh"
