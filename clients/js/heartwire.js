// A client of Heartwire's reliable subprotocol, for browsers and Node: it reconnects, resumes, and hands every message over once and in order.
// The protocol is specified in docs/reliable-protocol.md. No dependencies.

export const SUBPROTOCOL = "heartwire.v1.json";

const CONNECT_TIMEOUT_MS = 15_000; // From the first attempt to connect to the server's hello.
const ANSWER_TIMEOUT_MS = 10_000; // For the answer to a heartbeat, or half the interval if that is less.
const CLOSE_TIMEOUT_MS = 2_000; // For the server's Close after our bye.
const STEADY_MS = 10_000; // A socket that lived for so long after its hello was a success: backing off begins anew.
const MOST_BUFFERED = 1 << 20; // Bytes that may wait in the socket before no more messages are given to it.
const BUDGET_MS = 1_000; // How much of its rate may reach the server at once; it takes twice as much.
const DEFAULT_RATES = [100, 256 * 1_024]; // Messages and bytes a second, of a server that does not say.
const STRAY_HELLO_MS = 20_000; // So long after it was sent a hello may begin a session: the server waits 10 s for it, and 5 s for its log.
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const LOST = [1005, 1006, 1015]; // Not sent by anybody: the socket ended without a Close.
const REPLACED = 4409;
const LOST_BY_CLIENT = 4499; // Our Close where a socket cannot be cut: lost, to be resumed.

