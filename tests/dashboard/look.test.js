import assert from "node:assert/strict";
import { test } from "node:test";
import { Look, MOST_LANES, MOST_LAYERS } from "../../dashboard/gradhelm_dashboard/assets/look.js";

test("an address holds the whole view, and gives it back", () => {
  const look = new Look();
  Object.assign(look, {
    range: { low: 100, high: 9007199254740991 }, window: "all", scale: "linear", map: "relative", smooth: 0.85,
    lanes: ["loss", "val/acc, %&=+#"], layers: ["h.0.attn", "ünïcode <b>"],
  });
  const search = look.write("");
  assert.deepEqual(Look.read(search), look);
  assert.equal(Look.read(search).write(search), search);
});

test("what is as usual is not in the address, and what is not ours stays there", () => {
  assert.equal(new Look().write(""), "");
  assert.equal(new Look().write("?stream=disc&scale=linear&layer=x&lane=y&steps=1-2"), "?stream=disc");
});

test("no lines at all is a choice too", () => {
  const look = new Look();
  look.layers = [];
  assert.deepEqual(Look.read(look.write("")).layers, []);
  assert.equal(Look.read("").layers, null);
});

test("what an address cannot mean is passed over", () => {
  const usual = new Look();
  for (const wrong of [
    "?steps=5", "?steps=9-3", "?steps=-1-5", "?steps=1-x", "?steps=1e3-2e3", "?scale=cubic", "?window=", "?map=1",
    "?smooth=NaN", "?smooth=-1", "?smooth=", "?lane=", "?steps=99999999999999999-5",
  ]) assert.deepEqual(Look.read(wrong), usual, wrong);
  assert.equal(Look.read("?smooth=7").smooth, 0.99);
  const many = new URLSearchParams(Array.from({ length: 100 }, (_, i) => ["lane", String(i)]));
  assert.equal(Look.read(`?${many}&lane=0`).lanes.length, MOST_LANES);
  const layers = new URLSearchParams(Array.from({ length: 100 }, (_, i) => ["layer", String(i)]));
  assert.equal(Look.read(`?${layers}`).layers.length, MOST_LAYERS);
});
