// The least of heartwire.v1 that the scenarios use, over a map of ids to sockets: Send, SendStream, Broadcast,
// CountConnections and a live Subscribe. Shared by the Node peers.
'use strict';
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

// Events wait at most so many before they are sent, and no longer than one turn of the event loop.
const MOST_IN_BATCH = 512;

// `clients`: Map of client id to { id, connectionId, generation }; `write(client, payload, isText, done)` sends.
function serve(clients, write, port) {
  const root = path.join(process.env.REPOSITORY, 'proto');
  const files = ['event_service', 'message_service', 'connection_service'].map((name) => `heartwire/v1/${name}.proto`);
  const definition = loader.loadSync(files, { includeDirs: [root], keepCase: true, longs: Number, enums: Number, defaults: false, oneofs: false });
  const { heartwire: { v1 } } = grpc.loadPackageDefinition(definition);
  const subscribers = new Set();
  let offset = 0;

  const payload = (request) => (request.text !== undefined ? [request.text, true] : [request.binary, false]);
  const find = (target) => {
    if (target.client_id !== undefined) return clients.get(target.client_id);
    return clients.byConnection.get(target.connection_id);
  };
  const deliver = (request, done) => {
    const client = find(request.target || {});
    if (!client) return done(null);
    const [data, isText] = payload(request);
    write(client, data, isText);
    done({ deliveries: [{ connection_id: client.connectionId, stage: 2 }] });
  };

  const server = new grpc.Server();
  server.addService(v1.MessageService.service, {
    Send(call, callback) {
      deliver(call.request, (response) => {
        if (response) callback(null, response);
        else callback({ code: grpc.status.NOT_FOUND, details: 'client is not connected' });
      });
    },
    SendStream(call) {
      // Headers at once: a caller may wait for them before it sends.
      call.sendMetadata(new grpc.Metadata());
      call.on('data', ({ sends }) => {
        const outcomes = (sends || []).map(({ tag, request }) => {
          let outcome;
          deliver(request, (response) => {
            outcome = response ? { tag, response } : { tag, code: 5, reason: 'CLIENT_NOT_CONNECTED' };
          });
          return outcome;
        });
        // What HTTP/2 flow control means for a stream: stop reading while the outcomes are unread.
        if (!call.write({ outcomes })) {
          call.pause();
          call.once('drain', () => call.resume());
        }
      });
      call.on('end', () => call.end());
      call.on('error', () => {});
    },
    Broadcast(call, callback) {
      const [data, isText] = payload(call.request);
      for (const client of clients.values()) write(client, data, isText);
      callback(null, { matched: clients.size, accepted: clients.size });
    },
  });
  server.addService(v1.ConnectionService.service, {
    CountConnections(call, callback) {
      callback(null, { count: clients.size });
    },
  });
  server.addService(v1.EventService.service, {
    Subscribe(call) {
      const subscriber = { call, waiting: [], kinds: new Set((call.request.filter || {}).kinds || []) };
      subscribers.add(subscriber);
      const forget = () => subscribers.delete(subscriber);
      call.on('cancelled', forget);
      call.on('close', forget);
      call.on('error', forget);
      call.write({ events: [], cursor: 'live' });
    },
  });
  server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
  });

  const flush = (subscriber) => {
    if (subscriber.waiting.length > 0) subscriber.call.write({ events: subscriber.waiting, cursor: 'live' });
    subscriber.waiting = [];
  };
  const KINDS = { connected: 1, disconnected: 4, message_received: 5 };
  // Tells the subscribers; events of one turn of the event loop share a batch.
  return function publish(kind, client, body) {
    if (subscribers.size === 0) return;
    const now = Date.now();
    const event = {
      cursor: String(++offset),
      time: { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1e6 },
      client_id: client.id,
      connection_id: client.connectionId,
      generation: client.generation,
      [kind]: body,
    };
    for (const subscriber of subscribers) {
      if (subscriber.kinds.size > 0 && !subscriber.kinds.has(KINDS[kind])) continue;
      if (subscriber.waiting.push(event) === 1) setImmediate(flush, subscriber);
      else if (subscriber.waiting.length >= MOST_IN_BATCH) flush(subscriber);
    }
  };
}

// A map of ids that also finds by connection id.
class Clients extends Map {
  constructor() {
    super();
    this.byConnection = new Map();
    this.generation = 0;
  }

  join(client) {
    this.set(client.id, client);
    this.byConnection.set(client.connectionId, client);
  }

  leave(client) {
    if (this.get(client.id) === client) this.delete(client.id);
    this.byConnection.delete(client.connectionId);
  }
}

module.exports = { serve, Clients };
