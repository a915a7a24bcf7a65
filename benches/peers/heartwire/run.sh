#!/bin/sh
# Runs the binary that the load generator names; its ports and heartbeat come from the environment.
set -eu
[ "${1:-}" != --version ] || { "$SERVER_BINARY" --version | cut -d' ' -f2; exit; }
[ -z "${TLS_CERT:-}" ] || set -- --set "ws.tls_certificate=$TLS_CERT" --set "ws.tls_key=$TLS_KEY"
# Unquoted on purpose: a list of arguments.
# shellcheck disable=SC2086
exec "$SERVER_BINARY" "$@" \
  --ws-listen "127.0.0.1:$PORT" --grpc-listen "127.0.0.1:$GRPC_PORT" --admin-listen "127.0.0.1:$ADMIN_PORT" \
  --set "heartbeat.interval=${INTERVAL_MS}ms" --set "heartbeat.timeout=${TIMEOUT_MS}ms" ${SERVER_ARGUMENTS:-}
