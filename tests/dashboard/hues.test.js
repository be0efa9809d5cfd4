import assert from "node:assert/strict";
import { test } from "node:test";
import { MOST_RUNS, hue, ink, letter } from "../../dashboard/gradhelm_dashboard/assets/hues.js";

const GROUND = { dark: "#12151c", light: "#ffffff" };
// What people see who lack a kind of cone (Machado, Oliveira and Fernandes 2009, severity 1).
const SEEN = {
  all: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protanopia: [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  deuteranopia: [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  tritanopia: [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};
const linear = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
const through = (matrix, colour) => matrix.map((row) => Math.min(1, Math.max(0, row.reduce((sum, part, i) => sum + part * colour[i], 0))));
function oklab([r, g, b]) {
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s, 1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s, 0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s];
}
const luminance = (hex) => linear(hex).reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
};

for (const theme of ["dark", "light"]) {
  const hues = Array.from({ length: MOST_RUNS }, (_, slot) => hue(slot, theme));
  test(`runs can be told apart by everybody, and from the ground (${theme})`, () => {
    for (const [kind, matrix] of Object.entries(SEEN)) {
      const seen = hues.map((hex) => oklab(through(matrix, linear(hex))));
      seen.forEach((a, i) => seen.slice(i + 1).forEach((b, k) => {
        const apart = Math.hypot(...a.map((part, j) => part - b[j]));
        assert.ok(apart > 0.085, `${kind}: ${hues[i]} and ${hues[i + 1 + k]} are ${apart.toFixed(3)} apart`);
      }));
    }
    for (const hex of hues) assert.ok(contrast(hex, GROUND[theme]) >= 3, hex);
  });
  test(`letters can be read on them (${theme})`, () => {
    hues.forEach((hex, slot) => assert.ok(contrast(hex, ink(slot, theme)) >= 3, hex));
  });
}

test("each run has a letter of its own", () => {
  assert.equal(Array.from({ length: MOST_RUNS }, (_, slot) => letter(slot)).join(""), "ABCDEFGH");
});
