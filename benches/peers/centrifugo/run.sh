#!/bin/sh
# Runs Centrifugo with anonymous clients, who may subscribe, and its gRPC API. Its heartbeat is its own default, but where the timeout
# is shorter than that.
set -eu
[ "${1:-}" != --version ] || { go version -m "$INSTALLED/centrifugo" | awk '$1 == "mod" { print $3 }'; exit; }
mkdir -p "$SCRATCH"
tls=
[ -z "${TLS_CERT:-}" ] || tls="\"tls\": true, \"tls_cert\": \"$TLS_CERT\", \"tls_key\": \"$TLS_KEY\", \"grpc_api_tls_disable\": true,"
heartbeat=
if [ "$TIMEOUT_MS" -lt 33000 ]; then
  heartbeat="\"ping_interval\": \"$((TIMEOUT_MS * 9 / 16))ms\", \"pong_timeout\": \"$((TIMEOUT_MS * 7 / 16))ms\","
fi
cat > "$SCRATCH/config.json" <<CONFIG
{ "address": "127.0.0.1", "port": "$PORT", "client_insecure": true, "websocket_compression": false, "log_level": "error",
  $tls $heartbeat "grpc_api": true, "grpc_api_address": "127.0.0.1", "grpc_api_port": $GRPC_PORT,
  "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
  "allowed_origins": ["*"], "client_connection_limit": 0 }
CONFIG
exec "$INSTALLED/centrifugo" -c "$SCRATCH/config.json"
