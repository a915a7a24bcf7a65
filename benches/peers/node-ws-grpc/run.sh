#!/bin/sh
# Runs server.js with the packages of $INSTALLED.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export NODE_PATH="$INSTALLED/node_modules" NODE_ENV=production
[ "${1:-}" != --version ] || { node -p "require('ws/package.json').version + ', node ' + process.versions.node"; exit; }
exec node "$here/server.js"
