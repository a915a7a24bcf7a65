// The least of a WebSocket server on uWebSockets.js; with BEATS=1 it also sends heartbeats, for uwebsockets-beats.
'use strict';
const uws = require('@trufflesuite/uws-js-unofficial');
const { Beats } = require('../uwebsockets-beats/beats.js');

const { PORT, INTERVAL_MS, TIMEOUT_MS, TLS_CERT, TLS_KEY, BEATS } = process.env;
const beats = BEATS ? new Beats(Number(INTERVAL_MS)) : undefined;

const app = TLS_CERT ? uws.SSLApp({ cert_file_name: TLS_CERT, key_file_name: TLS_KEY }) : uws.App();
app.ws('/*', {
  compression: uws.DISABLED,
  // In seconds; 0 or at least 8.
  idleTimeout: Math.max(8, Math.round(Number(TIMEOUT_MS) / 1000)),
  sendPingsAutomatically: !beats,
  maxPayloadLength: 64 * 1024,
  message() {},
  ...(beats && { open: (socket) => beats.join(socket), close: (socket) => beats.leave(socket) }),
}).listen('127.0.0.1', Number(PORT), (listening) => {
  if (!listening) throw new Error(`cannot listen on ${PORT}`);
});
