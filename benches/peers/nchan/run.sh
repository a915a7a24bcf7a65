#!/bin/sh
# Runs nginx with a worker a core.
set -eu
root="$INSTALLED/root"
export LD_LIBRARY_PATH="$root/usr/lib/$(uname -m)-linux-gnu"
if [ "${1:-}" = --version ]; then
  nginx=$("$root/usr/sbin/nginx" -v 2>&1 | sed 's#.*nginx/##')
  nchan=$(basename "$(ls "$INSTALLED"/debs/libnginx-mod-nchan_*.deb | tail -1)" | cut -d_ -f2 | sed 's/%3a/:/')
  echo "nginx $nginx, nchan $nchan"
  exit
fi
user=$(id -un)
ssl=
tls=
if [ -n "${TLS_CERT:-}" ]; then
  ssl=ssl
  # Else nginx's defaults.
  tls="ssl_certificate $TLS_CERT; ssl_certificate_key $TLS_KEY; ssl_protocols TLSv1.2 TLSv1.3;"
fi
mkdir -p "$SCRATCH"
cat > "$SCRATCH/nginx.conf" <<CONFIG
load_module $root/usr/lib/nginx/modules/ngx_nchan_module.so;
user $user;
daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid $SCRATCH/nginx.pid;
error_log $SCRATCH/error.log error;
events { worker_connections 20000; multi_accept on; }
http {
  access_log off;
  client_body_temp_path $SCRATCH/body;
  proxy_temp_path $SCRATCH/proxy;
  fastcgi_temp_path $SCRATCH/fastcgi;
  uwsgi_temp_path $SCRATCH/uwsgi;
  scgi_temp_path $SCRATCH/scgi;
  keepalive_requests 1000000000;
  nchan_shared_memory_size 256M;
  server {
    listen 127.0.0.1:$PORT $ssl backlog=4096 reuseport;
    $tls
    location = /subscribe {
      nchan_subscriber websocket;
      nchan_channel_id \$arg_id;
      # The server's own heartbeat.
      nchan_websocket_ping_interval $((INTERVAL_MS / 1000));
      nchan_subscriber_first_message newest;
    }
    location = /everyone {
      nchan_subscriber websocket;
      nchan_channel_id everyone;
    }
  }
  # The backend's side, without TLS.
  server {
    listen 127.0.0.1:$GRPC_PORT backlog=4096 reuseport;
    location = /publish {
      nchan_publisher http;
      nchan_channel_id \$arg_id;
    }
  }
}
CONFIG
exec "$root/usr/sbin/nginx" -p "$SCRATCH" -c "$SCRATCH/nginx.conf" -e "$SCRATCH/error.log"
