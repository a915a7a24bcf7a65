#!/bin/sh
# Installs the pinned packages from the npm registry into $INSTALLED.
set -eu
command -v npm >/dev/null || { echo "npm is not installed" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$INSTALLED"
cmp -s "$here/package.json" "$INSTALLED/package.json" && [ -d "$INSTALLED/node_modules/ws" ] && exit 0
cp "$here/package.json" "$INSTALLED/"
npm install --prefix "$INSTALLED" --silent --no-audit --no-fund --ignore-scripts
