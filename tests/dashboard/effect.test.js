import assert from "node:assert/strict";
import { test } from "node:test";
import { SPAN, effectWords, median, relative, subject, summary } from "../../dashboard/gradhelm_dashboard/assets/effect.js";

const entry = (version, events, more = {}) => ({ version, stream: null, to: { max_norm: 1 }, events: events.map(([status, step]) => ({ status, step })), ...more });

test("compared is the newest change that took hold, of this optimizer", () => {
  assert.equal(subject([], null), null);
  const versions = [entry(4, [["pending", null]]), entry(3, [["applied", 900]], { stream: "disc" }), entry(2, [["pending", null], ["applied", 800]]), entry(1, [["applied", 100]])];
  const found = subject(versions, null);
  assert.deepEqual([found.entry.version, found.step, found.end, found.mixed], [2, 800, 800 + SPAN, false]);
  assert.equal(subject(versions, "disc").step, 900);
});

test("one that was taken back is compared as far as it went, and a change just before is mentioned", () => {
  const found = subject([entry(2, [["applied", 800], ["reverted", 850]]), entry(1, [["applied", 700]])], null);
  assert.deepEqual([found.end, found.mixed], [850, true]);
});

test("a run that was resumed is compared at the step where the change first took hold", () => {
  assert.equal(subject([entry(1, [["applied", 100], ["applied", 500]])], null).step, 100);
});

test("the figures: medians of what is finite, shares of what there is", () => {
  const step = Float64Array.from([1, 2, 3, 4, 5]);
  const series = { columns: { global_norm: { step, mean: [1, 3, NaN, 2, 100] }, clipped: { step, mean: [0, 1, 0, 1, 1] }, loss: { step: [2, 3], mean: [Infinity, 5] } } };
  assert.deepEqual(summary(series, 1, 4), { steps: 4, norm: 2, clipped: 0.5, nonfinite: 1, loss: 5 });
  assert.deepEqual(summary(series, 9, 10), { steps: 0, norm: null, clipped: null, nonfinite: 0, loss: null });
  assert.equal(median([4, 1, 3, 2]), 2.5);
});

test("differences and words", () => {
  assert.equal(relative(2, 1), "−50 %");
  assert.equal(relative(1, 1), "±0 %");
  assert.equal(relative(0, 1), "");
  const before = { norm: 2, clipped: 0.03, loss: 2.3 };
  assert.equal(effectWords(before, { norm: 1, clipped: 0.4, loss: 2.3001 }),
    "The median norm fell from 2.00 to 1.00, the clip fraction rose from 3.0 % to 40.0 %, the median loss stayed at 2.30.");
  assert.equal(effectWords({ norm: null, clipped: null, loss: null }, before), "");
});
