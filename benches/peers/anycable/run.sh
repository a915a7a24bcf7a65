#!/bin/sh
# Runs AnyCable-Go on its own, letting in anyone.
set -eu
[ "${1:-}" != --version ] || { go version -m "$INSTALLED/anycable-go" | awk '$1 == "mod" { print $3 }'; exit; }
exec "$INSTALLED/anycable-go" --host 127.0.0.1 --port "$PORT" --noauth --norpc --broadcast_adapter http --log_level error
