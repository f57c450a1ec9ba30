import assert from "node:assert/strict";
import {test} from "node:test";

import {keyed, shownAt} from "../../playground/web/static/notebook/tabs.js";

test("tabs, when the row was swiped, then the pane that is shown most", () => {
  assert.deepEqual([0, 180, 200, 390, 5000, -20].map(left => shownAt(left, 390, 6)), [0, 0, 1, 1, 5, 0]);
  assert.equal(shownAt(0, 0, 6), 0); // not laid out
});

test("tabs, when a key is pressed, then the next one, round the ends, and other keys lead nowhere", () => {
  assert.deepEqual([keyed("ArrowRight", 5, 6), keyed("ArrowLeft", 0, 6)], [0, 5]);
  assert.deepEqual([keyed("Home", 3, 6), keyed("End", 3, 6), keyed("a", 3, 6)], [0, 5, null]);
});
