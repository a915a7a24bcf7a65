// A WebSocket backend on uWebSockets.js; the control plane is that of node-ws-grpc.
'use strict';
const { randomUUID } = require('crypto');
const uws = require('@trufflesuite/uws-js-unofficial');
const { serve, Clients } = require('../node-ws-grpc/control.js');

const { PORT, GRPC_PORT, TIMEOUT_MS, TLS_CERT, TLS_KEY } = process.env;
const clients = new Clients();
const publish = serve(clients, (client, data, isText) => client.socket.send(data, !isText), GRPC_PORT);
const decoder = new TextDecoder();

const app = TLS_CERT ? uws.SSLApp({ cert_file_name: TLS_CERT, key_file_name: TLS_KEY }) : uws.App();
app.ws('/*', {
  compression: uws.DISABLED,
  // In seconds; 0 or at least 8.
  idleTimeout: Math.max(8, Math.round(Number(TIMEOUT_MS) / 1000)),
  sendPingsAutomatically: true,
  maxPayloadLength: 64 * 1024,
  upgrade(response, request, context) {
    response.upgrade(
      { id: new URLSearchParams(request.getQuery()).get('client_id') },
      request.getHeader('sec-websocket-key'),
      request.getHeader('sec-websocket-protocol'),
      request.getHeader('sec-websocket-extensions'),
      context,
    );
  },
  open(socket) {
    const client = { id: socket.id, connectionId: randomUUID(), generation: ++clients.generation, socket };
    socket.client = client;
    clients.join(client);
    publish('connected', client, {});
  },
  message(socket, data, isBinary) {
    if (isBinary) return publish('message_received', socket.client, { binary: Buffer.from(data.slice(0)) });
    const text = decoder.decode(data);
    if (!text.startsWith('heartbeat')) publish('message_received', socket.client, { text });
  },
  close(socket, code) {
    clients.leave(socket.client);
    publish('disconnected', socket.client, { close_code: code });
  },
}).listen('127.0.0.1', Number(PORT), (listening) => {
  if (!listening) throw new Error(`cannot listen on ${PORT}`);
});
