import assert from "node:assert/strict";
import { test } from "node:test";
import { MISSING } from "../../dashboard/gradhelm_dashboard/assets/bytes.js";
import * as heat from "../../dashboard/gradhelm_dashboard/assets/heat.js";

test("missing and non-finite have levels of their own, and all norms lie between", () => {
  assert.equal(heat.level(MISSING, NaN), 0);
  assert.equal(heat.level(0x7fc00000, NaN), 255);
  assert.equal(heat.level(0, 0), 1);
  assert.equal(heat.level(1, 1e30), 254);
  const lvl = heat.level(1, 0.37);
  assert.ok(Math.abs(Math.log10(heat.normOf(lvl) / 0.37)) < heat.PER_LEVEL);
});

test("a bin is never smaller than its share of the room", () => {
  for (const [steps, most] of [[500, 800], [1000, 800], [2000, 650], [100_000, 900]]) {
    assert.ok(steps / heat.binSize(steps, most) <= most);
  }
  assert.equal(heat.binSize(500, 800), 1);
});

test("the range leaves out the extremes", () => {
  const histogram = new Uint32Array(256);
  histogram.fill(100, 100, 150);
  histogram[20] = 1;
  histogram[250] = 1;
  const [low, high] = heat.levelRange(histogram);
  assert.ok(low >= 99 && high <= 151);
  assert.deepEqual(heat.levelRange(new Uint32Array(256)), [1, 254]);
});

function painted(levels, more = {}) {
  const bins = more.bins ?? levels.length;
  const out = new Uint32Array(bins * (more.lines ?? 1));
  heat.paint({
    levels: Uint8Array.from(levels), width: 1, indexes: levels.map((_, i) => i), binOf: levels.map((_, i) => i),
    bins, order: [0], lines: 1, medians: null, range: [1, 254], table: Uint32Array.from({ length: 256 }, (_, i) => i), out, ...more,
  });
  return [...out];
}

test("a hole stays a hole and a non-finite cell is never hidden by others of its bin", () => {
  assert.deepEqual(painted([0, 100, 255]), [0, 100, 255]);
  assert.deepEqual(painted([100, 255, 120, 90], { binOf: [0, 0, 0, 1], bins: 2 }), [255, 90]);
});

test("where cells are not finite is told, so that they can be drawn larger", () => {
  const out = new Uint32Array(3);
  const found = heat.paint({
    levels: Uint8Array.from([9, 255, 9]), width: 1, indexes: [0, 1, 2], binOf: [0, 1, 2], bins: 3, order: [0], lines: 1,
    medians: null, range: [1, 254], table: new Uint32Array(256), out,
  });
  assert.deepEqual(found, [1]);
});

test("a bin shows its largest norm", () => {
  assert.deepEqual(painted([10, 200, 30], { binOf: [0, 0, 1], bins: 2 }), [200, 30]);
});

test("what lies under the range is drawn in its lowest colour, not as a hole", () => {
  assert.deepEqual(painted([5], { range: [100, 200] }), [1]);
});

test("against the median the middle of the table means: as usual", () => {
  const [usual] = painted([90], { medians: [90] });
  assert.ok(usual === 127 || usual === 128);
  assert.ok(painted([120], { medians: [90] })[0] > 150);
});
