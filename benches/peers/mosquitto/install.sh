#!/bin/sh
# Unpacks Debian's mosquitto, with the libraries the machine lacks, into $INSTALLED; nothing is installed system-wide.
# Pinned by Debian's release: bookworm has mosquitto 2.0.11.
set -eu
command -v apt-get >/dev/null || { echo "needs a Debian with apt-get" >&2; exit 1; }
[ -x "$INSTALLED/root/usr/sbin/mosquitto" ] && exit 0
mkdir -p "$INSTALLED/debs/partial" "$INSTALLED/root"
apt-get update -qq
apt-get install -qq -y --download-only --no-install-recommends -o "Dir::Cache::archives=$INSTALLED/debs" mosquitto >/dev/null
# What the machine has installed already is not downloaded, so ask for it by name as well.
(cd "$INSTALLED/debs" && apt-get download -qq mosquitto 2>/dev/null)
for deb in "$INSTALLED"/debs/*.deb; do dpkg-deb -x "$deb" "$INSTALLED/root"; done
