// The client without a server: a scripted WebSocket as browsers have it (no `terminate`), and time that passes when told.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HeartwireClient } from "../heartwire.js";

const HELLO = {
  type: "hello",
  session: "secret",
  client_id: "alice",
  connection_id: "c1",
  resumed: false,
  received: 0,
  heartbeat_interval_ms: 30_000,
  heartbeat_timeout_ms: 60_000,
  resume_window_ms: 30_000,
  max_message_bytes: 65_536,
  max_unacked_messages: 1_000,
  max_unacked_bytes: 1 << 20,
  messages_per_second: 0,
  bytes_per_second: 0,
};

/** A client, its sockets, and a clock. */
function start(context, options = {}) {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let now = 5_000;
  const sockets = [];
  class Socket {
    bufferedAmount = 0;
    sent = [];
    raw = [];
    closed = null;

    constructor() {
      sockets.push(this);
    }

    send(data) {
      this.raw.push(data);
      this.sent.push({ at: now, ...JSON.parse(data) });
    }

    close(...closed) {
      this.closed ??= closed;
    }

    // The server's side.

    says(envelope) {
      this.onmessage?.({ data: JSON.stringify(envelope) });
    }

    closes(code, reason = "") {
      this.onclose?.({ code, reason });
    }

    hears(type) {
      return this.sent.filter((envelope) => envelope.type === type);
    }
  }
  const client = new HeartwireClient("ws://nowhere/", { WebSocket: Socket, clientId: "alice", random: () => 0, now: () => now, ...options });
  const told = [];
  for (const type of ["open", "resumed", "newsession", "close"]) client.on(type, (detail) => told.push([type, detail]));
  const pass = (ms) => {
    for (let i = 0; i < ms; i += 1) {
      now += 1;
      context.mock.timers.tick(1);
    }
  };
  const last = () => sockets.at(-1);
  /** The next socket opens, after whatever the client waits for. */
  const opened = () => {
    pass(1);
    last().onopen();
    return last();
  };
  const welcome = (more = {}) => {
    const socket = opened();
    socket.says({ ...HELLO, ...more });
    return socket;
  };
  context.after(() => client.close());
  return { client, told, pass, sockets, last, opened, welcome, closes: () => told.filter(([type]) => type === "close").map(([, detail]) => detail) };
}

test("a socket given up that cannot be cut is closed with the code of a lost one, and the session resumed", (context) => {
  const { pass, opened, welcome } = start(context);
  const first = welcome();
  pass(30_000 + 10_000);
  assert.deepEqual(first.closed, [4499, "Lost"]);
  assert.equal(opened().sent[0].type, "resume");
});

test("a socket given up before there was a session is not to be resumed", (context) => {
  const { pass, opened } = start(context);
  const first = opened();
  pass(15_000);
  assert.equal(first.closed[0], 1000);
  assert.equal(opened().sent[0].type, "hello");
});

test("a socket is not closed as lost when the client is closed", (context) => {
  const { client, pass, welcome } = start(context);
  const socket = welcome();
  client.close(4321, "done");
  pass(2_000);
  assert.deepEqual(socket.hears("bye").map(({ code, reason }) => [code, reason]), [[4321, "done"]]);
  assert.deepEqual(socket.closed?.[0], 1000);
});

test("a client that is closed before the server's hello says so, that no session waits", (context) => {
  const { client, welcome, opened } = start(context);
  welcome().closes(1006);
  const socket = opened();
  client.close();
  assert.deepEqual(socket.sent.map(({ type }) => type), ["resume", "bye"]);
});

test("a resume that is refused for a while is tried again until the window is over", (context) => {
  const { opened, welcome, pass, sockets, client } = start(context);
  welcome().closes(1006);
  for (const code of [1013, 4411, 4429, 1012]) {
    const socket = opened();
    assert.equal(socket.sent[0].type, "resume", code);
    socket.closes(code);
  }
  assert.equal(welcome({ resumed: true }).sent[0].type, "resume");
  sockets.at(-1).closes(1006);
  pass(1);
  // The window counts from what the server may notice last.
  pass(90_000);
  assert.equal(client.state, "connecting");
  assert.equal(opened().sent[0].type, "hello");
});

