import assert from "node:assert/strict";
import { test } from "node:test";
import { Filters } from "../../dashboard/gradhelm_dashboard/assets/filters.js";

const runs = [
  { id: "01a", name: "gpt-2", project: "text", status: "live", tags: ["lr-sweep", "a & b"], note: "" },
  { id: "01b", name: "<b>gpt</b>", project: "text", status: "failed", tags: [], note: "it diverged" },
  { id: "01c", name: "resnet", project: "images", status: "failed", tags: ["lr-sweep"], note: "" },
];
const shown = (values) => runs.filter((run) => Object.assign(new Filters(), values).matches(run)).map((run) => run.id);

test("an address holds the filters and the order, and gives them back", () => {
  const filters = Object.assign(new Filters(), {
    words: "gpt 50% <x>", status: "failed", project: "a,b&c", tag: "ü=1", sort: { by: "nonfinite", order: "desc" },
  });
  const search = filters.write("");
  assert.deepEqual(Filters.read(search), filters);
  assert.equal(Filters.read(search).write(search), search);
});

test("what is as usual is not in the address, and what is not ours stays there", () => {
  assert.equal(new Filters().write(""), "");
  assert.equal(new Filters().write("?q=x&status=live&other=1&sort=name.asc&tag=t&project=p"), "?other=1");
});

test("what an address cannot mean is passed over", () => {
  for (const wrong of ["?status=alive", "?sort=name", "?sort=name.up", "?sort=constructor.asc", "?sort=", "?tag=", "?project="]) {
    assert.deepEqual(Filters.read(wrong), new Filters(), wrong);
  }
  assert.equal(Filters.read(`?q=${"x".repeat(500)}`).words.length, 200);
});

test("each word is looked for in name, project, tags, note and id, whatever its case", () => {
  assert.deepEqual(shown({ words: "GPT" }), ["01a", "01b"]);
  assert.deepEqual(shown({ words: " sweep  text " }), ["01a"]);
  assert.deepEqual(shown({ words: "diverged" }), ["01b"]);
  assert.deepEqual(shown({ words: "01c" }), ["01c"]);
  assert.deepEqual(shown({ words: "nothing" }), []);
});

test("filters hold together", () => {
  assert.deepEqual(shown({ status: "failed", tag: "lr-sweep" }), ["01c"]);
  assert.deepEqual(shown({ project: "text", status: "failed" }), ["01b"]);
  assert.equal(new Filters().any, false);
  assert.equal(Object.assign(new Filters(), { words: "  " }).any, false);
  assert.equal(Object.assign(new Filters(), { tag: "x" }).any, true);
});

test("a choice says how many runs it would show beside the other filters, and stays when it has none", () => {
  const filters = Object.assign(new Filters(), { status: "failed", tag: "gone" });
  const found = filters.choices(runs);
  assert.deepEqual(found.tag, [{ value: "a & b", count: 0 }, { value: "gone", count: 0 }, { value: "lr-sweep", count: 1 }]);
  filters.tag = null;
  assert.deepEqual(filters.choices(runs).status, [{ value: "live", count: 1 }, { value: "failed", count: 2 }]);
  assert.deepEqual(filters.choices(runs).project, [{ value: "images", count: 1 }, { value: "text", count: 1 }]);
});
