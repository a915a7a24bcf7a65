// A node, a backend over gRPC, and a network between the node and its clients that can be broken.

import { spawn } from "node:child_process";
import { createServer, connect } from "node:net";
import { readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import WebSocket from "ws";
import { HeartwireClient } from "../heartwire.js";

const ROOT = process.env.TEST_ROOT ?? resolve(dirname(fileURLToPath(import.meta.url)), "../../..");
const BINARY = process.env.TEST_BINARY ?? join(ROOT, "target/debug/heartwire");
const PROTOS = join(ROOT, "proto");
const SOON_MS = 10_000;

const files = readdirSync(join(PROTOS, "heartwire/v1")).map((file) => `heartwire/v1/${file}`);
const definition = loader.loadSync(files, { includeDirs: [PROTOS], longs: String, enums: String, oneofs: true });
const { v1 } = grpc.loadPackageDefinition(definition).heartwire;

/** Starts a node with these settings, on free ports unless `ws` names one. */
export async function startNode(settings = {}, ws = "127.0.0.1:0") {
  const listen = ["--ws-listen", ws, "--grpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
  const sets = Object.entries({ "limits.messages_per_second": 0, "limits.bytes_per_second": 0, ...settings });
  const child = spawn(BINARY, [...listen, ...sets.flatMap(([key, value]) => ["--set", `${key}=${value}`])], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const found = {};
  for await (const line of createInterface({ input: child.stdout })) {
    found.ws ??= /^ {2}clients +ws:\/\/(\S+)$/.exec(line)?.[1];
    found.grpc ??= /^ {2}backends +gRPC on ([^,]+),/.exec(line)?.[1];
    if (found.ws && found.grpc) break;
  }
  if (!found.grpc) throw new Error(`${BINARY} does not say where it is reached`);
  child.stdout.resume();
  return {
    ...found,
    backend: new Backend(found.grpc),
    async stop(signal = "SIGTERM") {
      this.backend.close();
      child.kill(signal);
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    },
  };
}

class Backend {
  constructor(address) {
    const credentials = grpc.credentials.createInsecure();
    this.clients = [v1.EventService, v1.ConnectionService, v1.MessageService].map((Client) => new Client(address, credentials));
    [this.events, this.connections, this.messages] = this.clients;
    this.seen = [];
    this.stream = this.events.Subscribe({ beginning: {} });
    this.stream.on("data", ({ events }) => this.seen.push(...(events ?? [])));
    this.stream.on("error", () => {});
  }

  send(clientId, text, more = {}) {
    return this.#unary(this.messages, "Send", { target: { clientId }, text, ...more });
  }

  updateHeartbeat(clientId, heartbeat) {
    return this.#unary(this.connections, "UpdateHeartbeat", { target: { clientId }, heartbeat });
  }

  disconnect(clientId, code, reason) {
    return this.#unary(this.connections, "Disconnect", { target: { clientId }, code, reason });
  }

  #unary(client, method, request) {
    return promisify(client[method].bind(client))(request, { deadline: Date.now() + SOON_MS });
  }

  /** The kinds of the events so far, messages as what they say. */
  told() {
    return this.seen.map((event) => (event.kind === "messageReceived" ? event.messageReceived.text : event.kind));
  }

  said() {
    return this.seen.filter((event) => event.kind === "messageReceived").map((event) => event.messageReceived.text);
  }

  close() {
    this.stream.cancel();
    for (const client of this.clients) client.close();
  }
}

/** A network to `target()` that can be cut, go silent and be mended. */
export async function startNetwork(target) {
  const pairs = new Set();
  const held = [];
  let holding = false;
  const server = createServer((near) => {
    const [host, port] = target().split(":");
    const far = connect(Number(port), host);
    const pair = [near, far];
    pairs.add(pair);
    // Or what the client says last may wait, as Nagle's algorithm has it, until what its next socket says has arrived.
    for (const socket of pair) socket.setNoDelay(true);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on("data", (bytes) => {
        if (pair.dark) return;
        if (holding) held.push(() => other.write(bytes));
        else other.write(bytes);
      });
      one.on("error", () => {});
      one.on("close", () => {
        // Of a silent pair neither end learns of the other's.
        if (pair.dark) return;
        pairs.delete(pair);
        other.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `127.0.0.1:${server.address().port}`,
    /** Every socket ends, with no Close. */
    cut() {
      for (const pair of pairs) pair.forEach((socket) => socket.destroy());
      pairs.clear();
    },
    /** The present sockets carry nothing any more, and do not end; new ones are well. */
    goSilent() {
      for (const pair of pairs) pair.dark = true;
    },
    /** What is sent waits until it is released, and then comes at once. */
    hold() {
      holding = true;
    },
    release() {
      holding = false;
      for (const write of held.splice(0)) write();
    },
    async stop() {
      this.cut();
      server.close();
    },
  };
}

/** The package's WebSocket with no more than those of browsers have: it cannot be cut. */
export class BrowserSocket {
  #inner;

  constructor(url, protocol) {
    this.#inner = new WebSocket(url, protocol);
    for (const name of ["onopen", "onmessage", "onerror", "onclose"]) this.#inner[name] = (event) => this[name]?.(event);
  }

  get bufferedAmount() {
    return this.#inner.bufferedAmount;
  }

  send(data) {
    this.#inner.send(data);
  }

  close(code, reason) {
    this.#inner.close(code, reason);
  }
}

/**
 * WebSockets of which the test strands one: what it is given next stays on the way while its user sees it end, until `arrive()`. `deaf` ones
 * tell nothing of what they hear.
 */
export function strandable() {
  const control = { strand: false, deaf: false, beats: 0, arrive: null, ended: null };
  class Strandable extends BrowserSocket {
    #onmessage = null;

    set onmessage(listener) {
      this.#onmessage = listener;
    }

    get onmessage() {
      return (event) => control.deaf || this.#onmessage?.(event);
    }

    send(data) {
      if (JSON.parse(data).type === "heartbeat") control.beats += 1;
      if (!control.strand) {
        super.send(data);
        return;
      }
      control.strand = false;
      const { onclose } = this;
      this.onclose = ({ code }) => (control.ended = code);
      control.arrive = () => super.send(data);
      setTimeout(() => onclose({ code: 1006, reason: "" }));
    }
  }
  return { control, WebSocket: Strandable };
}

/** A client with what it tells written down. */
export function startClient(address, options = {}) {
  const client = new HeartwireClient(`ws://${address}/`, { WebSocket, clientId: "alice", firstMs: 20, longestMs: 200, ...options });
  client.told = [];
  client.heard = [];
  for (const type of ["open", "resumed", "newsession", "close", "drain"]) client.on(type, (detail) => client.told.push([type, detail]));
  client.on("message", (message) => client.heard.push(message));
  client.count = (type) => client.told.filter(([told]) => told === type).length;
  return client;
}

/** Waits until `check` holds. */
export async function eventually(what, check) {
  const until = Date.now() + SOON_MS;
  while (!(await check())) {
    if (Date.now() > until) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
