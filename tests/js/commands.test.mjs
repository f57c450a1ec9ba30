import assert from "node:assert/strict";
import {test} from "node:test";

import {found, keyed} from "../../playground/web/static/notebook/commands.js";

const COMMANDS = [
  {name: "Rerun", group: "notebook"}, {name: "Run cell", group: "cell 2"}, {name: "Export as JSON", group: "cell 2"},
];
const names = query => found(query, COMMANDS).map(command => command.name);

test("commands, when nothing is typed, then all in their order", () => {
  assert.deepEqual(names(" "), COMMANDS.map(command => command.name));
});

test("commands, when words are typed, then those with all of them, beginnings first", () => {
  assert.deepEqual(names("run"), ["Run cell", "Rerun"]);
  assert.deepEqual(names("json EXP"), ["Export as JSON"]);
  assert.deepEqual(names("cell 2 run"), ["Run cell"]);
  assert.deepEqual(names("nothing"), []);
});

test("commands, when arrows are pressed, then round the ends", () => {
  assert.deepEqual([keyed("ArrowDown", 2, 3), keyed("ArrowUp", 0, 3), keyed("PageDown", 0, 3)], [0, 2, 2]);
  assert.deepEqual([keyed("a", 0, 3), keyed("ArrowDown", 0, 0)], [null, null]);
});
