import assert from "node:assert/strict";
import { test } from "node:test";
import { MISSING, frameHeader, readFrame, readHeatmap, readSeries } from "../../dashboard/gradhelm_dashboard/assets/bytes.js";

function message(header, multiple, ...parts) {
  let text = JSON.stringify(header);
  while ((4 + text.length) % multiple) text += " ";
  const bodies = parts.map((part) => new Uint8Array(part.buffer));
  const bytes = new Uint8Array(4 + text.length + bodies.reduce((sum, part) => sum + part.length, 0));
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(new TextEncoder().encode(text), 4);
  let at = 4 + text.length;
  for (const part of bodies) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes.buffer;
}

test("a frame keeps the bits of a missing value apart from those of a NaN", () => {
  const values = new Uint32Array([0x3f800000, MISSING, 0x7fc00000, 0x7f800000]);
  const buffer = message({ layout: 7, n: 2, version: 3, sent: 1 }, 8, new Float64Array([10, 11]), new Float64Array([0.5, 0.6]), values);
  assert.equal(frameHeader(buffer).layout, 7);
  const frame = readFrame(buffer, 2);
  assert.deepEqual([...frame.steps], [10, 11]);
  assert.deepEqual([...frame.bits], [...values]);
  assert.equal(frame.version, 3);
});

test("a frame of another width than its layout is refused", () => {
  const buffer = message({ layout: 1, n: 1 }, 8, new Float64Array([1]), new Float64Array([1]), new Float32Array([1, 2]));
  assert.throws(() => readFrame(buffer, 3), RangeError);
  assert.throws(() => readFrame(new ArrayBuffer(2), 1), RangeError);
});

test("a raw series has one value for the three, at the steps that exist", () => {
  const buffer = message(
    { first: 5, last: 9, stride: 1, origin: 5, columns: [{ name: "global_norm", n: 2 }, { name: "loss", n: 1 }] }, 4,
    new Uint32Array([0, 3]), new Float32Array([1, Infinity]), new Uint32Array([1]), new Float32Array([2]),
  );
  const { columns, stride } = readSeries(buffer);
  assert.equal(stride, 1);
  assert.deepEqual([...columns.global_norm.step], [5, 8]);
  assert.equal(columns.global_norm.max[1], Infinity);
  assert.equal(columns.global_norm.min, columns.global_norm.max);
  assert.deepEqual([...columns.loss.step], [6]);
});

test("a series of buckets has min, mean, max and the count of non-finite values", () => {
  const buffer = message(
    { first: 16, last: 47, stride: 16, origin: 16, columns: [{ name: "global_norm", n: 2 }] }, 4,
    new Uint32Array([0, 1]), new Float32Array([1, 2]), new Float32Array([2, 3]), new Float32Array([3, 4]), new Uint32Array([0, 5]),
  );
  const { global_norm: norm } = readSeries(buffer).columns;
  assert.deepEqual([...norm.step], [16, 32]);
  assert.deepEqual([[...norm.min], [...norm.mean], [...norm.max], [...norm.nonfinite]], [[1, 2], [2, 3], [3, 4], [0, 5]]);
});

test("a heatmap has the shape that its headers say, or is refused", () => {
  const headers = new Headers({ "X-Gradhelm-Rows": "2", "X-Gradhelm-Buckets": "2", "X-Gradhelm-Origin": "8", "X-Gradhelm-Stride": "4" });
  const picture = readHeatmap(new Float32Array([1, 2, 3, 4]).buffer, headers);
  assert.deepEqual([picture.rows, picture.buckets, picture.origin, picture.stride], [2, 2, 8, 4]);
  assert.throws(() => readHeatmap(new Float32Array(3).buffer, headers), RangeError);
});
