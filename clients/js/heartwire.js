// A client of Heartwire's reliable subprotocol, for browsers and Node: it reconnects, resumes, and hands every message over once and in order.
// The protocol is specified in docs/reliable-protocol.md. No dependencies.

export const SUBPROTOCOL = "heartwire.v1.json";

const CONNECT_TIMEOUT_MS = 15_000; // From the first attempt to connect to the server's hello.
const ANSWER_TIMEOUT_MS = 10_000; // For the answer to a heartbeat, or half the interval if that is less.
const CLOSE_TIMEOUT_MS = 2_000; // For the server's Close after our bye.
const STEADY_MS = 10_000; // A socket that lived for so long was a success: backing off begins anew.
const MOST_BUFFERED = 1 << 20; // Bytes that may wait in the socket before no more messages are given to it.

/** What a close code calls for: "no", "yes" or "backoff". The table of the protocol; what is not in it was somebody's intention. */
export function reconnectAfter(code) {
  switch (code) {
    case 1001: case 1012: case 4404: case 4408: case 4411: case 4412: case 4413:
      return "yes";
    // Not sent by anybody: the socket was lost.
    case 1005: case 1006: case 1015:
      return "yes";
    case 1011: case 1013: case 4410: case 4429:
      return "backoff";
    default:
      return "no";
  }
}

/** A random time up to one that doubles with every attempt: exponential backoff with full jitter. */
export function backoff(attempt, { firstMs, longestMs }, random = Math.random) {
  return random() * Math.min(longestMs, firstMs * 2 ** Math.min(attempt, 30));
}

/** Why a message was not taken: `code` is QUEUE_FULL, TOO_BIG or CLOSED. */
export class SendError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "SendError";
    this.code = code;
  }
}

export class HeartwireClient {
  #url;
  #options;
  #WebSocket;
  #listeners = new Map();
  #state = "connecting";
  #socket = null;
  #session = null; // What the server's hello said; null when the next socket begins anew.
  #hadSession = false;
  #received = 0; // The last number that the server's messages have come to, and were handed over.
  #told = 0; // What of that the server was told.
  #numbered = 0; // The last number that was given to a message of ours.
  #queue = []; // Not acknowledged, oldest first; those with a number were sent. Bounded by maxQueue and maxQueueBytes.
  #queueBytes = 0;
  #sent = 0; // How many of them were given to the present socket.
  #attempt = 0;
  #hintMs = null;
  #spoken = false; // Whether the server's hello has come on this socket.
  #heard = false; // Whether anything has come since the last heartbeat.
  #tokens = null;
  #timers = new Map();

  constructor(url, options = {}) {
    this.#url = url;
    this.#options = {
      clientId: undefined,
      maxQueue: 1_000,
      maxQueueBytes: 1 << 20,
      resendUncertain: false,
      firstMs: 500,
      longestMs: 30_000,
      random: Math.random,
      ...options,
    };
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("there is no global WebSocket: pass one as options.WebSocket");
    // Back on the network: no need to wait.
    globalThis.addEventListener?.("online", this.#online);
    // After the caller has had time to listen.
    this.#after("connect", 0, () => this.#connect());
  }

  /** "connecting", "open", "waiting" (to reconnect) or "closed" (for good). */
  get state() {
    return this.#state;
  }

