import assert from "node:assert/strict";
import { test } from "node:test";
import { conditionWords, readConditions } from "../../dashboard/gradhelm_dashboard/assets/conditions.js";

const read = (typed, last = 100) => readConditions({ ttl: "", from: "", within: "", low: "", high: "", nonfinite: false, ...typed }, last);

test("nothing typed is nothing asked", () => assert.deepEqual(read({}), { body: {} }));

test("what is typed is sent as the server takes it", () => {
  assert.deepEqual(read({ ttl: " 200 ", from: "150" }).body, { ttl_steps: 200, not_before_step: 150 });
  assert.deepEqual(read({ nonfinite: true, within: "50" }).body, { revert_if: { within: 50, nonfinite: true } });
  assert.deepEqual(read({ low: "1", high: "20", within: "50" }).body, { revert_if: { within: 50, clip_fraction: [0.01, 0.2] } });
  assert.deepEqual(read({ high: "2.5", within: "50" }).body, { revert_if: { within: 50, clip_fraction: [0, 0.025] } });
  assert.deepEqual(read({ from: "0" }, null).body, { not_before_step: 0 });
});

test("what cannot be meant is said at its field", () => {
  const wrong = (typed, last) => read(typed, last).wrong.field;
  for (const ttl of ["0", "-1", "1.5", "x", "1e3", "9".repeat(16)]) assert.equal(wrong({ ttl }), "ttl", ttl);
  assert.equal(wrong({ from: "100" }, 100), "from"); // over already
  assert.equal(wrong({ from: "soon" }), "from");
  assert.equal(wrong({ nonfinite: true }), "within");
  assert.equal(wrong({ within: "50" }), "within");
  assert.equal(wrong({ ttl: "50", nonfinite: true, within: "51" }), "within");
  assert.equal(wrong({ low: "-1", within: "5" }), "low");
  assert.equal(wrong({ low: "x", within: "5" }), "low");
  assert.equal(wrong({ high: "101", within: "5" }), "high");
  assert.equal(wrong({ low: "30", high: "20", within: "5" }), "high");
});

test("conditions in words", () => {
  assert.equal(conditionWords({ not_before_step: null, ttl_steps: null, revert_if: null }), "");
  assert.equal(conditionWords({ not_before_step: 1500, ttl_steps: 1, revert_if: { within: 100, nonfinite: true, clip_fraction: [0.01, 0.2] } }),
    "from step 1,500 on, for 1 step, taken back if the loss or a norm is not finite or the clip fraction leaves 1 to 20 % within 100 steps");
});
