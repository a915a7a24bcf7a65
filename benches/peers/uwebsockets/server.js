// The least of a WebSocket server on uWebSockets.js.
'use strict';
const uws = require('@trufflesuite/uws-js-unofficial');

const { PORT, TIMEOUT_MS, TLS_CERT, TLS_KEY } = process.env;

const app = TLS_CERT ? uws.SSLApp({ cert_file_name: TLS_CERT, key_file_name: TLS_KEY }) : uws.App();
app.ws('/*', {
  compression: uws.DISABLED,
  // In seconds; 0 or at least 8.
  idleTimeout: Math.max(8, Math.round(Number(TIMEOUT_MS) / 1000)),
  sendPingsAutomatically: true,
  maxPayloadLength: 64 * 1024,
  message() {},
}).listen('127.0.0.1', Number(PORT), (listening) => {
  if (!listening) throw new Error(`cannot listen on ${PORT}`);
});
