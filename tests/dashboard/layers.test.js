import assert from "node:assert/strict";
import { test } from "node:test";
import { arrange, handful, matcher, parse, ranked, shortName, spread } from "../../dashboard/gradhelm_dashboard/assets/layers.js";

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

test("a list is in the order that was asked for, grouped or not", () => {
  const squares = [4, 9, 1, 16, 0, 25];
  const rows = (sort, grouped) => ranked(NAMES, squares, sort, grouped).map(({ row }) => row);
  assert.deepEqual(rows("share", false), [5, 3, 1, 0, 2, 4]);
  assert.deepEqual(rows("depth", false), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(rows("name", false), [2, 1, 4, 3, 5, 0]);
  assert.deepEqual(rows("share", true), [5, 0, 3, 1, 2, 4]);
  assert.deepEqual(ranked(["b10", "b9"], [0, 0], "name", false), [{ row: 1 }, { row: 0 }]);
});

test("what is typed is a part of a name, or an expression between slashes", () => {
  const found = (text) => NAMES.filter(matcher(text).match).length;
  assert.equal(found(""), NAMES.length);
  assert.equal(found(" QKV.w "), 2);
  assert.equal(found("/^h\\.1\\./"), 2);
  assert.equal(found("/bias$"), 2);
  const { match, wrong } = matcher("/(/");
  assert.match(wrong, /group/);
  assert.equal(match("("), false);
});

test("a short name begins where layers differ", () => {
  assert.equal(shortName("transformer.h.11.mlp.fc.weight"), "11.mlp.fc.weight");
  assert.equal(shortName("head.weight"), "head.weight");
  assert.equal(shortName("0.weight"), "0.weight");
});