test("after a refusal it waits longer", (context) => {
  const { opened, welcome, closes } = start(context, { random: () => 0.5, firstMs: 100 });
  welcome().closes(1006);
  const { reconnectInMs } = closes()[0];
  assert.equal(reconnectInMs, 50);
  for (let i = 0; i < 50; i += 1) context.mock.timers.tick(1);
  opened().closes(1013);
  assert.equal(closes()[1].reconnectInMs, 400);
});

test("a bye ends the session", (context) => {
  const { welcome } = start(context);
  const socket = welcome();
  socket.says({ type: "bye", code: 1012, reason: "" });
  socket.closes(1012);
  assert.equal(welcome().sent[0].type, "hello");
});

test("a session that the server does not know is begun anew", (context) => {
  const { opened, welcome, told } = start(context);
  welcome().closes(1006);
  const socket = opened();
  assert.equal(socket.sent[0].type, "resume");
  socket.says({ type: "error", code: "SESSION_UNKNOWN", message: "" });
  socket.closes(4404);
  assert.equal(welcome().sent[0].type, "hello");
  assert.equal(told.at(-1)[0], "newsession");
});

test("a bye whose Close is lost counts as that Close", (context) => {
  const { welcome, client, closes } = start(context);
  const socket = welcome();
  socket.says({ type: "bye", code: 4000, reason: "enough" });
  socket.closes(1006);
  assert.equal(client.state, "closed");
  assert.deepEqual([closes()[0].code, closes()[0].reason], [4000, "enough"]);
});

test("the resumes of a session are numbered, and those of another anew", (context) => {
  const { opened, welcome } = start(context);
  welcome().closes(1006);
  const attempts = [];
  for (let i = 0; i < 3; i += 1) {
    const socket = opened();
    attempts.push(socket.sent[0].attempt);
    if (i === 1) socket.says({ ...HELLO, resumed: true });
    socket.closes(1006);
  }
  assert.deepEqual(attempts, [1, 2, 3]);
  const unknown = opened();
  unknown.says({ type: "error", code: "SESSION_UNKNOWN", message: "" });
  unknown.closes(4404);
  welcome().closes(1006);
  assert.equal(opened().sent[0].attempt, 1);
});

test("a session that a late resume of our own took over is taken back, once for each", (context) => {
  const { opened, welcome, pass, client, closes } = start(context);
  welcome().closes(1006);
  const late = opened();
  pass(15_000);
  assert.deepEqual(late.closed, [4499, "Lost"]);
  const second = welcome({ resumed: true });
  second.says({ type: "bye", code: 4409, reason: "Replaced by a newer connection" });
  second.closes(4409);
  assert.equal(client.state, "waiting");
  const third = welcome({ resumed: true });
  assert.deepEqual([third.sent[0].type, third.sent[0].attempt], ["resume", 3]);
  third.closes(4409, "Replaced by a newer connection");
  assert.equal(client.state, "closed");
  assert.equal(closes().at(-1).code, 4409);
});

test("a replacement that a resume of our own does not explain after all stays one", (context) => {
  const { opened, welcome, client, closes } = start(context);
  welcome().closes(1006);
  opened().closes(1006);
  welcome({ resumed: true }).closes(4409, "Replaced by a newer connection");
  const socket = opened();
  assert.equal(socket.sent[0].type, "resume");
  socket.says({ type: "error", code: "SESSION_UNKNOWN", message: "" });
  socket.closes(4404);
  assert.equal(client.state, "closed");
  assert.deepEqual([closes().at(-1).code, closes().at(-1).final], [4409, true]);
});

