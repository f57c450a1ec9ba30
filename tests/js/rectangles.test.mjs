import assert from "node:assert/strict";
import {test} from "node:test";

import {between, keyed, middle} from "../../playground/web/static/notebook/rectangles.js";

const SIZE = {width: 200, height: 100};

test("rectangle, when drawn in any direction and past the edges, then the part within", () => {
  const part = {x: 10, y: 20, width: 190, height: 60};
  assert.deepEqual(between({x: 10, y: 20}, {x: 300, y: 80}, SIZE), part);
  assert.deepEqual(between({x: 300, y: 80}, {x: 10, y: 20}, SIZE), part);
});

test("rectangle, when it is a click, then none", () => {
  assert.equal(between({x: 10, y: 20}, {x: 13, y: 90}, SIZE), null);
});

test("rectangle, when keys move and size it, then it stays within the image", () => {
  const box = middle(SIZE);
  assert.deepEqual(box, {x: 50, y: 25, width: 100, height: 50});
  assert.deepEqual(keyed("ArrowRight", false, box, SIZE), {...box, x: 60});
  assert.deepEqual(keyed("ArrowUp", false, {...box, y: 2}, SIZE), {...box, y: 0});
  assert.deepEqual(keyed("ArrowDown", true, {...box, height: 74}, SIZE), {...box, height: 75});
  assert.deepEqual(keyed("ArrowLeft", true, {...box, width: 9}, SIZE), {...box, width: 8});
  assert.equal(keyed("Enter", false, box, SIZE), null);
});
