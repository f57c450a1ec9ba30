import assert from "node:assert/strict";
import {test} from "node:test";

import {anchors, matching} from "../../playground/web/static/notebook/side_by_side.js";

const text = (scrollTop, scrollHeight) => ({scrollTop, scrollHeight, clientHeight: 100});

test("scrolling, when one answer is longer, then both are at the same share", () => {
  assert.equal(matching(text(50, 200), text(0, 1100)), 500);
  assert.equal(matching(text(1000, 1100), text(0, 200)), 100);
});

test("scrolling, when one of them cannot, then the other stays at its beginning", () => {
  assert.deepEqual([matching(text(0, 80), text(9, 900)), matching(text(50, 200), text(0, 100))], [0, 0]);
});

test("texts, when one has a paragraph more, then the same words are paired, in both orders", () => {
  const one = "A red car stands here. Two dogs run.", two = "A red car stands here. It is an old car. Two dogs run.";
  for (const [a, b] of [[one, two], [two, one]]) {
    const pairs = anchors(a, b);
    assert.ok(pairs.some(([at, to]) => a.startsWith("Two dogs", at) && b.startsWith("Two dogs", to)));
    for (const [at, to] of pairs) assert.equal(a.slice(at).split(/\s+/, 2).join(" "), b.slice(to).split(/\s+/, 2).join(" "));
  }
});

test("texts, when words repeat or change places, then no pair is ambiguous, and all rise", () => {
  assert.deepEqual(anchors("go on go on go on", "go on go on"), []);
  assert.deepEqual(anchors("", "a b"), []);
  const pairs = anchors("one two three four five six", "five six one two three four");
  assert.deepEqual(pairs, [[0, 9], [4, 13], [8, 17]]);
});

test("texts, when they are long, then a bounded number of places", () => {
  const text = Array.from({length: 3000}, (_, n) => `w${n}`).join(" ");
  const pairs = anchors(text, text);
  assert.ok(pairs.length > 100 && pairs.length <= 200);
  assert.ok(pairs.every(([a, b]) => a === b));
});

test("scrolling, when the same words are known, then they stand level at the line between top and bottom", () => {
  const from = text(500, 1100), pairs = [[550, 1550]]; // half way: the line is in the middle of what is seen
  assert.equal(matching(from, text(0, 2100), pairs), 1500);
  assert.deepEqual([0, 1000].map(at => matching(text(at, 1100), text(0, 2100), pairs)), [0, 2000]);
});
