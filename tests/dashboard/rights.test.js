import assert from "node:assert/strict";
import { test } from "node:test";
import { byRole, grantsInWords, makeable, mayIn, maySteer, where, whyNot } from "../../dashboard/gradhelm_dashboard/assets/rights.js";

const user = (grants, more = {}) => ({
  name: "bea", role: "operator", kind: "session", account: true, grants,
  may: [...new Set(Object.values(grants).flatMap((role) => ({ viewer: ["view"], operator: ["view", "control"], admin: ["admin", "control", "ingest", "view"] })[role] ?? [role]))],
  ...more,
});

test("a grant holds in its project, one for all projects everywhere, and nothing else does", () => {
  const bea = user({ vision: "operator", audio: "viewer" });
  assert.deepEqual([maySteer(bea, "vision"), maySteer(bea, "audio"), maySteer(bea, "text")], [true, false, false]);
  assert.deepEqual([mayIn(bea, "view", "audio"), mayIn(bea, "view", "text"), mayIn(bea, "admin", "vision")], [true, false, false]);
  assert.equal(maySteer(user({ "*": "operator" }), "whatever"), true);
  assert.equal(maySteer(user({ "*": "viewer", vision: "operator" }), "vision"), true);
  assert.equal(maySteer(user({ "*": "operator", vision: "viewer" }), "vision"), true);
  assert.equal(maySteer(null, "vision"), false);
});

test("projects called like an object's own parts give nobody a right", () => {
  for (const project of ["constructor", "__proto__", "toString"]) assert.equal(maySteer(user({ vision: "operator" }), project), false);
  assert.equal(maySteer(user(JSON.parse('{"__proto__": "operator"}')), "__proto__"), true);
});

test("why a run is closed names the projects in which it would not be", () => {
  assert.equal(whyNot(user({ vision: "operator" }), "vision"), null);
  assert.equal(whyNot(null, "vision"), null);
  assert.equal(
    whyNot(user({ vision: "operator", text: "operator", audio: "viewer" }), "audio"),
    "You are signed in as bea, who may change runs in the projects text and vision. This one is in the project audio, where you may look.",
  );
  assert.match(whyNot(user({ vision: "operator", audio: "viewer" }), "audio"), /runs in the project vision\. This one/);
  assert.match(whyNot(user({ "*": "viewer" }, { role: "viewer" }), "audio"), /with the role viewer, which may look\. .* takes the role operator/);
});

test("grants in words: the strongest role first, all projects before single ones", () => {
  assert.equal(grantsInWords({ "*": "viewer", b: "operator", a: "operator" }), "operator in the projects a and b, viewer in all projects");
  assert.equal(grantsInWords({ "*": "admin" }), "admin in all projects");
  assert.deepEqual(byRole({ z: "viewer", "*": "viewer" }), [{ role: "viewer", projects: ["*", "z"] }]);
  assert.deepEqual(byRole({}), []);
  assert.equal(where(["a", "b", "c"]), "in the projects a, b and c");
});

test("an admin makes any token, others no more than they may themselves, a token none", () => {
  assert.deepEqual(makeable(user({ "*": "admin" })), { viewer: null, operator: null, ingest: null, admin: ["*"], metrics: ["*"] });
  assert.deepEqual(makeable(user({ "*": "viewer" })), { viewer: null });
  assert.deepEqual(makeable(user({ "*": "viewer", b: "operator", a: "operator" })), { viewer: null, operator: ["a", "b"], ingest: ["a", "b"] });
  assert.deepEqual(makeable(user({ vision: "operator" }, { kind: "token" })), {});
  assert.deepEqual(makeable(user({ "*": "admin" }, { kind: "token" })).ingest, null);
});
