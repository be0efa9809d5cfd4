import assert from "node:assert/strict";
import { test } from "node:test";
import { readHash, readNext, waiting } from "../../dashboard/gradhelm_dashboard/login/files/address.js";

const CODE = "Zk9-_aB3dE6fG7hI8jK0lM1nO2pQ4rS5";

test("a fragment is a code, an error, or a part of the page one was on the way to", () => {
  assert.deepEqual(readHash(`#${CODE}`), { code: CODE, error: "", anchor: "" });
  assert.deepEqual(readHash("#tokens"), { code: "", error: "", anchor: "#tokens" });
  assert.deepEqual(readHash(""), { code: "", error: "", anchor: "" });
  assert.equal(readHash("#error=access%20denied").error, "access denied");
  assert.equal(readHash("#error=access+denied").error, "access denied");
});

test("an error is text of a bearable length, without what turns or breaks lines", () => {
  assert.equal(readHash(`#error=${"x".repeat(1000)}`).error.length, 300);
  assert.equal(readHash("#error=a%0Ab%E2%80%AEc%00").error, "a b c");
  assert.equal(readHash("#error=%E0%A4%A").error, "");
});

test("one goes on to a path of this server", () => {
  const to = (next, anchor) => readNext(`?next=${encodeURIComponent(next)}`, anchor);
  for (const next of ["/", "/settings", "/runs/a?window=all#x", "/loginless", "/a//b"]) assert.equal(to(next), next);
  assert.equal(to("/settings", "#tokens"), "/settings#tokens");
  assert.equal(to("/settings#people", "#tokens"), "/settings#people");
  assert.equal(readNext("", "#tokens"), "");
});

test("and never anywhere else, or in circles", () => {
  const elsewhere = [
    "//evil.example", "/\\evil.example", "\\\\evil.example", "/a\\..\\b", "https://evil.example", "javascript:alert(1)", "evil.example", "",
    "/\t/evil.example", "\t//evil.example", "/\n/evil.example", " //evil.example", "/login", "/login?next=/", "/login/oidc", "/login#x",
  ];
  for (const next of elsewhere) assert.equal(readNext(`?next=${encodeURIComponent(next)}`), "", JSON.stringify(next));
  for (const next of elsewhere.filter((one) => one.startsWith("/"))) {
    const found = readNext(`?next=${encodeURIComponent(next)}`) || "/";
    assert.equal(new URL(found, "http://here.example").origin, "http://here.example");
  }
});

test("how long to wait is said in words", () => {
  assert.deepEqual([1, 59, 60, 61, 125, 900].map(waiting), ["1 second", "59 seconds", "1 minute", "1 minute and 1 second", "2 minutes and 5 seconds", "15 minutes"]);
});
