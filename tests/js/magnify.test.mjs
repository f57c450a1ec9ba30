import assert from "node:assert/strict";
import {test} from "node:test";

import {fitting, pinched, scaled, turned} from "../../playground/web/static/notebook/magnify.js";

test("image, when it is larger than its room, then the whole of it is seen first", () => {
  assert.equal(fitting({width: 4000, height: 1000}, {width: 1000, height: 600}), .25);
});

test("image, when it is small, then enlarged, but not to the room", () => {
  assert.equal(fitting({width: 16, height: 16}, {width: 1000, height: 600}), 4);
});

test("scale, when enlarged or reduced too far, then kept from the whole image to 16 pixels for one", () => {
  assert.equal(scaled(.25, 2, .25), .5);
  assert.equal(scaled(.25, .5, .25), .25);
  assert.equal(scaled(12, 2, .25), 16);
  assert.equal(scaled(4, .1, 4), 1); // a small image down to its own pixels
});

test("wheel, when turned away, then larger, and back again the same", () => {
  const away = turned({deltaY: -100, deltaMode: 0}), back = turned({deltaY: 100, deltaMode: 0});
  assert.ok(away > 1);
  assert.ok(Math.abs(away * back - 1) < 1e-9);
});

test("fingers, when one moves away, then larger around their middle", () => {
  const pinch = pinched([{x: 0, y: 0}, {x: 10, y: 0}], [{x: 0, y: 0}, {x: 30, y: 0}]);
  assert.deepEqual(pinch, {by: 3, at: {x: 15, y: 0}, dx: 10, dy: 0});
});
