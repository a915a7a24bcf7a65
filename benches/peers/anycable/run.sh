#!/bin/sh
# Runs AnyCable-Go on its own, letting in anyone, and anyone broadcast. Its heartbeat is its own default, but where the timeout is
# shorter than a usual one.
set -eu
[ "${1:-}" != --version ] || { go version -m "$INSTALLED/anycable-go" | awk '$1 == "mod" { print $3 }'; exit; }
heartbeat=
if [ "$TIMEOUT_MS" -lt 30000 ]; then
  # Only those who speak the protocol with pongs are given up.
  heartbeat="--ping_interval $((INTERVAL_MS / 1000)) --pong_timeout $((TIMEOUT_MS / 1000))"
fi
[ -z "${TLS_CERT:-}" ] || set -- --ssl_cert "$TLS_CERT" --ssl_key "$TLS_KEY"
# Unquoted on purpose: a list of arguments.
# shellcheck disable=SC2086
exec "$INSTALLED/anycable-go" "$@" --host 127.0.0.1 --port "$PORT" --noauth --norpc --public_streams --log_level error \
  --broadcast_adapter http --http_broadcast_port "$GRPC_PORT" $heartbeat
