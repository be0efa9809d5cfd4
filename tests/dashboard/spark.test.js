import assert from "node:assert/strict";
import { test } from "node:test";
import { sparkPath, thinned } from "../../dashboard/gradhelm_dashboard/assets/spark.js";

test("a line runs from the left to the right edge, the larger the higher", () => {
  assert.equal(sparkPath([0, 1], 10, 12), "M0.0 11.0L10.0 1.0");
});

test("what is not finite breaks the line and does not decide its height", () => {
  assert.equal(sparkPath([0, NaN, 1, Infinity, 0], 8, 12), "M0.0 11.0M4.0 1.0M8.0 11.0");
});

test("one outlier does not flatten the rest", () => {
  const values = Array.from({ length: 100 }, (_, i) => i % 2);
  values[50] = 1000;
  assert.match(sparkPath(values, 99, 12), /^M0\.0 11\.0L1\.0 1\.0/);
});

test("too little to be a line is none", () => {
  assert.equal(sparkPath([5], 10, 10), "");
});

test("many values become means of equal parts, without what is not finite", () => {
  assert.deepEqual(thinned([1, 3, NaN, 4, NaN, NaN], 3).map(String), ["2", "4", "NaN"]);
  assert.deepEqual(thinned([1, 2], 5), [1, 2]);
});
