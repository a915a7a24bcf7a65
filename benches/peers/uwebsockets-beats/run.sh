#!/bin/sh
# Runs the server.js of `uwebsockets`, told to beat.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export INSTALLED="${INSTALLED%/*}/uwebsockets" BEATS=1
exec sh "$here/../uwebsockets/run.sh" "$@"
