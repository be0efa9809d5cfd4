import assert from "node:assert/strict";
import { test } from "node:test";
import { MISSING } from "../../dashboard/gradhelm_dashboard/assets/bytes.js";
import { Matrix, capacityFor, isHole, usualDistance } from "../../dashboard/gradhelm_dashboard/assets/matrix.js";
import * as views from "../../dashboard/gradhelm_dashboard/assets/views.js";

const bits = (value) => new Uint32Array(new Float32Array([value]).buffer)[0];

function filled(steps, capacity = 8) {
  const matrix = new Matrix(1, capacity);
  for (const step of steps) {
    const row = matrix.row(step);
    if (row < 0) continue;
    matrix.scalar("global_norm").bits[row] = bits(step);
    matrix.setNorm(row, 0, bits(step / 2));
  }
  return matrix;
}

test("steps are in order however they come, and each is there once", () => {
  const matrix = filled([5, 6, 9, 7, 6, 8]);
  assert.deepEqual([...matrix.steps.subarray(0, matrix.length)], [5, 6, 7, 8, 9]);
  assert.deepEqual([...matrix.scalar("global_norm").values.subarray(0, 5)], [5, 6, 7, 8, 9]);
  assert.deepEqual([...matrix.norms.subarray(0, 5)], [2.5, 3, 3.5, 4, 4.5]);
});

test("the oldest steps go, never the newest", () => {
  const matrix = filled(Array.from({ length: 1000 }, (_, i) => i));
  assert.equal(matrix.lastStep, 999);
  assert.ok(matrix.length >= 8 && matrix.length <= 16);
  assert.equal(matrix.row(3), -1);
  assert.equal(matrix.scalar("global_norm").values[matrix.length - 1], 999);
});

test("what was never set is missing", () => {
  const matrix = new Matrix(2, 4);
  const row = matrix.row(1);
  assert.equal(matrix.scalar("loss").bits[row], MISSING);
  assert.equal(matrix.bits[row * 2], MISSING);
  assert.equal(matrix.levels[row * 2], 0);
});

test("a wider matrix keeps what the narrower one knew", () => {
  const wide = filled([1, 2, 3]).widened(3);
  assert.deepEqual([wide.length, wide.norms[3], wide.bits[4]], [3, 1, MISSING]);
  assert.equal(wide.scalar("global_norm").values[2], 3);
});

test("a jump is a hole, unless the run is thinned", () => {
  assert.equal(isHole(2, 1), true);
  assert.equal(usualDistance([0, 10, 20, 21, 30], 0, 5), 10);
  assert.equal(isHole(20, 10), false);
  assert.equal(isHole(100, 10), true);
});

test("the chart breaks its lines where steps are missing", () => {
  const data = views.fromMatrix(filled([1, 2, 3, 6, 7]), 1, 7, [0]);
  assert.deepEqual(data.x, [1, 2, 3, 4, 6, 7]);
  assert.deepEqual(data.global, [1, 2, 3, null, 6, 7]);
  assert.deepEqual(data.lines[0], [0.5, 1, 1.5, null, 3, 3.5]);
});

test("a non-finite norm is a mark and no point", () => {
  const data = views.fromMatrix(filled([1, Infinity, 3].map((v, i) => i)), 0, 2, []);
  assert.deepEqual(data.nonfinite, [false, false, false]);
  const matrix = filled([1, 2]);
  matrix.scalar("global_norm").bits[1] = bits(Infinity);
  const marked = views.fromMatrix(matrix, 1, 2, []);
  assert.deepEqual([marked.global, marked.nonfinite], [[1, null], [false, true]]);
});

test("the moments when the threshold moved are found; one that always moves has none", () => {
  const x = [1, 2, 3, 4];
  assert.deepEqual(views.changes({ x, threshold: [1, 1, 0.5, 0.5] }), [{ step: 3, from: 1, to: 0.5 }]);
  const many = Array.from({ length: 50 }, (_, i) => i);
  assert.deepEqual(views.changes({ x: many, threshold: many }), []);
});

test("rollups keep the spread, and marks for what was clipped or non-finite", () => {
  const step = Float64Array.from([0, 4, 8]);
  const column = (values) => ({ step, min: values, mean: values, max: values, nonfinite: Uint32Array.from([0, 0, 1]) });
  const data = views.fromSeries({ first: 0, last: 11, stride: 4, columns: { global_norm: column([1, 2, 3]), clipped: column([0, 0.5, 1]) } }, []);
  assert.deepEqual(data.clipped, [0, 0.5, 1]);
  assert.deepEqual(data.nonfinite, [false, false, true]);
  assert.deepEqual(data.band.max, [1, 2, 3]);
});

test("a picture of the server becomes step-major levels, holes and all", () => {
  const values = new Uint32Array([bits(1), MISSING, bits(Infinity), bits(10)]);
  const map = views.mapFromPicture({ rows: 2, buckets: 2, origin: 8, stride: 4, bits: values }, 8, 15);
  assert.equal(map.levels[1], 255);
  assert.equal(map.levels[2], 0);
  assert.equal(map.valueAt(1, 0), null);
  assert.equal(map.valueAt(1, 1), 10);
  assert.deepEqual([...map.steps], [8, 12]);
});

test("wide runs keep fewer steps in the browser", () => {
  assert.equal(capacityFor(10), 2048);
  assert.ok(capacityFor(20_000) < 400 && capacityFor(1e6) === 256);
});

test("smoothing starts at the first value, passes over holes, and of logarithms a spike weighs less", () => {
  assert.deepEqual(views.smoothed([1, 2, null, 3], 0), [1, 2, null, 3]);
  const found = views.smoothed([4, 4, null, 4], 0.9);
  assert.deepEqual(found.map((value) => value && Number(value.toFixed(9))), [4, 4, null, 4]);
  const plain = views.smoothed([1, 1e6], 0.5);
  const geometric = views.smoothed([1, 1e6], 0.5, true);
  assert.ok(Math.abs(plain[1] - (0.25 + 0.5e6) / 0.75) < 1);
  assert.ok(Math.abs(Math.log10(geometric[1]) - 4) < 1e-9);
  assert.deepEqual(views.smoothed([0, 1], 0.5, true), [null, 1]);
});

test("lanes are as long as the lines, with holes where nothing was logged", () => {
  const matrix = filled([1, 2, 3]);
  matrix.scalar("loss").bits[1] = bits(0.5);
  const found = views.fromMatrix(matrix, 1, 3, [0], ["loss", "never"]);
  assert.deepEqual(found.lanes, [[null, 0.5, null], [null, null, null]]);
  const column = (...values) => ({ step: Float64Array.of(0, 4), mean: values, min: values, max: values, nonfinite: [0, 0] });
  const series = { first: 0, last: 7, stride: 4, columns: { global_norm: column(1, 2), loss: column(3, 4) } };
  assert.deepEqual(views.fromSeries(series, [], ["loss"]).lanes, [[3, 4]]);
});
