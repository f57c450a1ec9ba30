import assert from "node:assert/strict";
import {test} from "node:test";

import {stepped} from "../../playground/web/static/notebook/differences.js";

test("differences, when none was chosen, then the first or the last", () => {
  assert.deepEqual([stepped(3, -1, 1), stepped(3, -1, -1)], [0, 2]);
});

test("differences, when at an end, then round it", () => {
  assert.deepEqual([stepped(3, 0, 1), stepped(3, 2, 1), stepped(3, 0, -1), stepped(1, 0, 1)], [1, 0, 2, 0]);
});

test("differences, when there are none, then none", () => {
  assert.deepEqual([stepped(0, -1, 1), stepped(0, -1, -1)], [-1, -1]);
});
