#!/bin/sh
# Runs mosquitto with a WebSocket listener and no persistence.
set -eu
root="$INSTALLED/root"
export LD_LIBRARY_PATH="$root/usr/lib/$(uname -m)-linux-gnu"
[ "${1:-}" != --version ] || { "$root/usr/sbin/mosquitto" -h | sed -n '1s/mosquitto version //p'; exit; }
mkdir -p "$SCRATCH"
tls=
[ -z "${TLS_CERT:-}" ] || tls="certfile $TLS_CERT
keyfile $TLS_KEY"
cat > "$SCRATCH/mosquitto.conf" <<CONFIG
# This version does not start with WebSocket listeners alone; nobody connects to the plain one.
listener $ADMIN_PORT 127.0.0.1
listener $PORT 127.0.0.1
protocol websockets
$tls
allow_anonymous true
persistence false
log_type error
CONFIG
# As root it becomes another user, who may not read the directory.
[ "$(id -u)" != 0 ] || echo "user root" >> "$SCRATCH/mosquitto.conf"
exec "$root/usr/sbin/mosquitto" -c "$SCRATCH/mosquitto.conf"