  /** How many messages are not acknowledged. */
  get pending() {
    return this.#queue.length;
  }

  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return this;
  }

  off(type, listener) {
    this.#listeners.get(type)?.delete(listener);
    return this;
  }

  /** Queues a string or bytes; they are sent when there is a socket, and kept until the server has acknowledged them. */
  send(data) {
    if (this.#state === "closed") throw new SendError("CLOSED", "the client is closed");
    let member;
    if (typeof data === "string") {
      member = `"text":${JSON.stringify(data.toWellFormed?.() ?? data)}`;
    } else if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
      member = `"data":"${toBase64(data)}"`;
    } else {
      throw new TypeError("a message is a string, an ArrayBuffer or a view of one");
    }
    // With the longest number there is.
    const bytes = utf8Length(member) + 50;
    if (this.#session && bytes > this.#session.max_message_bytes) {
      throw new SendError("TOO_BIG", `the server takes at most ${this.#session.max_message_bytes} bytes`);
    }
    if (this.#queue.length >= this.#options.maxQueue || this.#queueBytes + bytes > this.#options.maxQueueBytes) {
      throw new SendError("QUEUE_FULL", `${this.#queue.length} messages are not acknowledged`);
    }
    this.#queue.push({ member, bytes, data, seq: 0 });
    this.#queueBytes += bytes;
    this.#pump();
  }

  /** Ends the session and the client. What is not acknowledged may be lost. */
  close(code = 1000, reason = "") {
    if (this.#state === "closed") return;
    const socket = this.#socket;
    if (socket && this.#spoken) {
      this.#say({ type: "bye", code, reason });
      // The server answers with a Close; without one it is over all the same.
      setTimeout(() => abandon(socket), CLOSE_TIMEOUT_MS).unref?.();
      this.#leave(socket);
    } else if (socket) {
      this.#leave(socket);
      abandon(socket);
    }
    this.#socket = null;
    this.#end({ code, reason, final: true });
  }

  // Events

  #emit(type, detail) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(detail);
      } catch (error) {
        // The application's mistake: it must be seen, and must not end the protocol.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  // Timers

  #after(name, milliseconds, run) {
    this.#cancel(name);
    this.#timers.set(name, setTimeout(() => {
      this.#timers.delete(name);
      run();
    }, milliseconds));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #cancelAll() {
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
  }

  #online = () => {
    if (this.#state === "waiting") this.#connect();
  };

  // Sockets

  #connect() {
    this.#cancelAll();
    this.#state = "connecting";
    this.#spoken = false;
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, SUBPROTOCOL);
    } catch (error) {
      // The URL is none; no attempt would do better.
      this.#end({ code: 1006, reason: String(error), final: true });
      return;
    }
    const began = Date.now();
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#greet();
    socket.onmessage = ({ data }) => this.#take(data);
    // A close follows.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => this.#closed(code, reason, Date.now() - began);
    this.#after("hello", CONNECT_TIMEOUT_MS, () => this.#lose("no hello in time"));
  }

  #greet() {
    if (this.#session) {
      this.#say({ type: "resume", session: this.#session.session, received: this.#received });
    } else {
      this.#say({ type: "hello", client_id: this.#options.clientId });
    }
  }

  #say(envelope) {
    try {
      this.#socket?.send(JSON.stringify(envelope));
    } catch {
      // It is closing; its close event follows.
    }
  }

  /** The socket is of no use any more, and has not said so. */
  #lose(reason) {
    const socket = this.#socket;
    if (!socket) return;
    this.#leave(socket);
    abandon(socket);
    this.#closed(1006, reason, 0);
  }

  /** Nothing of this socket is listened to any more. */
  #leave(socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    // One that fails with nobody listening would end a Node process.
    socket.onerror = () => {};
  }

  #closed(code, reason, livedMs) {
    this.#socket = null;
    this.#cancelAll();
    if (livedMs >= STEADY_MS) this.#attempt = 0;
    // A Close ends the session, and so does what the server has said before it; a lost socket does not.
    if (![1005, 1006, 1015].includes(code)) this.#session = null;
    const what = reconnectAfter(code);
    if (what === "no") {
      this.#end({ code, reason, final: true });
      return;
    }
    this.#state = "waiting";
    if (what === "backoff") this.#attempt = Math.max(this.#attempt, 3);
    const hint = this.#hintMs ?? hintIn(reason);
    this.#hintMs = null;
    const delayMs = (hint ?? 0) + backoff(this.#attempt, this.#options, this.#options.random);
    this.#attempt += 1;
    this.#after("connect", delayMs, () => this.#connect());
    this.#emit("close", { code, reason, final: false, reconnectInMs: delayMs });
  }

  #end(detail) {
    this.#cancelAll();
    globalThis.removeEventListener?.("online", this.#online);
    this.#state = "closed";
    this.#emit("close", detail);
  }

  // Envelopes

  #take(data) {
    this.#heard = true;
    let envelope;
    try {
      envelope = JSON.parse(data);
    } catch {
      this.#lose("the server does not speak the protocol");
      return;
    }
    if (!this.#spoken && !["hello", "error", "bye"].includes(envelope.type)) {
      this.#lose("the server has not said hello");
      return;
    }
    if (Number.isInteger(envelope.received) && envelope.type !== "hello") this.#acknowledged(envelope.received);
    switch (envelope.type) {
      case "hello":
        this.#welcome(envelope);
        break;
      case "message":
        this.#receive(envelope);
        break;
      case "bye":
        this.#session = null;
        this.#hintMs = envelope.reconnect_after_ms ?? null;
        break;
      case "error":
        this.#session = null;
        break;
      default:
      // A heartbeat, an acknowledgement, or something newer than this client.
    }
  }

  #welcome(hello) {
    this.#cancel("hello");
    this.#spoken = true;
    this.#state = "open";
    this.#sent = 0;
    const session = { ...hello };
    const about = { clientId: hello.client_id, connectionId: hello.connection_id };
    this.#session = session;
    this.#tokens ??= new Tokens();
    this.#tokens.set(hello.messages_per_second, hello.bytes_per_second);
    this.#beat();
    if (hello.resumed) {
      this.#acknowledged(hello.received);
      this.#told = this.#received;
      this.#emit("resumed", about);
    } else {
      const uncertain = this.#queue.filter((message) => message.seq > 0);
      if (!this.#options.resendUncertain) this.#queue = this.#queue.filter((message) => message.seq === 0);
      for (const message of this.#queue) message.seq = 0;
      const tooBig = this.#queue.filter((message) => message.bytes > hello.max_message_bytes);
      this.#queue = this.#queue.filter((message) => message.bytes <= hello.max_message_bytes);
      this.#queueBytes = this.#queue.reduce((sum, message) => sum + message.bytes, 0);
      this.#received = this.#told = this.#numbered = 0;
      const refused = tooBig.map((message) => message.data);
      if (this.#hadSession) {
        this.#emit("newsession", { ...about, uncertain: uncertain.map((message) => message.data), refused });
      } else {
        this.#emit("open", { ...about, refused });
      }
      this.#hadSession = true;
    }
    this.#pump();
  }

  #receive({ seq, id, text, data }) {
    if (seq > this.#received + 1) {
      // Something is missing; the server sends it again after a resume.
      this.#lose("a message is missing");
      return;
    }
    if (seq === this.#received + 1) {
      this.#received = seq;
      this.#emit("message", { data: text ?? fromBase64(data), id, seq });
    } else {
      this.#told = Math.min(this.#told, seq - 1);
    }
    // Once for all that come together.
    if (this.#socket && !this.#timers.has("ack")) {
      this.#after("ack", 0, () => {
        if (this.#told < this.#received) this.#say({ type: "ack", received: (this.#told = this.#received) });
      });
    }
  }

  #acknowledged(received) {
    let count = 0;
    while (count < this.#queue.length && this.#queue[count].seq > 0 && this.#queue[count].seq <= received) {
      this.#queueBytes -= this.#queue[count].bytes;
      count += 1;
    }
    if (count === 0) return;
    this.#queue.splice(0, count);
    this.#sent = Math.max(0, this.#sent - count);
    if (this.#queue.length === 0) this.#emit("drain");
  }

  /** Gives the socket what it has not been given, no faster than the server reads it. */
  #pump() {
    if (!this.#spoken || !this.#socket || this.#timers.has("pump")) return;
    while (this.#sent < this.#queue.length) {
      const message = this.#queue[this.#sent];
      const waitMs = this.#socket.bufferedAmount > MOST_BUFFERED ? 50 : this.#tokens.take(message.bytes);
      if (waitMs > 0) {
        this.#after("pump", waitMs, () => this.#pump());
        return;
      }
      message.seq ||= this.#numbered += 1;
      this.#sent += 1;
      try {
        this.#socket.send(`{"type":"message","seq":${message.seq},${message.member}}`);
      } catch {
        return;
      }
    }
  }

  // Heartbeats

  #beat() {
    const interval = this.#session.heartbeat_interval_ms;
    this.#after("beat", interval, () => {
      this.#heard = false;
      this.#say({ type: "heartbeat", received: (this.#told = this.#received) });
      this.#after("answer", Math.min(ANSWER_TIMEOUT_MS, interval / 2), () => {
        if (this.#heard) this.#beat();
        else this.#lose("the server does not answer");
      });
    });
  }
}

