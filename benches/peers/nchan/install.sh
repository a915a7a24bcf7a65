#!/bin/sh
# Unpacks Debian's nginx and nchan, with the libraries the machine lacks, into $INSTALLED.
# Pinned by Debian's release: bookworm has nginx 1.22.1 and nchan 1.3.6.
set -eu
# The one thing outside: Debian's nchan makes its directory there, and its directive to name another is broken in 1.3.6.
[ -d /var/lib/nginx ] || mkdir -p /var/lib/nginx || { echo "nchan needs a directory /var/lib/nginx; make it as root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "needs a Debian with apt-get" >&2; exit 1; }
[ -x "$INSTALLED/root/usr/sbin/nginx" ] && [ -f "$INSTALLED/root/usr/lib/nginx/modules/ngx_nchan_module.so" ] && exit 0
mkdir -p "$INSTALLED/debs/partial" "$INSTALLED/root"
apt-get update -qq
apt-get install -qq -y --download-only --no-install-recommends -o "Dir::Cache::archives=$INSTALLED/debs" nginx libnginx-mod-nchan >/dev/null
# What the machine has installed already is not downloaded, so ask for the two by name as well.
(cd "$INSTALLED/debs" && apt-get download -qq nginx libnginx-mod-nchan 2>/dev/null)
for deb in "$INSTALLED"/debs/*.deb; do dpkg-deb -x "$deb" "$INSTALLED/root"; done