test("backing off begins anew after a socket that was well, however it ended, and only then", (context) => {
  const { welcome, pass, last, closes } = start(context, { random: () => 0.999, firstMs: 1_000 });
  const waits = () => closes().map(({ reconnectInMs }) => Math.round(reconnectInMs / 999));
  welcome();
  pass(40_000);
  // Lost by itself, after 40 s that were well.
  assert.deepEqual(waits(), [1]);
  pass(1_000);
  // Three that do not get as far as a hello, however long they try.
  for (const wait of [2, 4, 8]) {
    pass(12_000);
    last().closes(1006);
    assert.equal(waits().at(-1), wait);
    pass(wait * 1_000);
  }
  // One that is lost soon after its hello, and one that is well.
  welcome({ resumed: true }).closes(1006);
  assert.equal(waits().at(-1), 16);
  pass(16_000);
  welcome({ resumed: true });
  pass(40_000);
  assert.equal(waits().at(-1), 1);
});

test("heartbeats are sent every interval, whenever they are answered", (context) => {
  const { welcome, pass } = start(context);
  const socket = welcome();
  const began = 5_001;
  for (let i = 0; i < 5; i += 1) {
    pass(30_000);
    socket.says({ type: "heartbeat", received: 0 });
  }
  assert.deepEqual(socket.hears("heartbeat").map(({ at }) => at - began), [30_000, 60_000, 90_000, 120_000, 150_000]);
});

test("heartbeats follow what a backend set", (context) => {
  const { welcome, pass } = start(context);
  const socket = welcome();
  const began = 5_001;
  pass(5_000);
  socket.says({ type: "heartbeat", received: 0, heartbeat_interval_ms: 8_000, heartbeat_timeout_ms: 16_000 });
  for (let i = 0; i < 13; i += 1) {
    pass(1_000);
    socket.says({ type: "ack", received: 0 });
  }
  socket.says({ type: "heartbeat", received: 0, heartbeat_interval_ms: 20_000 });
  pass(20_000);
  assert.deepEqual(socket.hears("heartbeat").map(({ at }) => at - began), [8_000, 16_000, 36_000]);
});

test("no more than a second's worth of the rate is on its way, however long the server is silent", (context) => {
  const { client, welcome, pass } = start(context);
  const socket = welcome({ messages_per_second: 50, heartbeat_interval_ms: 600_000 });
  for (let i = 0; i < 200; i += 1) client.send("x");
  pass(5_000);
  assert.equal(socket.hears("message").length, 50);
  // All that was on its way came at once just now; from here on the rate.
  socket.says({ type: "ack", received: 50 });
  pass(100);
  assert.equal(socket.hears("message").length, 55);
});

test("a server that announces no rate is spared by the default one", (context) => {
  const { client, welcome } = start(context);
  const socket = welcome({ messages_per_second: undefined, bytes_per_second: undefined });
  for (let i = 0; i < 300; i += 1) client.send("x");
  assert.equal(socket.hears("message").length, 100);
});

test("a message that costs more than a second waits until nothing is on its way and nothing owed", (context) => {
  const { client, welcome, pass } = start(context);
  const socket = welcome({ bytes_per_second: 10_000, heartbeat_interval_ms: 600_000 });
  client.send("x".repeat(4_900));
  client.send("x".repeat(20_000));
  client.send("x");
  pass(3_000);
  assert.equal(socket.hears("message").length, 1);
  socket.says({ type: "ack", received: 1 });
  pass(480);
  assert.equal(socket.hears("message").length, 1);
  pass(40);
  assert.equal(socket.hears("message").length, 2);
  pass(3_000);
  assert.equal(socket.hears("message").length, 2);
  socket.says({ type: "ack", received: 2 });
  pass(2_100);
  assert.equal(socket.hears("message").length, 3);
});

test("what is sent again after a resume is paced with what went before it", (context) => {
  const { client, welcome, pass } = start(context);
  const rate = { messages_per_second: 50 };
  const first = welcome(rate);
  for (let i = 0; i < 60; i += 1) client.send("x");
  assert.equal(first.hears("message").length, 50);
  first.closes(1006);
  const second = welcome({ ...rate, resumed: true });
  // All fifty may have come just before.
  assert.equal(second.hears("message").length, 0);
  pass(1_000);
  assert.deepEqual(second.hears("message").map(({ seq }) => seq), Array.from({ length: 50 }, (_, i) => i + 1));
});

