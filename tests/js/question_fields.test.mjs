import assert from "node:assert/strict";
import {test} from "node:test";

import {questionsOf} from "../../playground/web/static/notebook/question_fields.js";

const number = (name, value, unit) => ({name, type: "number", value, checked: false, unit});

test("fields, when read, then each value has its group and its type", () => {
  const questions = questionsOf([
    {name: "plan.look", type: "checkbox", value: "on", checked: true},
    {name: "sensitivity", type: "checkbox", value: "on", checked: false},
    {name: "level", type: "select-one", value: "hard", checked: undefined},
    number("n", "24"),
    number("plan.max_tokens", "48"),
    number("limits.max_kl", "0.01"),
  ]);
  assert.deepEqual(questions, {
    plan: {look: true, max_tokens: 48}, limits: {max_kl: 0.01}, sensitivity: false, level: "hard", n: 24,
  });
});

test("numbers, when the field is empty, then a limit is none and a count is one", () => {
  const questions = questionsOf([number("limits.max_kl", ""), number("n", "")]);
  assert.deepEqual(questions, {plan: {}, limits: {max_kl: null}, n: 1});
});

test("reasoning tokens, when the field is empty, then there is no limit, and 0 is one", () => {
  const read = value => questionsOf([number("plan.reasoning_tokens", value)]).plan;
  assert.deepEqual(["", "0", "24"].map(read), [null, 0, 24].map(n => ({reasoning_tokens: n})));
});

test("sizes, when they are limits, then they are whole bytes, and at most 2 ** 60", () => {
  const questions = questionsOf([
    number("limits.max_bytes", "11.5", "1000000"), number("limits.max_memory", "1e30", "1048576"),
    number("limits.min_tokens_per_second", "2.5", undefined),
  ]);
  assert.deepEqual(questions.limits, {max_bytes: 11_500_000, max_memory: 2 ** 60, min_tokens_per_second: 2.5});
});
