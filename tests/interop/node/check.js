// A backend in Node: subscribe, list, send, disconnect, for a client `alice` that is connected already.
//   node check.js ADDRESS PROTO_DIRECTORY
// Exits with 0 and prints nothing if all is as it should be. Whoever starts it sees to the time limit.
"use strict";

const assert = require("node:assert/strict");
const { once } = require("node:events");
const { readdirSync } = require("node:fs");
const { join } = require("node:path");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos] = process.argv.slice(2);
const files = readdirSync(join(protos, "heartwire/v1")).map((file) => `heartwire/v1/${file}`);
// As strings, because a generation does not fit into a number of JavaScript.
const options = { includeDirs: [protos], longs: String, enums: String, oneofs: true };
const { v1 } = grpc.loadPackageDefinition(loader.loadSync(files, options)).heartwire;
const target = { clientId: "alice" };

function unary(client, method, request) {
  return promisify(client[method].bind(client))(request, { deadline: Date.now() + 5_000 });
}

async function main() {
  const [events, connections, messages] = [v1.EventService, v1.ConnectionService, v1.MessageService].map(
    (Client) => new Client(address, grpc.credentials.createInsecure()),
  );

  const stream = events.Subscribe({ snapshot: {} });
  const responses = stream[Symbol.asyncIterator]();
  const next = async (kind) => {
    for (;;) {
      const { value } = await responses.next();
      const found = value.events?.find((event) => event.kind === kind && event.clientId === "alice");
      if (found) return found;
    }
  };
  const connected = await next("connected");
  assert.equal(connected.connected.state, "CONNECTION_STATE_ALIVE");

  const listed = await unary(connections, "ListConnections", {});
  assert.deepEqual(listed.connections.map((connection) => connection.generation), [connected.generation]);

  const sent = await unary(messages, "Send", { target, text: "hi from Node", receipt: "STAGE_WRITTEN" });
  assert.deepEqual(sent.deliveries.map((delivery) => delivery.stage), ["STAGE_WRITTEN"]);

  const sends = messages.SendStream();
  sends.write({ sends: [{ tag: 7, request: { target, text: "streamed from Node" } }] });
  sends.end();
  const [{ outcomes }] = await once(sends, "data");
  assert.deepEqual(outcomes.map(({ tag, code }) => [tag, code ?? 0]), [["7", 0]]);

  const ended = await unary(connections, "Disconnect", { target, code: 4000, reason: "enough" });
  assert.deepEqual(ended.connectionIds, [connected.connectionId]);
  const { disconnected } = await next("disconnected");
  assert.deepEqual([disconnected.cause, disconnected.closeCode], ["DISCONNECT_CAUSE_KICKED", 4000]);

  await assert.rejects(unary(messages, "Send", { target, text: "hi" }), { code: grpc.status.NOT_FOUND });

  // An iterator that is left waiting throws at cancel, so it is told first.
  stream.on("error", () => {});
  stream.cancel();
  for (const client of [events, connections, messages]) client.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
