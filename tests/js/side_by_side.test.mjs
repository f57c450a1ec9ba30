import assert from "node:assert/strict";
import {test} from "node:test";

import {matching} from "../../playground/web/static/notebook/side_by_side.js";

const text = (scrollTop, scrollHeight) => ({scrollTop, scrollHeight, clientHeight: 100});

test("scrolling, when one answer is longer, then both are at the same share", () => {
  assert.equal(matching(text(50, 200), text(0, 1100)), 500);
  assert.equal(matching(text(1000, 1100), text(0, 200)), 100);
});

test("scrolling, when one of them cannot, then the other stays at its beginning", () => {
  assert.deepEqual([matching(text(0, 80), text(9, 900)), matching(text(50, 200), text(0, 100))], [0, 0]);
});
