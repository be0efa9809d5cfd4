import assert from "node:assert/strict";
import { test } from "node:test";
import { Calm, Painter, backOff } from "../../dashboard/gradhelm_dashboard/assets/coalesce.js";

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

test("what is to be calm is done at once, then seldom, and at last once more", () => {
  let [time, hidden, done] = [0, false, 0];
  const timers = [];
  const calm = new Calm(250, () => done++, { now: () => time, later: (act, ms) => timers.push({ act, at: time + ms }), hidden: () => hidden });
  for (; time <= 1000; time += 10) {
    while (timers[0]?.at <= time) timers.shift().act();
    calm.touch();
  }
  assert.equal(done, 5);
  assert.equal(timers.length, 1);
  hidden = true;
  timers.shift().act();
  assert.equal(done, 5);
  hidden = false;
  time += 1000;
  calm.touch();
  calm.do();
  assert.equal(done, 7);
  calm.touch();
  assert.equal(done, 7);
  calm.hurry();
  calm.touch();
  assert.equal(done, 8);
});

test("attempts grow apart, at most to ten seconds, and are never all at once", () => {
  assert.equal(backOff(0, () => 1), 250);
  assert.equal(backOff(3, () => 1), 2000);
  assert.equal(backOff(50, () => 1), 10_000);
  assert.equal(backOff(50, () => 0), 5000);
});
