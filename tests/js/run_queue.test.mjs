import assert from "node:assert/strict";
import {test} from "node:test";

import {RunQueue} from "../../playground/web/static/notebook/run_queue.js";

test("cells, when they were asked for, then they wait until the server says that they run", () => {
  const queue = new RunQueue();
  queue.ask(["a", "b"]);
  assert.deepEqual([queue.running, queue.has("a"), queue.has("b"), queue.idle], [null, true, true, false]);
  queue.told({id: 3, running: "a", waiting: ["b"]});
  assert.deepEqual([queue.running, queue.has("a"), queue.has("b")], ["a", false, true]);
  queue.answered(["a", "b"]);
  assert.deepEqual([queue.running, queue.has("a"), queue.has("b")], ["a", false, true]);
  queue.told({id: 4, running: null, waiting: []});
  assert.equal(queue.idle, true);
});

test("the queue, when an older word of the server comes late, then the newer one stands", () => {
  const queue = new RunQueue();
  queue.told({id: 7, running: null, waiting: []});
  queue.told({id: 5, running: "a", waiting: ["b"]});
  assert.deepEqual([queue.running, queue.has("b"), queue.idle], [null, false, true]);
});

test("a cell, when the server refused it, then it does not wait", () => {
  const queue = new RunQueue();
  queue.ask(["a"]);
  queue.answered(["a"]);
  assert.deepEqual([queue.has("a"), queue.idle], [false, true]);
});
