import assert from "node:assert/strict";
import { test } from "node:test";
import { arrange, handful, parse, shares, spread } from "../../dashboard/gradhelm_dashboard/assets/layers.js";

const NAMES = ["wte.weight", "h.0.attn.qkv.weight", "h.0.attn.qkv.bias", "h.1.attn.qkv.weight", "h.1.attn.qkv.bias", "head.weight"];

test("a name tells the kind of module and its depth", () => {
  assert.deepEqual(parse("transformer.h.11.mlp.fc.weight"), { kind: "mlp.fc", depth: 11 });
  assert.deepEqual(parse("h.2.attn.qkv.bias"), { kind: "attn.qkv bias", depth: 2 });
  assert.deepEqual(parse("layer1.0.downsample.1.weight"), { kind: "downsample.1", depth: 0 });
  assert.deepEqual(parse("lstm.weight_ih_l0"), { kind: null, depth: null });
  assert.deepEqual(parse("0.weight"), { kind: "weight", depth: 0 });
});

test("rows are grouped by kind, and every row is there once", () => {
  const { order, groups } = arrange(NAMES);
  assert.deepEqual(groups.map((group) => group.label), ["other", "attn.qkv", "attn.qkv bias"]);
  assert.deepEqual(order, [0, 5, 1, 3, 2, 4]);
});

test("a handful of layers is spread over the depth of one kind", () => {
  const names = Array.from({ length: 40 }, (_, i) => `h.${i}.fc.weight`);
  assert.deepEqual(handful(names, 3).rows, [0, 20, 39]);
  assert.deepEqual(spread([1, 2], 5), [1, 2]);
  assert.deepEqual(handful([]).rows, []);
});

test("shares are of the squared norm, and non-finite norms have none", () => {
  const [first, second] = shares([3, NaN, 4]);
  assert.deepEqual([first.index, second.index], [2, 0]);
  assert.ok(Math.abs(first.share - 16 / 25) < 1e-9);
});
