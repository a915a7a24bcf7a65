import assert from "node:assert/strict";
import { test } from "node:test";
import { HeartwireClient, backoff, reconnectAfter } from "../heartwire.js";
import { BrowserSocket, eventually, startClient, startNetwork, startNode, strandable } from "./world.js";

/** A node, a network and a client, taken down when the test is over. */
async function world(context, settings, options) {
  let node = await startNode(settings);
  const network = await startNetwork(() => node.ws);
  const client = startClient(network.address, options);
  context.after(async () => {
    client.close();
    await network.stop();
    await node.stop("SIGKILL");
  });
  await eventually("the client is open", () => client.state === "open");
  return { node, network, client, replace: (next) => (node = next) };
}

test("messages go both ways, texts and bytes, and are acknowledged", async (context) => {
  const { node, client } = await world(context);
  const [[first, about]] = client.told;
  assert.equal(first, "open");
  assert.equal(about.clientId, "alice");
  client.send("é\u2028\"");
  client.send(Uint8Array.of(0, 255));
  await eventually("both are acknowledged", () => client.pending === 0 && client.count("drain") > 0);
  await eventually("both came", () => node.backend.seen.length === 3);
  assert.equal(node.backend.seen[1].messageReceived.text, "é\u2028\"");
  assert.deepEqual([...node.backend.seen[2].messageReceived.binary], [0, 255]);
  const answer = await node.backend.send("alice", "hi", { receipt: "STAGE_ACKED" });
  assert.equal(answer.deliveries[0].stage, "STAGE_ACKED");
  const { text, ...bytes } = { text: undefined, binary: Buffer.from([1, 0, 254]) };
  await node.backend.send("alice", text, { ...bytes, receipt: "STAGE_ACKED" });
  assert.deepEqual(client.heard.map(({ data }) => (typeof data === "string" ? data : [...data])), ["hi", [1, 0, 254]]);
});

