import assert from "node:assert/strict";
import { test } from "node:test";
import { clock, duration, timeTicks } from "../../dashboard/gradhelm_dashboard/assets/clock.js";

test("between known steps time passes evenly, and beyond them as before", () => {
  const { secondsAt, stepAt, known } = clock({ step: [0, 10, 20], elapsed: [0, 5, 25] });
  assert.equal(known, true);
  assert.deepEqual([0, 5, 10, 15, 20].map(secondsAt), [0, 2.5, 5, 15, 25]);
  assert.equal(secondsAt(30), 37.5);
  assert.deepEqual([0, 2.5, 15, 25].map(stepAt), [0, 5, 15, 20]);
});

test("a clock that was set back does not make time run back", () => {
  const { secondsAt } = clock({ step: [0, 1, 2, 3], elapsed: [0, 10, 4, 12] });
  assert.deepEqual([0, 1, 2, 3].map(secondsAt), [0, 10, 10, 12]);
});

test("a run without steps, or with one, has no pace", () => {
  assert.equal(clock({ step: [], elapsed: [] }).secondsAt(7), 0);
  assert.equal(clock({ step: [], elapsed: [] }).known, false);
  assert.equal(clock({ step: [5], elapsed: [0] }).secondsAt(7), 0);
});

test("ticks stand at full minutes, hours and days", () => {
  assert.deepEqual(timeTicks(0, 60, 4), [0, 15, 30, 45, 60]);
  assert.deepEqual(timeTicks(0, 7200, 5), [0, 1800, 3600, 5400, 7200]);
  assert.deepEqual(timeTicks(0, 0.4, 4), [0, 0.1, 0.2, 0.3, 0.4]);
  assert.deepEqual(timeTicks(0, 20 * 86_400, 4).map((at) => at / 86_400), [0, 5, 10, 15, 20]);
  assert.deepEqual(timeTicks(5, 5, 4), [5]);
});

test("spans are written as people say them", () => {
  const said = [0, 0.25, 9.96, 45, 60, 150, 3600, 3900, 86_400, 273_600].map(duration);
  assert.deepEqual(said, ["0 s", "0.25 s", "10 s", "45 s", "1 min", "2 min 30 s", "1 h", "1 h 5 min", "1 d", "3 d 4 h"]);
  assert.equal(duration(59.9), "1 min");
  assert.equal(duration(null), "–");
});
