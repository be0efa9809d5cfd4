import assert from "node:assert/strict";
import { test } from "node:test";
import { chartTable, csv, mapTable, tsv } from "../../dashboard/gradhelm_dashboard/assets/table.js";

test("a file says what was asked of it, whatever names there are", () => {
  const table = { head: ["a,b", "=cmd()", "say \"x\""], rows: [[1, null, "two\nlines"], [0.5, -1, "+1"]] };
  assert.equal(csv(table), '"a,b",\'=cmd(),"say ""x"""\r\n1,,"two\nlines"\r\n0.5,-1,\'+1\r\n');
  assert.equal(tsv({ head: ["a\tb"], rows: [[1]] }), "a b\n1");
});

test("no name begins as a formula does, in a file or pasted, nor a cell of its own", () => {
  for (const sign of ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"]) {
    const [file, pasted] = [csv, tsv].map((write) => write({ head: [`${sign}1+1`], rows: [] }));
    assert.match(file, /^"?'/);
    assert.match(pasted, /^'/);
    assert.equal(pasted.split(/[\t\n\r]/).length, 1);
  }
  assert.equal(tsv({ head: ["a\n=1+1"], rows: [] }), "a =1+1");
});

const DATA = {
  x: [0, 1, 2, 3], global: [1, null, null, 4], threshold: [5, 5, null, 5], clipped: [0, 0, 0, 1],
  nonfinite: [false, true, false, false], band: null, stride: 1,
  lines: [{ label: "fc.weight", raw: [0.1, null, null, 0.4], values: [9, 9, 9, 9] }],
  lanes: [{ name: "loss", raw: null, values: [2, 3, null, 5] }],
};

test("the chart's table has what was measured, not what was smoothed, and no row for a hole", () => {
  const { head, rows } = chartTable(DATA);
  assert.deepEqual(head, ["step", "global_norm", "threshold", "clipped", "nonfinite", "norm/fc.weight", "loss"]);
  assert.deepEqual(rows, [[0, 1, 5, 0, 0, 0.1, 2], [1, null, 5, 0, 1, null, 3], [3, 4, 5, 1, 0, 0.4, 5]]);
});

test("of buckets the table has the spread as well", () => {
  const { head, rows } = chartTable({ ...DATA, stride: 4, band: { min: [1, null, null, 3], max: [2, null, null, 6] } });
  assert.deepEqual(head.slice(0, 4), ["first_step", "global_norm", "global_norm_min", "global_norm_max"]);
  assert.deepEqual(rows[0].slice(0, 5), [0, 1, 1, 2, 5]);
});

test("the map's table has a row for each layer", () => {
  const values = [[1, NaN], [null, 4]];
  const { head, rows } = mapTable({ names: ["a", "b"], order: [1, 0], steps: Float64Array.of(10, 20), valueAt: (k, row) => values[row][k] });
  assert.deepEqual(head, ["parameter", "10", "20"]);
  assert.deepEqual(rows, [["b", null, 4], ["a", 1, "NaN"]]);
});
