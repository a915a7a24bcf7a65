#!/bin/sh
# Runs Centrifugo with anonymous clients and its default heartbeat.
set -eu
[ "${1:-}" != --version ] || { go version -m "$INSTALLED/centrifugo" | awk '$1 == "mod" { print $3 }'; exit; }
mkdir -p "$SCRATCH"
cat > "$SCRATCH/config.json" <<CONFIG
{ "address": "127.0.0.1", "port": "$PORT", "client_insecure": true, "websocket_compression": false, "log_level": "error",
  "allowed_origins": ["*"], "client_connection_limit": 0 }
CONFIG
exec "$INSTALLED/centrifugo" -c "$SCRATCH/config.json"
