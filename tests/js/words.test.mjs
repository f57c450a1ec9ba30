import assert from "node:assert/strict";
import {test} from "node:test";

import {fileSize, saved} from "../../playground/web/static/words.js";

test("a size, when it reaches a gigabyte, then its unit changes", () => {
  assert.equal(fileSize(7_043_000), "7.0 MB");
  assert.equal(fileSize(999_400_000), "999.4 MB");
  assert.equal(fileSize(999_500_000), "1.00 GB");
  assert.equal(fileSize(3_285_000_000), "3.29 GB");
});

test("the time since a save, when it grows, then it is said in larger units, and never below zero", () => {
  const said = [-2000, 0, 4400, 4600, 89_000, 91_000, 3_600_000].map(saved);
  assert.deepEqual(said, [
    "saved just now", "saved just now", "saved just now", "saved 5 s ago", "saved 89 s ago", "saved 2 min ago",
    "saved 60 min ago",
  ]);
});