test("a final close tells what is uncertain and what was never sent", (context) => {
  for (const [code, word] of [
    [4409, "bye"],
    [4000, "bye"],
    [1002, "error"],
  ]) {
    const { client, welcome, closes } = start(context);
    const bytes = Uint8Array.of(1);
    const socket = welcome({ messages_per_second: 3 });
    for (const data of ["acknowledged", "on its way", bytes, "queued"]) client.send(data);
    socket.says({ type: "ack", received: 1 });
    socket.says({ type: word, code: word === "bye" ? code : "SEQUENCE_GAP", reason: "", message: "" });
    socket.closes(code);
    const [{ final, uncertain, unsent }] = closes();
    assert.deepEqual({ final, uncertain, unsent }, { final: true, uncertain: ["on its way", bytes], unsent: ["queued"] });
    context.mock.timers.reset();
  }
  const { client, closes } = start(context);
  client.send("too early");
  client.close();
  assert.deepEqual([closes()[0].uncertain, closes()[0].unsent], [[], ["too early"]]);
});

test("a time of day that is set back changes nothing", (context) => {
  const before = Date.now;
  context.after(() => (Date.now = before));
  const { client, welcome, pass } = start(context, { now: undefined });
  assert.ok(client);
  Date.now = () => {
    throw new Error("asked for the time of day");
  };
  const socket = welcome({ messages_per_second: 50 });
  for (let i = 0; i < 60; i += 1) client.send("x");
  socket.says({ type: "ack", received: 50 });
  pass(10);
  socket.closes(1006);
  assert.equal(client.state, "waiting");
});

test("halves of surrogate pairs are replaced where strings cannot do it themselves", (context) => {
  const { toWellFormed } = String.prototype;
  context.after(() => toWellFormed && Object.defineProperty(String.prototype, "toWellFormed", { value: toWellFormed, configurable: true, writable: true }));
  for (const native of [true, false]) {
    if (!native) delete String.prototype.toWellFormed;
    const { client, welcome } = start(context);
    const socket = welcome();
    client.send("a\uD800b\uDC00c\u{1F600}d\uD83D");
    assert.equal(socket.hears("message")[0].text, "a\uFFFDb\uFFFDc\u{1F600}d\uFFFD");
    assert.doesNotMatch(socket.raw.at(-1), /\\ud/i);
    context.mock.timers.reset();
  }
});

test("a Close of something between is no end of the session", (context) => {
  for (const code of [1000, 1001, 1005, 1011, 1012, 1014]) {
    const { welcome, opened, closes } = start(context);
    welcome().closes(code);
    assert.equal(closes()[0].final, false, code);
    assert.equal(opened().sent[0].type, "resume", code);
    context.mock.timers.reset();
  }
});

test("one that calls for no other attempt is passed over once, until all was well for a while", (context) => {
  const { welcome, closes, pass } = start(context);
  welcome().closes(1009);
  const second = welcome({ resumed: true });
  pass(10_000);
  second.closes(1009);
  welcome({ resumed: true }).closes(1009);
  assert.deepEqual(closes().map(({ final }) => final), [false, false, true]);
});

test("codes of the server's own end the session", (context) => {
  for (const code of [4404, 4408, 4412, 4413, 4429]) {
    const { welcome, opened } = start(context);
    welcome().closes(code);
    assert.equal(opened().sent[0].type, "hello", code);
    context.mock.timers.reset();
  }
});

