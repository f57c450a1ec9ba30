import assert from "node:assert/strict";
import {test} from "node:test";

import {Newest, Turns, Unsent} from "../../playground/web/static/notebook/turns.js";

// A server that answers when it is told to.
function slowServer() {
  const waiting = [], received = [];
  const send = (id, values) => new Promise((resolve, reject) => {
    received.push([id, values]);
    waiting.push({resolve, reject});
  });
  return {received, send, answer: () => waiting.shift().resolve(), refuse: () => waiting.shift().reject(new Error("no"))};
}

const soon = () => new Promise(resolve => setTimeout(resolve));

test("turns, when one fails, then the next of its cell still comes, after it", async () => {
  const turns = new Turns(), done = [];
  const first = turns.take("a", async () => { await soon(); done.push(1); throw new Error("lost"); });
  const second = turns.take("a", async () => { done.push(2); });
  turns.take("b", async () => { done.push("b"); });
  await assert.rejects(first, /lost/);
  await second;
  await turns.settled();
  assert.deepEqual(done, ["b", 1, 2]);
});

test("settings, when the server is slow, then flush ends only after the newest have arrived", async () => {
  const server = slowServer(), unsent = new Unsent(new Turns(), server.send);
  let arrived = false;
  unsent.put("a", {seed: 1});
  const first = unsent.flush("a");
  await soon();
  unsent.put("a", {seed: 2}); // while the first are on their way
  const second = unsent.flush("a").then(() => { arrived = true; });
  server.answer();
  await first;
  await soon();
  assert.equal(arrived, false);
  assert.equal(unsent.has("a"), true);
  server.answer();
  await second;
  assert.deepEqual(server.received, [["a", {seed: 1}], ["a", {seed: 2}]]);
  assert.equal(unsent.has("a"), false);
});

test("settings, when there is nothing to send, then flush only waits for what is on its way", async () => {
  const server = slowServer(), unsent = new Unsent(new Turns(), server.send);
  unsent.put("a", 1);
  const both = Promise.all([unsent.flush("a"), unsent.flush("a")]);
  await soon();
  server.answer();
  await both;
  assert.deepEqual(server.received, [["a", 1]]);
});

test("settings, when the server refuses them, then they stay unsent, and are tried again", async () => {
  const server = slowServer(), unsent = new Unsent(new Turns(), server.send);
  unsent.put("a", 1);
  const refused = assert.rejects(unsent.flush("a"), /no/);
  await soon();
  server.refuse();
  await refused;
  assert.deepEqual(unsent.ids, ["a"]);
  const again = unsent.flush("a");
  await soon();
  server.answer();
  await again;
  assert.deepEqual([server.received.length, unsent.ids], [2, []]);
  unsent.put("a", 2);
  unsent.drop("a");
  await unsent.flush("a");
  assert.equal(server.received.length, 2);
});

test("requests, when more come while one is answered, then the newest of them follows, and only its answer counts", () => {
  const sent = [], newest = new Newest(request => sent.push(request));
  newest.ask("a");
  newest.ask("b");
  newest.ask("c");
  assert.deepEqual(sent, ["a"]);
  assert.equal(newest.done(), false);
  assert.deepEqual(sent, ["a", "c"]);
  assert.equal(newest.done(), true);
  newest.ask("d");
  assert.deepEqual(sent, ["a", "c", "d"]);
});
