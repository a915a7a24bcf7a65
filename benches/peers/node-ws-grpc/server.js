// A WebSocket backend by hand: `ws` for the clients, grpc-js for the control plane.
'use strict';
const { randomUUID } = require('crypto');
const { WebSocketServer } = require('ws');
const { serve, Clients } = require('./control.js');
const { listening } = require('../node-ws/listening.js');

const { GRPC_PORT, TIMEOUT_MS } = process.env;
const clients = new Clients();
const publish = serve(clients, (client, data, isText) => client.socket.send(data, { binary: !isText }), GRPC_PORT);

const server = new WebSocketServer(listening());
server.on('connection', (socket, request) => {
  const id = new URL(request.url, 'http://host').searchParams.get('client_id');
  const client = { id, connectionId: randomUUID(), generation: ++clients.generation, socket };
  socket.client = client;
  socket.isAlive = true;
  clients.join(client);
  publish('connected', client, {});
  socket.on('pong', onPong);
  socket.on('message', onMessage);
  socket.on('close', onClose);
  socket.on('error', () => {});
});

function onPong() {
  this.isAlive = true;
}

function onMessage(data, isBinary) {
  this.isAlive = true;
  if (isBinary) return publish('message_received', this.client, { binary: data });
  const text = data.toString();
  if (!text.startsWith('heartbeat')) publish('message_received', this.client, { text });
}

function onClose(code) {
  clients.leave(this.client);
  publish('disconnected', this.client, { close_code: code });
}

// The README of `ws`: "How to detect and close broken connections?"
setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
    } else {
      socket.isAlive = false;
      socket.ping();
    }
  }
}, Number(TIMEOUT_MS) / 2);
