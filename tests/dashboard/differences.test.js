import assert from "node:assert/strict";
import { test } from "node:test";
import { differences, flattened } from "../../dashboard/gradhelm_dashboard/assets/differences.js";

test("what is inside gets a dotted key, lists stay whole", () => {
  const flat = flattened({ lr: 0.1, opt: { name: "SGD", groups: [1, { a: 2 }] }, none: null, empty: {}, "<b>": "x" });
  assert.deepEqual([...flat], [["lr", "0.1"], ["opt.name", "SGD"], ["opt.groups", '[1,{"a":2}]'], ["none", "null"], ["empty", "{}"], ["<b>", "x"]]);
});

test("keys differ by value, or where a run has none", () => {
  const rows = differences([{ lr: 1, seed: 3 }, { lr: 2, seed: 3, extra: true }]);
  assert.deepEqual(rows.map(({ key, differs }) => [key, differs]), [["lr", true], ["seed", false], ["extra", true]]);
  assert.deepEqual(rows[2].values, [undefined, "true"]);
  assert.deepEqual(differences([{}, {}]), []);
  assert.deepEqual(differences([null, undefined]), []);
});

test("a configuration of very many keys does not fill the page", () => {
  assert.equal(flattened(Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, i]))).size, 2000);
});
