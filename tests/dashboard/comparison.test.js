import assert from "node:assert/strict";
import { test } from "node:test";
import { Comparison, choices } from "../../dashboard/gradhelm_dashboard/assets/comparison.js";
import { MOST_RUNS } from "../../dashboard/gradhelm_dashboard/assets/hues.js";

test("an address holds the comparison, and gives it back", () => {
  const look = Object.assign(new Comparison(), {
    runs: ["01a", "01b", "odd &id"], hidden: ["01b"], column: "val/acc, %&=+#", axis: "time", scale: "linear",
    smooth: 0.6, range: { low: 0.5, high: 1200.25 }, every: true,
  });
  const search = look.write("");
  assert.deepEqual(Comparison.read(search), look);
  assert.equal(Comparison.read(search).write(search), search);
  assert.match(search, /^\?runs=01a,01b,/);
});

test("what is as usual is not in the address, and what is not ours stays there", () => {
  assert.equal(new Comparison().write(""), "");
  assert.equal(new Comparison().write("?other=1&runs=x&y=loss&range=1-2&hide=x"), "?other=1");
});

test("what an address cannot mean is passed over", () => {
  for (const wrong of ["?x=hours", "?scale=cubic", "?smooth=-1", "?smooth=x", "?range=5", "?range=9-3", "?range=-1-5", "?y=", "?runs=", "?runs=,,", "?hide=01a", "?every=2"]) {
    assert.deepEqual(Comparison.read(wrong), new Comparison(), wrong);
  }
  assert.equal(Comparison.read("?smooth=7").smooth, 0.99);
});

test("a run stands there once, and no more of them than can be told apart", () => {
  assert.deepEqual(Comparison.read("?runs=a,b,a&runs=c").runs, ["a", "b", "c"]);
  const many = Comparison.read(`?runs=${Array.from({ length: 11 }, (_, i) => `r${i}`).join()}`);
  assert.equal(many.runs.length, MOST_RUNS);
  assert.equal(many.dropped, 3);
});

test("the scalars that one looks at first come first, then those that most runs share", () => {
  const found = choices([["zeta", "loss", "global_norm", "acc"], ["lr", "global_norm", "zeta"], ["global_norm", "zeta", "loss"]]);
  assert.deepEqual(found.map(({ name }) => name), ["global_norm", "loss", "lr", "zeta", "acc"]);
  assert.deepEqual(found.map(({ runs }) => runs), [3, 2, 1, 3, 1]);
  assert.deepEqual(choices([]), []);
});
