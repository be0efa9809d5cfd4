import assert from "node:assert/strict";
import { test } from "node:test";
import { fate, stay } from "../../dashboard/gradhelm_dashboard/assets/fate.js";

const control = (more = {}) => ({ version: 2, status: "applied", why: null, not_before_step: null, ttl_steps: null, revert_if: null, applied: { version: 2, step: 1200, until: null }, ...more });

test("a change that is in force says since when, and how long it took when it is one's own", () => {
  const { text, step, tone } = fate(control(), { took: 182, last: 1300 });
  assert.deepEqual([text, step, tone], ["Applied at step 1,200, 182 ms", 1200, "ok"]);
  assert.equal(fate(control(), { whose: " of disc" }).text, "Applied at step 1,200 of disc");
  assert.equal(fate(control({ version: 0 })).text, "");
});

test("a temporary one counts down, and one on trial too", () => {
  const temporary = control({ applied: { version: 2, step: 1200, until: 1400 } });
  assert.equal(fate(temporary, { last: 1276 }).rest, "In force until step 1,400: 123 steps left.");
  assert.equal(stay(temporary, 1398), "In force until step 1,400: 1 step left.");
  assert.equal(stay(temporary, null), "In force until step 1,400.");
  const trial = control({ revert_if: { within: 100, nonfinite: true } });
  assert.match(stay(trial, 1250), /^On trial for 49 steps more: taken back if the loss/);
  assert.equal(stay(trial, 1299), "It has stood its trial.");
  // The newest version was taken back: what is in force is another, and not on trial.
  assert.equal(stay({ ...trial, applied: { version: 1, step: 5, until: null } }, 1250), "");
});

test("one that waits says for what", () => {
  assert.equal(fate(control({ status: "pending" })).text, "Sent, waiting for the trainer");
  assert.equal(fate(control({ status: "delivered", not_before_step: 1300 }), { last: 1200 }).text, "Waits in the trainer until step 1,300: 100 steps to go");
  assert.match(fate(control({ status: "delivered", not_before_step: 1300 }), { last: 1299 }).text, /next step/);
});

test("what was refused or taken back says why, and what is being done comes first", () => {
  assert.equal(fate(control({ status: "rejected", why: "too late" })).text, "Refused by the trainer: too late");
  assert.equal(fate(control({ status: "reverted", why: "its time is over" })).text, "Taken back by the trainer: its time is over");
  assert.equal(fate(control({ status: "expired" })).text, "Last change: expired");
  assert.equal(fate(control(), { message: { tone: "bad", text: "No." } }).text, "No.");
  assert.equal(fate(control(), { busy: true, message: { tone: "bad", text: "No." } }).text, "Sending…");
});
