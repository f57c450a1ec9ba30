import assert from "node:assert/strict";
import {test} from "node:test";

import {fragment, parsed} from "../../playground/web/static/notebook/fragments.js";

const WORD = {cell: "c1", run: 2, block: 0, variant: "fam/a:F16+mmproj-F16 & q8_0", word: 37};

test("fragment, when written and read, then the same place", () => {
  for (const target of [WORD, {...WORD, word: null}, {...WORD, word: 0}]) {
    assert.deepEqual(parsed(fragment(target)), target);
  }
  assert.equal(fragment({cell: "c1"}), "#cell-c1");
  assert.deepEqual(parsed("#cell-c1"), {cell: "c1", run: null, block: null, variant: null, word: null});
});

test("fragment, when it is another one, then it names nothing", () => {
  for (const hash of ["", "#", "#cell-", "#top", "#cell-a/pane-b", "#cell-a/run-1.0", "#cell-%", "#cell-a/run-x.0/pane-b"]) {
    assert.equal(parsed(hash), null);
  }
});
