import assert from "node:assert/strict";
import { test } from "node:test";
import { LONGEST, MOST_TAGS, changed, withTyped } from "../../dashboard/gradhelm_dashboard/assets/tags.js";

test("tags are taken as typed, several by comma, each once", () => {
  assert.deepEqual(withTyped(["a"], " b, a ,,c d,"), ["a", "b", "c d"]);
  assert.deepEqual(withTyped(["x, y"], ""), ["x, y"]);
  assert.equal(withTyped([], "x".repeat(500))[0].length, LONGEST);
  assert.equal(withTyped([], Array.from({ length: 100 }, (_, i) => i).join()).length, MOST_TAGS);
});

test("only what has changed is sent", () => {
  const run = { name: "n", tags: ["a"], note: "" };
  assert.equal(changed(run, { name: "n", tags: ["a"], note: "" }), null);
  assert.deepEqual(changed(run, { name: "m", tags: ["a"], note: "" }), { name: "m" });
  assert.deepEqual(changed(run, { name: "n", tags: [], note: "x" }), { tags: [], note: "x" });
});
