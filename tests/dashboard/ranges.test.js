import assert from "node:assert/strict";
import { test } from "node:test";
import { laneRange, logHistogram, percentile } from "../../dashboard/gradhelm_dashboard/assets/ranges.js";

test("a percentile is the smallest value that has so many at or below it", () => {
  const sorted = Array.from({ length: 100 }, (_, i) => i + 1);
  assert.equal(percentile(sorted, 0.5), 50);
  assert.equal(percentile(sorted, 0.99), 99);
  assert.equal(percentile(sorted, 1), 100);
  assert.equal(percentile(sorted, 0), 1);
  assert.equal(percentile([7], 0.9), 7);
});

test("a lane shows what is usual, not the one value that explodes", () => {
  const values = [...Array.from({ length: 999 }, (_, i) => i / 999), 1e9];
  const { low, high, logarithmic } = laneRange(values, true);
  assert.ok(low < 0 && high > 0.99 && high < 2 && !logarithmic);
  assert.deepEqual(laneRange([]), { low: 0, high: 1, logarithmic: false });
  assert.deepEqual(laneRange([null, NaN, Infinity]), { low: 0, high: 1, logarithmic: false });
  const same = laneRange([3, 3, 3]);
  assert.ok(same.low < 3 && same.high > 3);
  assert.ok(laneRange([0, 0]).low < 0);
});

test("a lane of positive values over decades is logarithmic, where the chart is", () => {
  const values = [100, 50, 8, 4, 3];
  assert.equal(laneRange(values).logarithmic, false);
  const { low, high, logarithmic } = laneRange(values, true);
  assert.ok(logarithmic && low > 0 && low < 3 && high > 100);
  assert.equal(laneRange([5, 4, 3], true).logarithmic, false);
  assert.equal(laneRange([100, -1], true).logarithmic, false);
});

test("a histogram counts each positive value once, and says what was not finite", () => {
  const found = logHistogram([1, 10, 100, 100, NaN, Infinity, 0, -3], 4);
  assert.deepEqual(found, { low: 0, high: 2, counts: [1, 0, 1, 2], total: 4, nonfinite: 2 });
  assert.equal(logHistogram([NaN, 0], 4), null);
  const same = logHistogram([5, 5, 5], 4);
  assert.equal(same.counts.reduce((a, b) => a + b, 0), 3);
  assert.ok(same.high > same.low);
});
