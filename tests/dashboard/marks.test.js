import assert from "node:assert/strict";
import { test } from "node:test";
import { marks } from "../../dashboard/gradhelm_dashboard/assets/marks.js";

const version = (more) => ({
  version: 1, author: "ada", reason: "spikes", match: null, stream: null, from: { max_norm: 1 }, to: { max_norm: 0.5 },
  events: [{ status: "pending", step: null }, { status: "applied", step: 1200 }], ...more,
});

test("a change is marked where it took hold, with who and why", () => {
  assert.deepEqual(marks([version({})], [], null), [
    { step: 1200, tone: "info", title: "Step 1,200: max_norm 1.00 → 0.50, by ada: spikes" },
  ]);
  assert.deepEqual(marks([version({ events: [{ status: "rejected", step: null }] })], [], null), []);
});

test("the end of a temporary one is marked too", () => {
  const events = [{ status: "applied", step: 10 }, { status: "reverted", step: 30, why: "its 20 steps are over" }];
  const found = marks([version({ events, match: "head.*", reason: "" })], [], null);
  assert.deepEqual(found.map(({ title }) => title), [
    "Step 10: max_norm 1.00 → 0.50 for head.*, by ada",
    "Step 30: max_norm 1.00 → 0.50 for head.* taken back: its 20 steps are over",
  ]);
});

test("what the script does by itself is told from what people do", () => {
  const jumps = [{ step: 1200, from: 1, to: 0.5 }, { step: 40, from: 2, to: 1 }];
  const found = marks([version({})], jumps, null);
  assert.deepEqual(found.map(({ step, tone }) => [step, tone]), [[40, "faint"], [1200, "info"]]);
  assert.match(found[0].title, /by the training script/);
});

test("each optimizer has its own; a learning rate and a stop are told in words", () => {
  assert.deepEqual(marks([version({ stream: "disc" })], [], null), []);
  assert.equal(marks([version({ stream: "disc" })], [], "disc").length, 1);
  const [{ title }] = marks([version({ to: { max_norm: 1 }, lr_factor: 0.1, stop: true, author: null, reason: "" })], [], null);
  assert.equal(title, "Step 1,200: learning rate × 0.1, asked to stop, by somebody");
});
