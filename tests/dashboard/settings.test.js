import assert from "node:assert/strict";
import { test } from "node:test";
import { who } from "../../dashboard/gradhelm_dashboard/assets/account.js";
import { browser } from "../../dashboard/gradhelm_dashboard/assets/agent.js";
import { collected } from "../../dashboard/gradhelm_dashboard/assets/grants.js";
import { asked } from "../../dashboard/gradhelm_dashboard/assets/newtoken.js";
import { until } from "../../dashboard/gradhelm_dashboard/assets/numbers.js";
import { wrong } from "../../dashboard/gradhelm_dashboard/assets/password.js";
import { lasting, standing as standingOf, ways } from "../../dashboard/gradhelm_dashboard/assets/people.js";
import { ordered, standing, whatStops } from "../../dashboard/gradhelm_dashboard/assets/tokens.js";

const NOW = Date.parse("2026-03-01T12:00:00Z");
const token = (more = {}) => ({ id: "a", name: "ci", role: "ingest", project: "*", owner: null, created_at: "2026-02-01T12:00:00Z", expires_at: null, last_used_at: null, revoked_at: null, ...more });

test("who one is: an account, the local administrator, or a token", () => {
  assert.equal(who({ name: "bea", kind: "session", account: true }), "You are signed in as bea.");
  assert.match(who({ name: "local", kind: "session", account: false }), /local administrator of this server, signed in by a one-time link/);
  assert.equal(who({ name: "ci", kind: "token", account: false }), "You came in by the API token ci.");
});

test("browsers are called by their own names, and programs by theirs", () => {
  const mozilla = "Mozilla/5.0";
  const webkit = "AppleWebKit/537.36 (KHTML, like Gecko)";
  assert.equal(browser(`${mozilla} (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0`), "Firefox 128 on Linux");
  assert.equal(browser(`${mozilla} (Windows NT 10.0; Win64; x64) ${webkit} Chrome/126.0.0.0 Safari/537.36`), "Chrome 126 on Windows");
  assert.equal(browser(`${mozilla} (Windows NT 10.0; Win64; x64) ${webkit} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.68`), "Edge 126 on Windows");
  assert.equal(browser(`${mozilla} (X11; Linux x86_64) ${webkit} HeadlessChrome/140.0.0.0 Safari/537.36`), "Chrome 140 on Linux");
  assert.equal(browser(`${mozilla} (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15`), "Safari 17 on macOS");
  assert.equal(browser(`${mozilla} (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1`), "Safari 17 on iPhone");
  assert.equal(browser(`${mozilla} (Linux; Android 14; Pixel 8) ${webkit} Chrome/126.0.0.0 Mobile Safari/537.36`), "Chrome 126 on Android");
  assert.equal(browser("python-httpx/0.28.1"), "python-httpx/0.28.1");
  for (const nothing of ["", null, undefined]) assert.equal(browser(nothing), "An unknown browser");
});

test("a token is active, about to expire, expired or revoked", () => {
  assert.deepEqual(standing(token(), NOW), { word: "Active", tone: "live", ended: false });
  assert.equal(standing(token({ expires_at: "2026-06-01T12:00:00Z" }), NOW).word, "Active");
  assert.equal(standing(token({ expires_at: "2026-03-05T12:00:00Z" }), NOW).word, "Expires soon");
  assert.deepEqual(standing(token({ expires_at: "2026-03-01T12:00:00Z" }), NOW), { word: "Expired", tone: "", ended: true });
  assert.equal(standing(token({ expires_at: "2026-02-01T12:00:00Z", revoked_at: "2026-01-05T12:00:00Z" }), NOW).word, "Revoked");
});

test("tokens that let somebody in come first, newest first, then those that ended last", () => {
  const made = [
    token({ id: "old" }), token({ id: "revoked long ago", revoked_at: "2026-02-02T12:00:00Z" }),
    token({ id: "new", created_at: "2026-02-20T12:00:00Z" }), token({ id: "expired lately", expires_at: "2026-02-28T12:00:00Z" }),
  ];
  assert.deepEqual(ordered(made, NOW).map(({ id }) => id), ["new", "old", "expired lately", "revoked long ago"]);
});

test("before a token is revoked it is said who is shut out, for every role, and when it was used", () => {
  for (const role of ["viewer", "operator", "admin", "ingest", "metrics"]) assert.equal(whatStops(token({ role }), NOW).every((line) => line.length > 20), true);
  assert.match(whatStops(token(), NOW)[0], /train on, and clip as before/);
  assert.match(whatStops(token(), NOW)[1], /has never been used/);
  assert.match(whatStops(token({ last_used_at: "2026-03-01T11:57:00Z" }), NOW)[1], /last used 3 min ago.*cannot be taken back/);
});

test("a new token is asked for without what is empty", () => {
  assert.deepEqual(asked({ name: "", role: "ingest", project: "*", life: null }), { role: "ingest", project: "*" });
  assert.deepEqual(asked({ name: "ci", role: "viewer", project: "a", life: 60 }), { role: "viewer", project: "a", name: "ci", expires_in: 60 });
});

test("roles as rows become grants; what is named twice, or nothing at all, is told", () => {
  assert.deepEqual(collected([{ project: "*", role: "viewer" }, { project: "a", role: "operator" }]), { grants: { "*": "viewer", a: "operator" } });
  assert.deepEqual(collected([{ project: "a", role: "viewer" }, { project: "a", role: "operator" }]), { at: 1, wrong: "The project a is named twice." });
  assert.match(collected([{ project: "*", role: "viewer" }, { project: "*", role: "operator" }]).wrong, /All projects are named twice/);
  assert.match(collected([]).wrong, /without a role could not come in/);
  assert.deepEqual(Object.keys(collected([{ project: "__proto__", role: "viewer" }]).grants), ["__proto__"]);
});

test("a password of fewer than twelve characters, however they are written, is too short", () => {
  assert.equal(wrong("correct horse battery"), null);
  assert.equal(wrong("a".repeat(12)), null);
  assert.match(wrong("a".repeat(11)), /At least 12 characters; these are 11/);
  assert.match(wrong("🔑".repeat(11)), /these are 11/);
  assert.equal(wrong(""), "At least 12 characters.");
});

test("somebody is active, invited or disabled, and signs in by what there is", () => {
  const bea = { password: false, oidc: false, last_login_at: null, disabled_at: null };
  assert.equal(standingOf(bea).word, "Invited");
  for (const more of [{ password: true }, { oidc: true }, { last_login_at: "2026-03-01T12:00:00Z" }]) assert.equal(standingOf({ ...bea, ...more }).word, "Active");
  assert.equal(standingOf({ ...bea, password: true, disabled_at: "2026-03-01T12:00:00Z" }).word, "Disabled");
  assert.deepEqual([ways(bea), ways({ password: true }), ways({ oidc: true }), ways({ password: true, oidc: true })], ["one-time links", "password", "single sign-on", "password or single sign-on"]);
  assert.deepEqual([lasting(600), lasting(1200)], ["ten minutes", "20 min"]);
});

test("how long it is until then", () => {
  const after = (seconds) => until(NOW + seconds * 1000, NOW);
  assert.deepEqual([0.5, 30, 119, 120, 3 * 3600, 2 * 86_400, 90 * 86_400].map(after), ["now", "in 30 s", "in 119 s", "in 2 min", "in 3 h", "in 2 days", "in 90 days"]);
  assert.equal(after(-5), "now");
});
