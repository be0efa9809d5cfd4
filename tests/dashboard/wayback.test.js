import assert from "node:assert/strict";
import { test } from "node:test";
import { moveWords, wayBack } from "../../dashboard/gradhelm_dashboard/assets/wayback.js";

const values = (max_norm) => ({ rules: [{ match: null, stream: null, values: { max_norm } }], lr_factor: 1 });
const entry = (version, max_norm, status = "applied", more = {}) => ({ version, status, author: "ann", reason: "", document: { ...values(max_norm), ...more } });
const control = (version, max_norm, more = {}) => ({
  version, status: "applied", applied: { version, lr_factor: 1 }, rules: [{ match: null, stream: null, coded: { max_norm: 1 }, applied: { max_norm } }], ...more,
});

test("without a change there is no way back", () => {
  assert.equal(wayBack(null, []), null);
  assert.equal(wayBack(control(0, 1), []), null);
});

test("the first change goes back to what is coded, a later one to the version before", () => {
  const first = wayBack(control(1, 0.5), [entry(1, 0.5)]);
  assert.deepEqual([first.kind, first.to, first.moves], ["undo", 0, [{ rule: "", name: "max_norm", from: 0.5, to: 1 }]]);
  const second = wayBack(control(2, 2), [entry(2, 2), entry(1, 0.5)]);
  assert.deepEqual([second.to, second.moves[0].to], [1, 0.5]);
});

test("what never was in force, or says the same, is passed over", () => {
  const versions = [entry(4, 2), entry(3, 7, "rejected"), entry(2, 2), entry(1, 0.5)];
  assert.equal(wayBack(control(4, 2), versions).to, 1);
  assert.equal(wayBack(control(1, 1), [entry(1, 1)]), null);
});

test("after a change was taken back, it is the one in force that can be undone", () => {
  const now = control(2, 0.5, { status: "reverted", applied: { version: 1, lr_factor: 1 } });
  const way = wayBack(now, [entry(2, 9, "reverted"), entry(1, 0.5)]);
  assert.deepEqual([way.entry.version, way.to], [1, 0]);
});

test("a change that waits is withdrawn", () => {
  const way = wayBack(control(2, 0.5, { status: "delivered", applied: { version: 1, lr_factor: 1 } }), [entry(2, 3, "delivered"), entry(1, 0.5)]);
  assert.deepEqual([way.kind, way.to], ["withdraw", 1]);
});

test("learning rates go back too, and all is said in words", () => {
  const way = wayBack(control(1, 1, { applied: { version: 1, lr_factor: 0.1 } }), [entry(1, 1, "applied", { lr_factor: 0.1 })]);
  assert.equal(moveWords(way.moves[0]), "the factor of the learning rates from 0.10 to 1.00");
  assert.equal(moveWords({ rule: "h.*", name: "max_norm", from: 0.5, to: null }), "max_norm of h.* from 0.50 to none");
});
