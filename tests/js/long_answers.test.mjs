import assert from "node:assert/strict";
import {test} from "node:test";

import {isCut} from "../../playground/web/static/notebook/long_answers.js";

test("an answer, when more of it is written than its pane shows, then it is cut", () => {
  assert.equal(isCut({scrollHeight: 300, clientHeight: 182}, 0), true);
  assert.equal(isCut({scrollHeight: 183, clientHeight: 182}, 0), false);
});

test("an answer, when only the room below it does not fit, then it is not cut", () => {
  assert.equal(isCut({scrollHeight: 200, clientHeight: 182}, 28), false);
  assert.equal(isCut({scrollHeight: 230, clientHeight: 182}, 28), true);
});
