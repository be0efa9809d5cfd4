import assert from "node:assert/strict";
import { test } from "node:test";
import { countClipped, isClipped } from "../../dashboard/gradhelm_dashboard/assets/whatif.js";

test("a norm equal to the threshold is clipped, because of the 1e-6 under the fraction", () => {
  assert.equal(isClipped(1, 1), true);
  assert.equal(isClipped(1, 0.9), false);
});

test("the precision is float32: where 1e-6 is lost in the norm, an equal norm is not clipped", () => {
  assert.equal(isClipped(100, 100), false);
  assert.equal(isClipped(100, Math.fround(100.00001)), true);
});

test("an infinite norm is clipped, NaN is not", () => {
  assert.equal(isClipped(1, Infinity), true);
  assert.equal(isClipped(1, NaN), false);
});

test("counting goes over all norms", () => {
  assert.equal(countClipped(Float32Array.from([0.5, 1.5, 2.5, Infinity]), 1), 3);
});