test("a socket is greeted once, however often it says that it is open", (context) => {
  const { client, opened, welcome, pass } = start(context);
  const first = opened();
  first.onopen();
  first.says(HELLO);
  first.onopen();
  pass(10);
  assert.deepEqual(first.sent.map(({ type }) => type), ["hello"]);
  first.closes(1006);
  const second = opened();
  second.onopen();
  second.says({ ...HELLO, resumed: true });
  second.onopen();
  assert.deepEqual(second.sent.map(({ type }) => type), ["resume"]);
  assert.equal(client.state, "open");
  second.closes(1006);
  assert.equal(welcome({ resumed: true }).sent[0].attempt, 2);
});

test("a second hello on a socket begins nothing and forgets nothing", (context) => {
  for (const late of [{}, { session: "other", connection_id: "c2" }, { resumed: true, received: 9 }]) {
    const { client, told, welcome, opened, pass } = start(context);
    const heard = [];
    client.on("message", ({ data }) => heard.push(data));
    const socket = welcome();
    client.send("first");
    client.send("second");
    socket.says({ type: "message", seq: 1, text: "one" });
    socket.says({ type: "ack", received: 1 });
    socket.says({ ...HELLO, ...late });
    assert.deepEqual(told.map(([type]) => type), ["open"]);
    assert.equal(client.pending, 1, "what is not acknowledged is kept");
    socket.says({ type: "message", seq: 1, text: "one" });
    socket.says({ type: "message", seq: 2, text: "two" });
    assert.deepEqual(heard, ["one", "two"]);
    client.send("third");
    pass(1);
    assert.deepEqual(socket.hears("message").map(({ seq, text }) => [seq, text]), [[1, "first"], [2, "second"], [3, "third"]]);
    // It is the session of the first that goes on.
    socket.closes(1006);
    const { type, session, received } = opened().sent[0];
    assert.deepEqual({ type, session, received }, { type: "resume", session: "secret", received: 2 });
    context.mock.timers.reset();
  }
});

test("an answer that comes after its socket was given up is nobody's", (context) => {
  const { told, opened, last, pass } = start(context);
  const first = opened();
  const late = first.onmessage;
  pass(15_000);
  assert.deepEqual(told.map(([type]) => type), ["close"]);
  const second = opened();
  assert.notEqual(first, last());
  // As from a queue of events that was filled before: listeners that were taken off may be called once more.
  late({ data: JSON.stringify({ ...HELLO, session: "late", connection_id: "c0" }) });
  first.says({ ...HELLO, session: "late", connection_id: "c0" });
  assert.deepEqual(told.map(([type]) => type), ["close"]);
  assert.deepEqual(second.sent.map(({ type }) => type), ["hello"]);
  second.says(HELLO);
  assert.deepEqual(told.map(([type]) => type), ["close", "open"]);
  second.closes(1006);
  assert.equal(opened().sent[0].session, "secret");
});

test("a session that a late hello of our own replaced is begun anew, once for each, and others' stay replacements", (context) => {
  for (const [waitMs, final] of [[0, false], [18_000, false], [20_000, true]]) {
    const { client, welcome, opened, pass, closes } = start(context);
    opened().closes(1006);
    const second = welcome();
    client.send("on its way");
    pass(waitMs);
    const replaced = (socket) => {
      socket.says({ type: "bye", code: 4409, reason: "Replaced by a newer connection" });
      socket.closes(4409, "Replaced by a newer connection");
    };
    replaced(second);
    assert.equal(closes().at(-1).final, final, `after ${waitMs} ms`);
    if (!final) {
      const third = opened();
      assert.equal(third.sent[0].type, "hello");
      third.says({ ...HELLO, session: "next" });
      replaced(third);
      assert.equal(closes().at(-1).final, true);
    }
    assert.equal(client.state, "closed");
    context.mock.timers.reset();
  }
});

test("a hello that was refused or never sent leaves nothing behind that could replace a session", (context) => {
  for (const code of [4411, 1006]) {
    const { welcome, pass, last, opened, closes } = start(context);
    if (code === 1006) {
      pass(1);
      last().closes(code);
    } else {
      opened().closes(code);
    }
    welcome().closes(4409);
    assert.equal(closes().at(-1).final, true);
    context.mock.timers.reset();
  }
});
