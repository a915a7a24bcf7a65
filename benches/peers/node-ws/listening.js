// Where a `ws` server listens: by itself, or on an https server, as its README does where there is a certificate. Shared by the Node peers.
'use strict';
const fs = require('fs');
const https = require('https');

const { PORT, TLS_CERT, TLS_KEY } = process.env;

// Options of a WebSocketServer.
function listening() {
  const at = { host: '127.0.0.1', port: Number(PORT), backlog: 4096 };
  if (!TLS_CERT) return at;
  const server = https.createServer({ cert: fs.readFileSync(TLS_CERT), key: fs.readFileSync(TLS_KEY) });
  server.listen(at);
  return { server };
}

module.exports = { listening };