/** What a close code calls for: "no", "yes" or "backoff". The table of the protocol; what is not in it was somebody's intention. */
export function reconnectAfter(code) {
  switch (code) {
    case 1001: case 1012: case 4404: case 4408: case 4411: case 4412: case 4413:
      return "yes";
    case 1005: case 1006: case 1015: // LOST
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
  #now; // Milliseconds that are never set back, unlike the time of day.
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
  #attempt = 0; // Of connecting, since it last went well.
  #resumes = 0; // How many resumes of this session were sent; each carries its number.
  #strays = 0; // How many of them may still reach the server, on a socket that ended unanswered.
  #strayHellos = []; // When the hellos were sent that may still reach the server, on sockets that ended unanswered.
  #resuming = false; // Whether a resume was sent on this socket.
  #lostAt = null; // When the session lost its socket.
  #doubted = null; // A final Close that may not be the session's end; what a resume finds decides.
  #pardoned = false; // Whether a final Close without a word of the server was passed over since all was last well.
  #greeted = false; // Whether our hello or resume was sent on this socket.
  #greetedAt = 0; // When.
  #spokenAt = null; // When the server's hello came on this socket.
  #lastWord = null; // The server's bye or error on this socket.
  #heard = false; // Whether anything has come since the last heartbeat.
  #beatAt = 0; // When the last heartbeat was due or sent.
  #pace = new Pace();
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
    this.#now = options.now ?? (() => performance.now());
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
      member = `"text":${JSON.stringify(wellFormed(data))}`;
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
    if (socket && this.#greeted) {
      this.#say({ type: "bye", code, reason: wellFormed(reason) });
      // The server answers with a Close; without one it is over all the same.
      setTimeout(() => abandon(socket, 1000), CLOSE_TIMEOUT_MS).unref?.();
      this.#leave(socket);
    } else if (socket) {
      this.#leave(socket);
      abandon(socket, 1000);
    }
    this.#socket = null;
    this.#end(code, reason);
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
    if (this.#session && this.#windowIsOver()) {
      this.#session = null;
      if (this.#doubted) {
        this.#end(this.#doubted.code, this.#doubted.reason);
        return;
      }
    }
    this.#state = "connecting";
    this.#greeted = this.#resuming = false;
    this.#spokenAt = this.#lastWord = null;
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, SUBPROTOCOL);
    } catch (error) {
      // The URL is none; no attempt would do better.
      this.#end(1006, String(error));
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    // Whatever a socket that was given up says yet is not about the present one.
    const present = (run) => (event) => {
      if (this.#socket === socket) run(event);
    };
    socket.onopen = present(() => this.#greet());
    socket.onmessage = present(({ data }) => this.#take(data));
    // A close follows.
    socket.onerror = () => {};
    socket.onclose = present(({ code, reason }) => this.#closed(code, reason));
    this.#after("hello", CONNECT_TIMEOUT_MS, () => this.#lose("no hello in time"));
  }

  /** Whether a resume can only be in vain; the server may have noticed the loss as late as by its heartbeat timeout. */
  #windowIsOver() {
    const { resume_window_ms: windowMs, heartbeat_timeout_ms: timeoutMs } = this.#session;
    return windowMs === 0 || this.#now() - this.#lostAt > windowMs + timeoutMs;
  }

  #greet() {
    // Once on a socket: the server takes a second for a violation.
    if (this.#greeted) return;
    this.#greeted = true;
    this.#greetedAt = this.#now();
    if (this.#session) {
      this.#resuming = true;
      this.#resumes += 1;
      this.#say({ type: "resume", session: this.#session.session, received: this.#received, attempt: this.#resumes });
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
    // A session whose hello has not come cannot be resumed, and need not be kept.
    if (this.#session) abandon(socket, LOST_BY_CLIENT, "Lost");
    else abandon(socket, 1000);
    this.#closed(1006, reason);
  }

  /** Nothing of this socket is listened to any more. */
  #leave(socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    // One that fails with nobody listening would end a Node process.
    socket.onerror = () => {};
  }

  #closed(code, reason) {
    const said = this.#lastWord;
    // The Close that was to follow a bye got lost.
    if (said?.type === "bye" && Number.isInteger(said.code) && LOST.includes(code)) ({ code, reason } = said);
    const spoken = this.#spokenAt !== null;
    const now = this.#now();
    this.#socket = null;
    this.#cancelAll();
    if (spoken && now - this.#spokenAt >= STEADY_MS) {
      this.#attempt = 0;
      this.#pardoned = false;
    }
    this.#lostAt ??= now;
    if (this.#greeted && !spoken && !said && code < 4000) {
      if (this.#resuming) this.#strays += 1;
      else this.#strayHellos.push(this.#greetedAt);
    }
    let what = reconnectAfter(code);
    if (what === "no" && this.#session && this.#mayPass(code, said)) {
      this.#doubted = { code, reason };
      what = "yes";
    } else if (said || !mayGoOn(code, spoken)) {
      this.#session = null;
    }
    if (!this.#session && this.#doubted) {
      // It was meant. To begin anew would take the id from whoever has it now.
      if (what !== "no") ({ code, reason } = this.#doubted);
      what = "no";
    }
    if (what === "no" && code === REPLACED && this.#replacedItself(now)) {
      this.#doubted = null;
      what = "yes";
    }
    if (what === "no") {
      this.#end(code, reason);
      return;
    }
    this.#state = "waiting";
    if (what === "backoff") this.#attempt = Math.max(this.#attempt, 3);
    const hint = said?.reconnect_after_ms ?? hintIn(reason);
    const delayMs = (hint ?? 0) + backoff(this.#attempt, this.#options, this.#options.random);
    this.#attempt += 1;
    this.#after("connect", delayMs, () => this.#connect());
    this.#emit("close", { code, reason, final: false, reconnectInMs: delayMs });
  }

  /** Whether a final Close may not have been meant for the session, which is to be seen by a resume. */
  #mayPass(code, said) {
    if (code === REPLACED) {
      // A resume of our own that came late took the session over; each does so once at most.
      if (this.#strays === 0) return false;
      this.#strays -= 1;
      return true;
    }
    // The server says why before it closes a session: this Close is of something between. If it comes again it has a cause that stays.
    if (said || code >= 4000 || this.#pardoned) return false;
    this.#pardoned = true;
    return true;
  }

  /** Whether a hello of our own that came late may have replaced the session, which is over then; each does so once at most. */
  #replacedItself(now) {
    this.#strayHellos = this.#strayHellos.filter((sentAt) => now - sentAt < STRAY_HELLO_MS);
    return this.#strayHellos.shift() !== undefined;
  }

  #end(code, reason) {
    this.#cancelAll();
    globalThis.removeEventListener?.("online", this.#online);
    this.#state = "closed";
    const uncertain = this.#queue.filter(({ seq }) => seq > 0).map(({ data }) => data);
    const unsent = this.#queue.filter(({ seq }) => seq === 0).map(({ data }) => data);
    this.#emit("close", { code, reason, final: true, uncertain, unsent });
  }

  // Envelopes

  #take(data) {
    this.#heard = true;
    let envelope;
    try {
      envelope = JSON.parse(data);
    } catch {
      // As if it were no object.
    }
    if (typeof envelope?.type !== "string") {
      this.#lose("the server does not speak the protocol");
      return;
    }
    if (this.#spokenAt === null && !["hello", "error", "bye"].includes(envelope.type)) {
      this.#lose("the server has not said hello");
      return;
    }
    // Nothing that a socket says after its hello begins anything: a second one is none of ours, and would forget what is acknowledged.
    if (envelope.type === "hello" && this.#spokenAt !== null) return;
    if (Number.isInteger(envelope.received) && envelope.type !== "hello") this.#acknowledged(envelope.received);
    switch (envelope.type) {
      case "hello":
        this.#welcome(envelope);
        break;
      case "message":
        this.#receive(envelope);
        break;
      case "bye":
      case "error":
        this.#lastWord = envelope;
        break;
      case "heartbeat":
        this.#retune(envelope);
        break;
      default:
      // An acknowledgement, or something newer than this client.
    }
  }

  #welcome(hello) {
    this.#cancel("hello");
    const now = this.#now();
    this.#spokenAt = this.#beatAt = now;
    this.#lostAt = this.#doubted = null;
    this.#state = "open";
    this.#sent = 0;
    const about = { clientId: hello.client_id, connectionId: hello.connection_id };
    this.#session = { ...hello };
    // A new session is not charged for what came before it.
    if (!hello.resumed) this.#pace = new Pace();
    this.#pace.begin([hello.messages_per_second, hello.bytes_per_second], now);
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
      this.#resumes = this.#strays = 0;
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
    const now = this.#now();
    let count = 0;
    while (count < this.#queue.length && this.#queue[count].seq > 0 && this.#queue[count].seq <= received) {
      const { bytes } = this.#queue[count];
      this.#queueBytes -= bytes;
      if (count < this.#sent) this.#pace.arrived(bytes, now);
      count += 1;
    }
    if (count === 0) return;
    this.#queue.splice(0, count);
    this.#sent = Math.max(0, this.#sent - count);
    if (this.#queue.length === 0) this.#emit("drain");
    this.#pump();
  }

  /** Gives the socket what it has not been given, no faster than the server reads it. */
  #pump() {
    if (this.#spokenAt === null || !this.#socket || this.#lastWord || this.#timers.has("pump")) return;
    while (this.#sent < this.#queue.length) {
      const message = this.#queue[this.#sent];
      const waitMs = this.#socket.bufferedAmount > MOST_BUFFERED ? 50 : this.#pace.wait(message.bytes, this.#now());
      if (waitMs > 0) {
        // For ever: until the next acknowledgement.
        if (waitMs < Infinity) this.#after("pump", waitMs, () => this.#pump());
        return;
      }
      message.seq ||= this.#numbered += 1;
      this.#sent += 1;
      this.#pace.sent(message.bytes);
      try {
        this.#socket.send(`{"type":"message","seq":${message.seq},${message.member}}`);
      } catch {
        return;
      }
    }
  }

  // Heartbeats

  /** Sends the next one when it is due, and each an interval after the last; whether it is answered is another timer's business. */
  #beat() {
    const interval = this.#session.heartbeat_interval_ms;
    if (!(interval > 0)) return;
    const dueMs = Math.max(0, this.#beatAt + interval - this.#now());
    this.#after("beat", Math.min(dueMs, LONGEST_TIMER_MS), () => {
      this.#beatAt = this.#now();
      this.#heard = false;
      this.#say({ type: "heartbeat", received: (this.#told = this.#received) });
      this.#after("answer", Math.min(ANSWER_TIMEOUT_MS, interval / 2), () => {
        if (!this.#heard) this.#lose("the server does not answer");
      });
      this.#beat();
    });
  }

  /** A backend may have set others than the server's hello said. */
  #retune({ heartbeat_interval_ms: interval, heartbeat_timeout_ms: timeout }) {
    if (timeout > 0) this.#session.heartbeat_timeout_ms = timeout;
    if (interval > 0 && interval !== this.#session.heartbeat_interval_ms) {
      this.#session.heartbeat_interval_ms = interval;
      this.#beat();
    }
  }
}

/**
 * How much may be sent without the server's two token buckets, of messages and of bytes, ever overflowing. Nobody knows when a message arrives
 * but that it has when it is acknowledged: what is acknowledged is charged then, as late as it can be, and what is not may all arrive at once.
 */
class Pace {
  #rates = [0, 0]; // A second; 0 for no limit.
  #readyAt = [-Infinity, -Infinity]; // When the buckets are empty at the latest, without what is on its way.
  #onTheWay = [0, 0]; // Messages and bytes.

  /** A socket begins. What was on its way on the last one has arrived by now, or never will. */
  begin(rates, now) {
    this.#charge(this.#onTheWay, now);
    this.#onTheWay = [0, 0];
    this.#rates = rates.map((rate, index) => rate ?? DEFAULT_RATES[index]);
  }

  sent(bytes) {
    this.#onTheWay = [this.#onTheWay[0] + 1, this.#onTheWay[1] + bytes];
  }

  arrived(bytes, now) {
    this.#onTheWay = [this.#onTheWay[0] - 1, this.#onTheWay[1] - bytes];
    this.#charge([1, bytes], now);
  }

  /** How many milliseconds to wait before a message of so many bytes; Infinity: until something is acknowledged. */
  wait(bytes, now) {
    const waits = [1, bytes].map((amount, index) => {
      if (!this.#limited(index)) return 0;
      const cost = this.#cost(index, amount);
      const onTheWay = this.#cost(index, this.#onTheWay[index]);
      const owed = Math.max(0, this.#readyAt[index] - now);
      // One that is more than the budget goes alone, into an empty bucket.
      const room = Math.max(BUDGET_MS, cost) - cost - onTheWay;
      return room < 0 ? Infinity : Math.max(0, owed - room);
    });
    return Math.ceil(Math.max(...waits));
  }

  #charge(amounts, now) {
    amounts.forEach((amount, index) => {
      if (amount > 0 && this.#limited(index)) this.#readyAt[index] = Math.max(now, this.#readyAt[index]) + this.#cost(index, amount);
    });
  }

  #limited(index) {
    return this.#rates[index] > 0;
  }

  #cost(index, amount) {
    return (amount * 1_000) / this.#rates[index];
  }
}

/** Whether a session may go on after its socket closed with this code, if the server said neither bye nor error before. */
function mayGoOn(code, spoken) {
  // The server would have said so; something between has closed, or nobody.
  if (code < 4000) return true;
  // Before its hello it is the socket that was refused, and for a reason that passes.
  return !spoken && code !== 4404 && reconnectAfter(code) !== "no";
}

function hintIn(reason) {
  const found = /reconnect_after_ms=(\d+)/.exec(reason);
  return found ? Number(found[1]) : null;
}

/** Ends a socket that is not waited for. */
function abandon(socket, code, reason) {
  try {
    // Node's ws can be cut; a browser can only try a Close, which a dead server does not get and a living one must not take for the session's end.
    if (socket.terminate) socket.terminate();
    else socket.close(code, reason);
  } catch {
    // It was closed already.
  }
}

/** Without halves of surrogate pairs, which are no Unicode and which the server refuses. */
function wellFormed(text) {
  return text.toWellFormed?.() ?? text.replace(/[\uD800-\uDFFF]/gu, "\uFFFD");
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
