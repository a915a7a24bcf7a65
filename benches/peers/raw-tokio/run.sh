#!/bin/sh
# Runs the floor out of the load generator's own binary.
set -eu
[ "${1:-}" != --version ] || { "$LOAD" --version | cut -d' ' -f2; exit; }
exec "$LOAD" raw-tokio "$PORT"
