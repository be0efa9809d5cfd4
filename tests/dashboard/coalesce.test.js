import assert from "node:assert/strict";
import { test } from "node:test";
import { Painter, backOff } from "../../dashboard/gradhelm_dashboard/assets/coalesce.js";

test("a thousand messages are one draw of the next frame", () => {
  const frames = [];
  let draws = 0;
  const painter = new Painter(() => draws++, { frame: (act) => frames.push(act), hidden: () => false });
  for (let i = 0; i < 1000; i++) painter.touch();
  assert.deepEqual([frames.length, draws], [1, 0]);
  frames.pop()();
  assert.deepEqual([draws, painter.drawn], [1, 1]);
});

test("a hidden tab draws nothing, and once when it is seen again", () => {
  const frames = [];
  let hidden = true;
  const painter = new Painter(() => null, { frame: (act) => frames.push(act), hidden: () => hidden });
  painter.touch();
  painter.touch();
  assert.equal(frames.length, 0);
  hidden = false;
  painter.touch();
  frames.pop()();
  assert.equal(painter.drawn, 1);
});

test("attempts grow apart, at most to ten seconds, and are never all at once", () => {
  assert.equal(backOff(0, () => 1), 250);
  assert.equal(backOff(3, () => 1), 2000);
  assert.equal(backOff(50, () => 1), 10_000);
  assert.equal(backOff(50, () => 0), 5000);
});