test("however often its sockets are cut, everything comes once and in order both ways", async (context) => {
  const { node, network, client } = await world(context);
  const sent = [];
  let cuts = 0;
  for (let i = 0; i < 300; i += 1) {
    client.send(`up ${i}`);
    sent.push(node.backend.send("alice", `down ${i}`));
    if (i % 40 === 20) {
      await new Promise((resolve) => setTimeout(resolve, i % 3));
      network.cut();
      cuts += 1;
      await eventually("it resumes", () => client.count("resumed") === cuts && client.state === "open");
    }
    if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(sent);
  await eventually("everything came", () => client.heard.length >= 300 && node.backend.said().length >= 300);
  const numbers = Array.from({ length: 300 }, (_, i) => i);
  assert.deepEqual(node.backend.said(), numbers.map((i) => `up ${i}`));
  // Calls of their own may pass one another; each message comes once.
  assert.deepEqual(client.heard.map(({ data }) => data).sort(), numbers.map((i) => `down ${i}`).sort());
  assert.deepEqual(client.heard.map(({ seq }) => seq), numbers.map((i) => i + 1));
  assert.deepEqual([client.count("open"), client.count("newsession"), client.count("resumed")], [1, 0, cuts]);
  assert.equal(node.backend.told().filter((kind) => kind === "connected" || kind === "disconnected").length, 1);
});

test("a server that is not heard any more is noticed by a heartbeat, and the session goes on elsewhere", async (context) => {
  const settings = { "heartbeat.interval": "400ms", "heartbeat.timeout": "20s" };
  const { node, network, client } = await world(context, settings);
  network.goSilent();
  client.send("said into the dark");
  await eventually("it resumes", () => client.count("resumed") === 1);
  await eventually("what was said comes", () => node.backend.said().length === 1);
  const lost = client.told.find(([type]) => type === "close")[1];
  assert.deepEqual([lost.code, lost.final], [1006, false]);
});

test("a socket that cannot be cut, as in browsers, is given up for another as well", async (context) => {
  const settings = { "heartbeat.interval": "400ms", "heartbeat.timeout": "20s" };
  const { node, network, client } = await world(context, settings, { WebSocket: BrowserSocket });
  network.goSilent();
  client.send("said into the dark");
  await eventually("it resumes", () => client.count("resumed") === 1);
  await eventually("what was said comes", () => node.backend.said().length === 1);
  network.cut();
  await eventually("it resumes again", () => client.count("resumed") === 2);
  assert.equal(client.count("newsession"), 0);
});

test("a socket that is given up while it is well leaves its session to be resumed, and without a window ends it", async (context) => {
  for (const window of ["30s", "0s"]) {
    const { control, WebSocket } = strandable();
    const settings = { "heartbeat.interval": "400ms", "heartbeat.timeout": "20s", "ws.resume_window": window };
    const { node, client } = await world(context, settings, { WebSocket });
    const kept = window !== "0s";
    control.deaf = true;
    // Its Close arrives: without it nobody would learn of the loss so soon.
    await eventually("the server knows", () => node.backend.told().includes(kept ? "suspected" : "disconnected"));
    control.deaf = false;
    await eventually("it goes on", () => client.count(kept ? "resumed" : "newsession") > 0);
    if (kept) {
      assert.ok(!node.backend.told().includes("disconnected"));
      await eventually("that is told", () => node.backend.told().includes("recovered"));
    } else {
      assert.equal(node.backend.seen.find(({ kind }) => kind === "disconnected").disconnected.closeCode, 4499);
    }
    client.close();
  }
});

test("a resume that comes late, after a later one, does no harm", async (context) => {
  const { control, WebSocket } = strandable();
  const { node, network, client } = await world(context, {}, { WebSocket });
  control.strand = true;
  network.cut();
  await eventually("the later one resumes", () => client.count("resumed") === 1);
  control.arrive?.();
  await eventually("the late one is turned away", () => control.ended !== null);
  assert.equal(control.ended, 4409);
  client.send("all is well");
  await eventually("it is heard", () => node.backend.said().length === 1);
  assert.deepEqual([client.state, client.count("resumed"), client.count("newsession")], ["open", 1, 0]);
  assert.ok(!node.backend.told().includes("disconnected"));
});

test("a hello that comes late, after a later one, costs a session and not the client", async (context) => {
  const node = await startNode();
  const { control, WebSocket } = strandable();
  control.strand = true;
  const client = startClient(node.ws, { WebSocket });
  context.after(async () => {
    client.close();
    await node.stop("SIGKILL");
  });
  await eventually("the later one is answered", () => client.state === "open");
  control.arrive();
  await eventually("it has a session again", () => client.count("newsession") === 1);
  await eventually("the late one is replaced in turn", () => control.ended === 4409);
  client.send("all is well");
  await eventually("it is heard", () => node.backend.said().length === 1);
  assert.ok(client.told.every(([type, detail]) => type !== "close" || !detail.final));
  const kinds = node.backend.seen.map(({ kind }) => kind).filter((kind) => kind !== "messageReceived");
  assert.deepEqual(kinds, ["connected", "disconnected", "connected", "disconnected", "connected"]);
});

test("what a backend makes of the heartbeats is kept to at once", async (context) => {
  const { control, WebSocket } = strandable();
  const { node, client } = await world(context, { "heartbeat.interval": "60s", "heartbeat.timeout": "120s" }, { WebSocket });
  const changed = { interval: { seconds: 0, nanos: 200e6 }, timeout: { seconds: 2, nanos: 0 } };
  await node.backend.updateHeartbeat("alice", changed);
  // For longer than the timeout: a client that kept to the old settings would be gone by then.
  await eventually("it beats, or is gone", () => control.beats >= 12 || client.count("close") > 0);
  assert.ok(!node.backend.told().includes("disconnected"));
  assert.equal(client.count("close"), 0);
});

test("after a restart of the server a new session begins and says what is uncertain", async (context) => {
  for (const resendUncertain of [false, true]) {
    const { node, network, client, replace } = await world(context, { "shutdown.reconnect_jitter": "50ms" }, { resendUncertain });
    network.goSilent();
    client.send("on the way");
    await new Promise((resolve) => setTimeout(resolve, 50));
    await node.stop();
    network.cut();
    await eventually("it noticed", () => client.state !== "open");
    client.send("queued");
    const next = await startNode();
    replace(next);
    context.after(() => next.stop("SIGKILL"));
    await eventually("a new session begins", () => client.count("newsession") === 1);
    assert.deepEqual(client.told.find(([type]) => type === "newsession")[1].uncertain, ["on the way"]);
    await eventually("the rest comes", () => client.pending === 0);
    await eventually("and is told", () => next.backend.said().at(-1) === "queued");
    assert.deepEqual(next.backend.said(), resendUncertain ? ["on the way", "queued"] : ["queued"]);
    client.close();
  }
});

test("a drain is left with a bye and come back from after its hint", async (context) => {
  const { node, client, replace } = await world(context, { "shutdown.reconnect_jitter": "50ms" });
  const next = await startNode();
  replace(next);
  context.after(() => next.stop("SIGKILL"));
  await node.stop();
  await eventually("a new session begins", () => client.count("newsession") === 1);
  const { code, final } = client.told.find(([type]) => type === "close")[1];
  assert.deepEqual([code, final], [1012, false]);
});

test("a session whose window is over is begun anew", async (context) => {
  const { node, network, client } = await world(context, { "ws.resume_window": "100ms" });
  // Nothing of a new socket reaches the server before the window is over.
  network.hold();
  network.cut();
  await eventually("it is gone", () => node.backend.told().includes("disconnected"));
  network.release();
  await eventually("a new session begins", () => client.count("newsession") === 1);
  await eventually("that is told", () => node.backend.told().length >= 4);
  assert.deepEqual(node.backend.told(), ["connected", "suspected", "disconnected", "connected"]);
});

test("one that a backend disconnects stays away, and a full queue and a closed client take nothing", async (context) => {
  const { node, client } = await world(context, {}, { maxQueue: 3 });
  await node.backend.disconnect("alice", 4000, "enough");
  await eventually("it is closed", () => client.state === "closed");
  assert.deepEqual(client.told.at(-1), ["close", { code: 4000, reason: "enough", final: true, uncertain: [], unsent: [] }]);
  assert.throws(() => client.send("x"), { code: "CLOSED" });
  const alone = new HeartwireClient("ws://127.0.0.1:9/", { WebSocket: class { send() {} close() {} }, maxQueue: 3, maxQueueBytes: 200 });
  for (let i = 0; i < 3; i += 1) alone.send("x");
  assert.throws(() => alone.send("x"), { code: "QUEUE_FULL" });
  assert.equal(alone.pending, 3);
  alone.close();
});

test("a close of the client ends its session at once", async (context) => {
  const { node, client } = await world(context);
  client.send("last");
  await eventually("it is acknowledged", () => client.pending === 0);
  client.close(4321, "done");
  await eventually("it is gone", () => node.backend.told().includes("disconnected"));
  const { disconnected } = node.backend.seen.at(-1);
  assert.deepEqual([disconnected.cause, disconnected.closeCode, disconnected.closeReason], ["DISCONNECT_CAUSE_CLIENT_CLOSED", 4321, "done"]);
});

test("it sends no faster than the server reads", async (context) => {
  const { node, client } = await world(context, { "limits.messages_per_second": 200 });
  for (let i = 0; i < 500; i += 1) client.send(`${i}`);
  await eventually("all are acknowledged", () => client.pending === 0);
  // A backend may be told later than the client.
  await eventually("all came", () => node.backend.said().length >= 500);
  assert.equal(node.backend.said().length, 500);
  assert.equal(client.count("close"), 0);
});

test("a stall of the network is followed by no more at once than the server takes", async (context) => {
  const { node, network, client } = await world(context, { "limits.messages_per_second": 100 }, { maxQueue: 2_000 });
  const fill = setInterval(() => client.pending < 1_000 && client.send("x"), 2);
  context.after(() => clearInterval(fill));
  await new Promise((resolve) => setTimeout(resolve, 1_200));
  network.hold();
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  network.release();
  clearInterval(fill);
  const had = node.backend.said().length;
  await eventually("it goes on", () => node.backend.said().length > had + 400);
  assert.equal(client.count("close"), 0);
});

test("messages that cost more than a second of the rate go one by one", async (context) => {
  const { client } = await world(context, { "limits.bytes_per_second": "20KiB", "ws.max_message": "64KiB" });
  for (let i = 0; i < 3; i += 1) client.send("x".repeat(60_000));
  await eventually("all are acknowledged", () => client.pending === 0);
  assert.equal(client.count("close"), 0);
});

test("a listener that throws is seen and ends nothing", async (context) => {
  const { node, client } = await world(context);
  const thrown = [];
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => thrown.push(error.message));
  client.on("message", () => {
    throw new Error("as a test wants it");
  });
  await node.backend.send("alice", "1", { receipt: "STAGE_ACKED" });
  await eventually("it was seen", () => thrown.length === 1);
  process.removeAllListeners("uncaughtException");
  before.forEach((listener) => process.on("uncaughtException", listener));
  assert.equal(client.state, "open");
});

test("close codes mean what the protocol says", () => {
  for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 3000, 4000, 4400, 4401, 4403, 4409]) assert.equal(reconnectAfter(code), "no", code);
  for (const code of [1001, 1005, 1006, 1012, 4404, 4408, 4411, 4412, 4413]) assert.equal(reconnectAfter(code), "yes", code);
  for (const code of [1011, 1013, 4410, 4429]) assert.equal(reconnectAfter(code), "backoff", code);
});

test("the waits are anything up to a bound that doubles, and end at the longest", () => {
  const bounds = { firstMs: 500, longestMs: 30_000 };
  assert.equal(backoff(0, bounds, () => 0), 0);
  assert.equal(backoff(0, bounds, () => 1), 500);
  assert.equal(backoff(3, bounds, () => 0.5), 2_000);
  assert.equal(backoff(1_000, bounds, () => 1), 30_000);
});
