import assert from "node:assert/strict";
import { test } from "node:test";
import { moved } from "../../dashboard/gradhelm_dashboard/assets/keys.js";

const look = { low: 1000, high: 2000 };
const go = (key, shift = false, cursor = null, from = look) => moved(from, key, shift, 0, 10_000, cursor);

test("the view moves and zooms, and never leaves the run", () => {
  assert.deepEqual(go("ArrowRight", true), { low: 1250, high: 2250 });
  assert.deepEqual(go("ArrowLeft", true), { low: 750, high: 1750 });
  assert.deepEqual(go("ArrowLeft", true, null, { low: 100, high: 1100 }), { low: 0, high: 1000 });
  assert.deepEqual(go("ArrowRight", true, null, { low: 9500, high: 10_000 }), { low: 9500, high: 10_000 });
  assert.deepEqual(go("+"), { low: 1250, high: 1750 });
  assert.deepEqual(go("-"), { low: 500, high: 2500 });
  assert.deepEqual(go("Home"), { low: 0, high: 1000 });
});

test("zooming goes towards the cursor, down to a handful of steps and up to all of them", () => {
  assert.deepEqual(go("+", false, 1900), { low: 1450, high: 1950 });
  assert.deepEqual(go("+", false, null, { low: 100, high: 110 }), { low: 103, high: 113 });
  assert.deepEqual(go("-", false, null, { low: 0, high: 9000 }), { low: 0, high: 10_000 });
});

test("other keys are not its business", () => {
  for (const key of ["a", "ArrowUp", "Enter"]) assert.equal(go(key), null);
  assert.equal(go("ArrowLeft"), null);
});
