import assert from "node:assert/strict";
import { test } from "node:test";
import { changes, where } from "../../dashboard/gradhelm_dashboard/assets/versions.js";

test("a row names what moved, and the threshold needs no name", () => {
  assert.deepEqual(changes({ from: { max_norm: 1, ceiling: 5 }, to: { max_norm: 0.5, ceiling: 5 } }, "max_norm"), [{ name: "", from: 1, to: 0.5 }]);
  assert.deepEqual(changes({ from: { percentile: 10, window: 100 }, to: { percentile: 10, window: 50 } }, "percentile"), [{ name: "window", from: 100, to: 50 }]);
  assert.deepEqual(changes({ from: { lr_factor: 1 }, to: { lr_factor: 0.1 } }, "max_norm"), [{ name: "learning rates ×", from: 1, to: 0.1 }]);
});

test("the same value again is shown as it was asked for, a stop alone as nothing", () => {
  assert.deepEqual(changes({ from: { max_norm: 1 }, to: { max_norm: 1 } }, "max_norm"), [{ name: "", from: 1, to: 1 }]);
  assert.deepEqual(changes({ from: {}, to: {} }, "max_norm"), []);
});

test("where a version was in force", () => {
  const events = (...pairs) => ({ step: null, events: pairs.map(([status, step]) => ({ status, step })) });
  assert.equal(where(events(["pending", null], ["applied", 1200])), "step 1,200");
  assert.equal(where(events(["applied", 1200], ["reverted", 1400])), "steps 1,200 to 1,400");
  assert.equal(where(events(["pending", null])), "");
});
