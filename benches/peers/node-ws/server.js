// The README of `ws`: a server, and "How to detect and close broken connections?".
'use strict';
const { WebSocketServer } = require('ws');
const { listening } = require('./listening.js');

const { TIMEOUT_MS } = process.env;
const server = new WebSocketServer(listening());

function heard() {
  this.isAlive = true;
}

server.on('connection', (socket) => {
  socket.isAlive = true;
  socket.on('pong', heard);
  socket.on('message', heard);
  socket.on('error', () => {});
});

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
