import assert from "node:assert/strict";
import { test } from "node:test";
import { factorRange } from "../../dashboard/gradhelm_dashboard/assets/levers.js";

test("learning rates move within a hundredth and a hundredfold, and no further at once than allowed", () => {
  assert.deepEqual(factorRange(1, null), { low: 0.01, high: 100 });
  assert.deepEqual(factorRange(1, 10), { low: 0.1, high: 10 });
  assert.deepEqual(factorRange(50, 10), { low: 5, high: 100 });
});
