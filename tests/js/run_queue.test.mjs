import assert from "node:assert/strict";
import {test} from "node:test";

import {RunQueue} from "../../playground/web/static/notebook/run_queue.js";

test("cells, when they are added twice or run already, then each runs once, in order", () => {
  const queue = new RunQueue();
  for (const id of ["a", "b", "a", "c", "b"]) queue.add(id);
  assert.equal(queue.next(), "a");
  queue.add("a");
  assert.equal(queue.next(), null); // one at a time
  assert.deepEqual([queue.has("a"), queue.has("b")], [false, true]);
  queue.ended("b"); // it does not run
  assert.equal(queue.running, "a");
  queue.ended("a");
  assert.equal(queue.next(), "b");
  queue.remove("c");
  queue.ended("b");
  assert.equal(queue.next(), null);
});

test("the queue, when it is cleared, then the cell that runs goes on", () => {
  const queue = new RunQueue();
  queue.add("a");
  queue.add("b");
  queue.next();
  queue.clear();
  assert.deepEqual([queue.running, queue.has("b")], ["a", false]);
});
