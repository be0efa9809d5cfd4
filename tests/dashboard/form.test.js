import assert from "node:assert/strict";
import { test } from "node:test";
import { nudged, readThreshold } from "../../dashboard/gradhelm_dashboard/assets/form.js";

test("a threshold is read as it is typed, and what could be meant otherwise is not guessed at", () => {
  for (const [text, value] of [["0.5", 0.5], [" 5e-4 ", 5e-4], ["12", 12], [".5", 0.5], ["3.", 3], ["1E3", 1000], ["-1", -1]]) {
    assert.equal(readThreshold(text), value);
  }
  assert.equal(readThreshold("  "), null);
  for (const text of ["0,5", "1,000", "1_000", "0x10", "Infinity", "five", "1 2", "1e", "."]) {
    assert.ok(Number.isNaN(readThreshold(text)), text);
  }
});

test("an arrow moves the second figure, and never below zero", () => {
  assert.equal(nudged(1, 1), 1.1);
  assert.equal(nudged(0.1, 1), 0.11);
  assert.equal(nudged(10, -1), 9);
  assert.equal(nudged(0.35, -1), 0.34);
  assert.equal(nudged(0.07, 1), 0.071);
  assert.equal(nudged(0, -1), 0);
  assert.equal(nudged(null, 1), 0.01);
  assert.equal(nudged(NaN, 1), 0.01);
  let value = 0.1;
  for (let i = 0; i < 300; i++) value = nudged(value, -1);
  assert.ok(value > 0 && value < 1e-3);
});
