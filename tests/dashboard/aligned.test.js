import assert from "node:assert/strict";
import { test } from "node:test";
import { alignedMap, alignedRows, comparisonTable, joined, line, nearest, valueRange } from "../../dashboard/gradhelm_dashboard/assets/aligned.js";
import { MISSING } from "../../dashboard/gradhelm_dashboard/assets/bytes.js";
import { HOLE, NONFINITE, level } from "../../dashboard/gradhelm_dashboard/assets/heat.js";

const same = (step) => step;
const column = (step, mean, nonfinite = null) => ({ step: Float64Array.from(step), mean: Float32Array.from(mean), nonfinite });

test("a line breaks where steps are missing or not finite, and says where the latter are", () => {
  const found = line(column([0, 1, 2, 8, 9], [1, NaN, 3, 4, 5]), 1, (step) => step * 2);
  assert.deepEqual(found.x, [0, 2, 4, 6, 16, 18]);
  assert.deepEqual(found.values, [1, null, 3, null, 4, 5]);
  assert.deepEqual(found.bad, [2]);
});

test("of buckets it is counted what is not finite, and scalars logged now and then do not break", () => {
  const buckets = line(column([0, 16, 32], [1, NaN, 3], [0, 2, 1]), 16, same);
  assert.deepEqual(buckets.bad, [16, 32]);
  assert.deepEqual(buckets.values, [1, null, 3]);
  assert.deepEqual(line(column([0, 100, 200, 300], [1, 2, 3, 4]), 1, same).values, [1, 2, 3, 4]);
});

test("smoothing is geometric on a logarithmic axis, and what was there stays at hand", () => {
  const found = line(column([0, 1], [1, 100]), 1, same, { smooth: 0.5, geometric: true });
  assert.ok(Math.abs(found.values[1] - 100 ** (2 / 3)) < 1e-9);
  assert.deepEqual(found.raw, [1, 100]);
});

test("lines lie over one another without a point that they do not have", () => {
  const { x, columns } = joined([{ x: [0, 2], values: [1, null] }, { x: [1, 2, 2], values: [5, 6, 7] }]);
  assert.deepEqual(x, [0, 1, 2]);
  assert.deepEqual(columns, [[1, undefined, null], [undefined, 5, 7]]);
  assert.deepEqual(joined([]), { x: [], columns: [] });
});

test("the nearest point is one with a value", () => {
  const own = { x: [0, 10, 20, 30], values: [1, null, 3, null] };
  assert.deepEqual([-5, 9, 11, 100].map((at) => nearest(own, at)), [0, 0, 2, 2]);
  assert.equal(nearest({ x: [1], values: [null] }, 1), -1);
});

test("the axis of values holds all of them, is never empty, and is linear where a logarithm cannot be", () => {
  const range = (logarithmic, ...lists) => valueRange(lists.map((values) => ({ values })), logarithmic);
  const [low, high, log] = range(true, [0, 0.5, 80], [null, 3]);
  assert.ok(log && low > 0 && low <= 0.5 && high >= 80);
  assert.equal(range(true, [-1, 0])[2], false);
  assert.ok(range(true, [-1, 0])[0] < -1);
  const tight = range(false, [0.9, 0.95]);
  assert.ok(tight[0] > 0.8 && tight[1] < 1);
  assert.equal(range(false, [0.1, 0.95])[0], 0);
  for (const flat of [range(false, [5, 5]), range(false, [0, 0]), range(false, [-2]), range(true, []), range(false, [null])]) assert.ok(flat[1] > flat[0]);
});

test("what runs share stands on top in the same order, what they have alone below", () => {
  const [a, b] = alignedRows([["h.0.w", "h.1.w", "own.a"], ["h.1.w", "h.0.w", "z", "h.9.w"]]);
  const shown = ({ names, order }) => order.map((row) => names[row]);
  assert.deepEqual(shown(a), ["h.0.w", "h.1.w", "own.a"]);
  assert.deepEqual(shown(b).slice(0, 2), ["h.0.w", "h.1.w"]);
  assert.deepEqual(new Set(shown(b).slice(2)), new Set(["z", "h.9.w"]));
  assert.match(b.groups.at(-1).label, /^only here/);
  assert.equal(b.groups.reduce((sum, { rows }) => sum + rows.length, 0), 4);
});

test("one run alone has its rows as it always has", () => {
  const [only] = alignedRows([["h.0.w", "h.1.w", "head"]]);
  assert.ok(only.groups.every(({ label }) => !label.startsWith("only here")));
});

/** A picture of two rows. */
function picture(rows, origin, stride) {
  const bits = new Uint32Array(rows.flatMap((row) => Array.from(new Uint32Array(Float32Array.from(row).buffer))));
  return { rows: rows.length, buckets: rows[0].length, origin, stride, bits };
}

test("a map puts each parameter into its row and leaves empty what the run has not", () => {
  const cells = picture([[1, 2], [Infinity, 4]], 16, 8);
  cells.bits[1] = MISSING;
  const rows = { names: ["b", "nowhere", "a"], order: [0, 1, 2], groups: [] };
  const view = alignedMap(cells, ["a", "b"], rows, 10, 40);
  const one = (value) => level(new Uint32Array(Float32Array.of(value).buffer)[0], value);
  assert.deepEqual([...view.levels], [NONFINITE, HOLE, one(1), one(4), HOLE, HOLE]);
  assert.deepEqual([...view.steps], [16, 24]);
  assert.deepEqual([view.low, view.high, view.stride], [10, 40, 8]);
  assert.equal(view.valueAt(1, 0), 4);
  assert.equal(view.valueAt(0, 1), null);
  assert.equal(view.valueAt(1, 2), null);
});

test("on an axis of time a bucket is as wide as it took, and none is lost", () => {
  const cells = picture([[1, 2, 3, 4]], 0, 1);
  // Two quick steps, then slow ones.
  const seconds = [0, 0.1, 0.2, 5, 10];
  const view = alignedMap(cells, ["a"], { names: ["a"], order: [0], groups: [] }, 0, 10, (step) => seconds[step], 10);
  assert.deepEqual([...view.indexes], [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
  assert.deepEqual([...view.steps], [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.equal(view.stepOf(6), 2);
  assert.equal(view.valueAt(7, 0), 4);
});

test("the table has a row for each point and a column for each run, smoothed by nothing", () => {
  const table = comparisonTable("time", "loss", [
    { name: "a", line: { x: [0, 1.5], raw: [1, null], values: [9, 9] } }, { name: "=b", line: { x: [1.5], raw: [2] } },
  ]);
  assert.deepEqual(table, { head: ["seconds", "loss: a", "loss: =b"], rows: [[0, 1, null], [1.5, null, 2]] });
});
