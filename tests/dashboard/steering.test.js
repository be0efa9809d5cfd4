import assert from "node:assert/strict";
import { test } from "node:test";
import { Steering, moves, sentence } from "../../dashboard/gradhelm_dashboard/assets/steering.js";

const rule = (more = {}) => ({
  match: null, stream: null, strategy: "GlobalNorm", threshold_name: "max_norm", coded: { max_norm: 1 }, desired: { max_norm: 0.5 }, applied: { max_norm: 0.7 },
  limits: { max_norm: { min: 0.01, max: 100 } }, ...more,
});
const steered = (control = {}, run = {}, user = null, stream = null) => {
  const made = new Steering(stream);
  made.control = { version: 1, status: "applied", read_only: false, why_read_only: null, rules: [rule()], ...control };
  made.run = { status: "live", ...run };
  made.user = user;
  return made;
};

test("the rule that is steered is the chosen one, else the first with a threshold", () => {
  const rules = [rule({ match: "a.*", threshold_name: null }), rule({ match: "*" }), rule({ stream: "disc" })];
  const made = steered({ rules });
  assert.equal(made.rule.match, "*");
  assert.equal(made.rules.length, 2);
  made.choose("a.*");
  assert.equal(made.name, null);
  assert.equal(steered({ rules }, {}, null, "disc").rule.stream, "disc");
});

test("what is in force, asked for and accepted", () => {
  const made = steered();
  assert.deepEqual([made.applied, made.desired, made.limit], [0.7, 0.5, { min: 0.01, max: 100 }]);
  assert.deepEqual(made.extent, { low: -2, high: 2 });
  assert.equal(made.target, 0.5);
  // What was refused, or taken back, is not what the run is about to have.
  for (const status of ["rejected", "reverted", "expired"]) assert.deepEqual([steered({ status }).desired, steered({ status }).target], [undefined, 0.7]);
  assert.equal(steered({ rules: [rule({ limits: { max_norm: { min: 0, max: 10 } } })] }).extent.low, -3);
});

test("why nothing can be changed: ended, read-only, a viewer, no threshold; and nothing when it can", () => {
  assert.equal(new Steering(null).why, "");
  assert.equal(steered().why, null);
  assert.match(steered({}, { status: "stopped" }).why, /has been stopped; .* no longer move/);
  assert.equal(steered({ read_only: true, why_read_only: "no control" }).why, "No control.");
  const viewer = { name: "eve", role: "viewer", grants: { "*": "viewer" } };
  assert.match(steered({}, {}, viewer).why, /signed in as eve with the role viewer.*operator/);
  const elsewhere = { name: "eve", role: "operator", grants: { vision: "operator", audio: "viewer" } };
  assert.match(steered({}, { project: "audio" }, elsewhere).closed, /may change runs in the project vision.*in the project audio, where you may look/);
  assert.equal(steered({}, { project: "vision" }, elsewhere).why, null);
  const none = steered({ rules: [rule({ threshold_name: null })] });
  assert.match(none.why, /no threshold of its own/);
  assert.equal(none.closed, null); // the learning rates, say, can be changed all the same
});

test("norms speak of thresholds that clip by norm, and of no others", () => {
  assert.equal(steered().byNorm, true);
  assert.equal(steered({ rules: [rule({ strategy: "Observe", threshold_name: null })] }).byNorm, true);
  for (const strategy of ["SoftNorm", "PerParameterNorm", "Ceiling(AutoClip)"]) assert.equal(steered({ rules: [rule({ strategy })] }).byNorm, false);
  assert.equal(steered({ rules: [rule({ threshold_name: "percentile" })] }).byNorm, false);
});

test("moves are what differs, and what came or went", () => {
  assert.deepEqual(moves({ a: 1, b: 2 }, { a: 1, b: 3, c: 4 }), [{ name: "b", from: 2, to: 3 }, { name: "c", from: null, to: 4 }]);
  assert.deepEqual(moves({ a: 1 }, {}), [{ name: "a", from: 1, to: null }]);
  assert.equal(sentence("no control"), "No control.");
  assert.equal(sentence(null), null);
});
