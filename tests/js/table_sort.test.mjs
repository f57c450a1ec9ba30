import assert from "node:assert/strict";
import {test} from "node:test";

import {compare} from "../../playground/web/static/notebook/table_sort.js";

const sorted = (values, direction) => [...values].sort((a, b) => compare(a, b, direction));

test("values, when sorted both ways, then by number, and what is unknown stays at the end", () => {
  const values = ["10", "", "9", "1e-05", ""];
  assert.deepEqual(sorted(values, 1), ["1e-05", "9", "10", "", ""]);
  assert.deepEqual(sorted(values, -1), ["10", "9", "1e-05", "", ""]);
});

test("values, when they are Python's truth values, then False comes before True", () => {
  assert.deepEqual(sorted(["True", "False", "True"], 1), ["False", "True", "True"]);
});

test("values, when they are texts, then by letters, and what is unknown stays at the end", () => {
  assert.deepEqual(sorted(["b", "", "a", "c"], -1), ["c", "b", "a", ""]);
});
