import assert from "node:assert/strict";
import { test } from "node:test";
import { curveWords, reaches, shareAt } from "../../dashboard/gradhelm_dashboard/assets/curve.js";
import { countClipped, countsClipped, ladder } from "../../dashboard/gradhelm_dashboard/assets/whatif.js";

test("the ladder begins and ends where it is told to, each rung by the same factor", () => {
  const rungs = ladder(0.01, 100, 5);
  assert.deepEqual([rungs[0], rungs[4]], [0.01, 100]);
  for (const [i, value] of [0.01, 0.1, 1, 10, 100].entries()) assert.ok(Math.abs(rungs[i] / value - 1) < 1e-12);
  assert.equal(ladder(0.25, 2500).length, 60);
});

test("counting by a search is counting one by one, in whatever order, NaN and Inf among them", () => {
  let seed = 7;
  const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
  for (let round = 0; round < 50; round++) {
    const scale = 10 ** Math.round(8 * random() - 4);
    const norms = Float32Array.from({ length: 1 + Math.floor(300 * random()) }, () => {
      const chance = random();
      return chance < 0.02 ? NaN : chance < 0.04 ? Infinity : chance < 0.1 ? scale : scale * Math.exp(4 * random() - 2);
    });
    const thresholds = [...ladder(scale / 100, scale * 100), scale, norms[0], ...norms.slice(0, 5)].filter((one) => one > 0 && Number.isFinite(one));
    assert.deepEqual(countsClipped(norms, thresholds), thresholds.map((threshold) => countClipped(norms, threshold)));
  }
  assert.deepEqual(countsClipped([], [1, 2]), [0, 0]);
});

const thresholds = [0.1, 1, 10, 100];
const shares = [1, 0.5, 0.08, 0];

test("the curve is read between its points, and not beyond them", () => {
  assert.equal(shareAt(thresholds, shares, 0.1), 1);
  assert.equal(shareAt(thresholds, shares, 10), 0.08);
  assert.ok(Math.abs(shareAt(thresholds, shares, Math.sqrt(10)) - 0.29) < 1e-9);
  for (const value of [0.05, 200, 0, null, NaN]) assert.equal(shareAt(thresholds, shares, value), null);
  assert.equal(reaches(thresholds, shares, 0.1), 10);
  assert.equal(reaches(thresholds, [1, 1, 1, 1], 0.1), null);
});

test("who does not see the curve is told what it says", () => {
  assert.equal(curveWords(thresholds, shares, 500, 1, 10),
    "What thresholds from 0.10 to 100 would have clipped of 500 steps. Applied, 1.00: 50.0 %. Proposed, 10.00: 8.0 %. At 1.00 at most half. At 10.00 at most a tenth. At 100 none.");
  assert.doesNotMatch(curveWords(thresholds, shares, 500, 1, null), /Proposed/);
});
