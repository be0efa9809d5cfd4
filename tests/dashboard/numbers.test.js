import assert from "node:assert/strict";
import { test } from "node:test";
import * as numbers from "../../dashboard/gradhelm_dashboard/assets/numbers.js";

test("norms are written at the length of a glance", () => {
  const written = [0.8412, 12.34, 123.4, 1234.5, 0.0123, 0.00012, 0, NaN, Infinity, null].map(numbers.norm);
  assert.deepEqual(written, ["0.84", "12.3", "123", "1,235", "0.012", "1.2e-4", "0", "NaN", "Inf", "–"]);
});

test("a float32 threshold is written as it was typed", () => {
  assert.equal(numbers.threshold(Math.fround(0.89)), "0.89");
  assert.equal(numbers.threshold(Math.fround(0.8912)), "0.8912");
  assert.deepEqual([1, 25, 2500, 0.05].map(numbers.threshold), ["1.00", "25.00", "2,500", "0.05"]);
});

test("shares have one decimal, large counts one word", () => {
  assert.deepEqual([numbers.percent(0.024), numbers.percent(null)], ["2.4 %", "–"]);
  assert.deepEqual([312_345, 1.5e6, 40.04, 2.25, 0].map(numbers.short), ["312 k", "1.5 M", "40", "2.3", "0"]);
});

test("logarithmic ticks are decades, with 2 and 5 where there are few", () => {
  assert.deepEqual(numbers.logTicks(0.001, 10, 8), [0.001, 0.01, 0.1, 1, 10]);
  assert.deepEqual(numbers.logTicks(0.5, 5, 8), [0.5, 1, 2, 5]);
  assert.ok(numbers.logTicks(1e-12, 1e12, 6).length <= 6);
});

test("linear ticks are round and inside", () => {
  assert.deepEqual(numbers.linearTicks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(numbers.linearTicks(6308, 7307, 5), [6400, 6600, 6800, 7000, 7200]);
});

test("the axis holds all values and moves in steps", () => {
  const [low, high] = numbers.axisRange(0.02, 1.3, true);
  assert.ok(low < 0.02 && high > 1.3);
  assert.deepEqual(numbers.axisRange(0.0201, 1.31, true), [low, high]);
  assert.equal(numbers.axisRange(Infinity, 0, true), null);
});

test("the slider is logarithmic and gives numbers that one would type", () => {
  assert.equal(numbers.fromSlider(numbers.toSlider(0.25)), 0.25);
  assert.equal(numbers.fromSlider(0.005), 1.01);
});

test("ages are said in words", () => {
  assert.deepEqual([1, 42, 300, 7200, 100_000, 400_000].map((s) => numbers.ago(0, s * 1000)),
    ["just now", "42 s ago", "5 min ago", "2 h ago", "yesterday", "4 days ago"]);
});

test("a tick fits into a phone's margin, whatever its size", () => {
  const ticks = [1e6, 1e4, 1000, 100, 1, 0.25, 0.001, 1e-4, 2e5].map(numbers.tick);
  assert.deepEqual(ticks, ["1e6", "1e4", "1,000", "100", "1", "0.25", "0.001", "1e-4", "2e5"]);
});