/** Two token buckets: as many messages and bytes a second as the server lets through, and a second's worth at once. */
class Tokens {
  #buckets = [];

  set(...rates) {
    this.#buckets = rates.map((rate, index) => ({ rate: rate ?? 0, readyAt: this.#buckets[index]?.readyAt ?? 0 }));
  }

  /** Takes one message of so many bytes, and answers 0; or how many milliseconds to wait for it. */
  take(bytes) {
    const now = Date.now();
    const late = this.#buckets.map(({ rate, readyAt }) => (rate > 0 ? Math.min(1_000, readyAt - now - 1_000) : 0));
    const waitMs = Math.max(0, ...late);
    if (waitMs > 0) return Math.ceil(waitMs);
    [1, bytes].forEach((cost, index) => {
      const bucket = this.#buckets[index];
      if (bucket.rate > 0) bucket.readyAt = Math.max(now, bucket.readyAt) + (cost * 1_000) / bucket.rate;
    });
    return 0;
  }
}

function hintIn(reason) {
  const found = /reconnect_after_ms=(\d+)/.exec(reason);
  return found ? Number(found[1]) : null;
}

/** Closes a socket that is not waited for. */
function abandon(socket) {
  try {
    // Node's ws can be cut at once; a browser tries a Close, which a dead server does not answer.
    if (socket.terminate) socket.terminate();
    else socket.close();
  } catch {
    // It was closed already.
  }
}

function utf8Length(text) {
  return new TextEncoder().encode(text).length;
}

function toBase64(data) {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let binary = "";
  // In pieces, because arguments are limited.
  for (let at = 0; at < bytes.length; at += 8_192) binary += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  return btoa(binary);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
