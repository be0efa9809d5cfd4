// From norms to colours. Pure.
//
// A norm is kept as one byte, the logarithm's place in a fixed range, made when it arrives: 0 is
// missing, 255 non-finite. Drawing is then a table look-up.

import { MISSING } from "./bytes.js";

const LOW = -9;
const HIGH = 5;
const LEVELS = 253;
export const HOLE = 0;
export const NONFINITE = 255;
/** Powers of ten per level. */
export const PER_LEVEL = (HIGH - LOW) / LEVELS;

/** The byte of a norm given as float32 bits and as the number they spell. */
export function level(bits, value) {
  if (bits === MISSING) return HOLE;
  if (!Number.isFinite(value)) return NONFINITE;
  const place = Math.round(((Math.log10(value) - LOW) / (HIGH - LOW)) * LEVELS);
  return value <= 0 || place < 0 ? 1 : place > LEVELS ? 1 + LEVELS : 1 + place;
}

/** The norm that a level stands for. */
export function normOf(lvl) {
  return 10 ** (LOW + ((lvl - 1) / LEVELS) * (HIGH - LOW));
}

/**
 * How many steps one bin of the picture holds. Bins are aligned to absolute multiples of it, so
 * that a moving window does not make the picture shimmer.
 */
export function binSize(steps, most) {
  let size = 1;
  while (steps / size > most) size = size < 4 ? size + 1 : size * 2;
  return size;
}

/** How often each level occurs in a view's cells, of at most about `most` of them. */
export function histogram({ levels, width, indexes, order }, most) {
  const counts = new Uint32Array(256);
  const every = Math.max(1, Math.floor((indexes.length * order.length) / most));
  for (let k = 0; k < indexes.length; k++) {
    const base = indexes[k] * width;
    // From another row at each step, or the same few would always be left out.
    for (let i = k % Math.min(every, order.length); i < order.length; i += every) counts[levels[base + i]]++;
  }
  return counts;
}

/** The levels between which nearly all cells lie: the 0.5 and 99.9 percentiles of a histogram. */
export function levelRange(histogram) {
  let total = 0;
  for (let i = 1; i < NONFINITE; i++) total += histogram[i];
  if (!total) return [1, 254];
  let [low, high, seen] = [1, 254, 0];
  for (let i = 1; i < NONFINITE; i++) {
    seen += histogram[i];
    if (seen <= total * 0.005) low = i + 1;
    if (seen < total * 0.999) high = i + 1;
  }
  return high - low < 8 ? [Math.max(1, low - 4), Math.min(254, high + 4)] : [low, high];
}

/** The median level of a histogram of one row, 0 if the row is empty. */
export function medianLevel(histogram) {
  let total = 0;
  for (let i = 1; i < NONFINITE; i++) total += histogram[i];
  let seen = 0;
  for (let i = 1; i < NONFINITE; i++) {
    seen += histogram[i];
    if (total && seen * 2 >= total) return i;
  }
  return 0;
}

const VIRIDIS = [
  0x440154, 0x481a6c, 0x472f7d, 0x414487, 0x39568c, 0x31688e, 0x2a788e, 0x23888e, 0x1f988b,
  0x22a884, 0x35b779, 0x54c568, 0x7ad151, 0xa5db36, 0xd2e21b, 0xfde725,
];
const AGAINST = {
  dark: [0x8fc1ff, 0x4b8df0, 0x285596, 0x182c4b, 0x12151c, 0x12151c, 0x4a2f12, 0x93591a, 0xe8952f, 0xffd08a],
  light: [0x143f8c, 0x2f6fd0, 0x7dabe8, 0xcfdff5, 0xf4f5f7, 0xf4f5f7, 0xfbdcb4, 0xf2a850, 0xcf6d05, 0x8a4300],
};
const MAGENTA = { dark: 0xff3ec8, light: 0xd6009a };

function between(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  const part = place - i;
  const channel = (shift) => {
    const [a, b] = [(stops[i] >> shift) & 255, (stops[i + 1] >> shift) & 255];
    return Math.round(a + (b - a) * part);
  };
  return [channel(16), channel(8), channel(0)];
}

/** Viridis at a share between 0 and 1, as CSS. */
export function viridis(share) {
  return `rgb(${between(VIRIDIS, share).join(" ")})`;
}

/** 256 colours for `putImageData`, as little-endian RGBA; a hole is transparent. */
export function palette(kind, theme) {
  const stops = kind === "relative" ? AGAINST[theme] : VIRIDIS;
  const table = new Uint32Array(256);
  const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (let i = 1; i < NONFINITE; i++) table[i] = pack(between(stops, (i - 1) / 253));
  const m = MAGENTA[theme];
  table[NONFINITE] = pack([m >> 16, (m >> 8) & 255, m & 255]);
  return table;
}

export const magenta = (theme) => `#${MAGENTA[theme].toString(16)}`;

/**
 * Paints a picture of `bins` × `lines` from step-major levels.
 *
 * `source`: {levels, width, indexes} where indexes[i] is the row of cell block i in `levels` and
 * `binOf[i]` the bin it falls in (increasing). `order`: the rows from top to bottom; several are
 * put on one line when there are more rows than `lines`. Absolute pictures keep the largest of a
 * bin, pictures against the median the mean, where single steps would be noise. Returns where
 * cells are not finite, as places in `out`, so that they can be drawn large enough to be seen.
 */
export function paint({ levels, width, indexes, binOf, bins, order, lines, medians, range, table, out }) {
  const rows = order.length;
  const relative = medians !== null;
  const sum = new Float32Array(rows);
  const seen = new Uint16Array(rows);
  const bad = new Uint8Array(rows);
  const found = [];
  const [low, high] = range;
  const scale = 253 / Math.max(1, high - low);
  // Against the median: from a tenth to ten times of it spans the whole table.
  const spread = 126.5 * PER_LEVEL;
  const flush = (bin) => {
    for (let line = 0; line < lines; line++) {
      const from = Math.floor((line * rows) / lines);
      const to = Math.max(from + 1, Math.floor(((line + 1) * rows) / lines));
      let best = HOLE;
      let strength = -Infinity;
      for (let i = from; i < to; i++) {
        if (bad[i]) {
          best = NONFINITE;
          break;
        }
        if (!seen[i]) continue;
        let cell;
        let weight;
        if (relative) {
          const off = sum[i] / seen[i] - medians[order[i]];
          cell = 127.5 + off * spread;
          weight = Math.abs(off);
        } else {
          cell = 1 + (sum[i] - low) * scale;
          weight = cell;
        }
        if (weight > strength) {
          strength = weight;
          best = cell < 1 ? 1 : cell > 254 ? 254 : Math.round(cell);
        }
      }
      if (best === NONFINITE && found.length < 2000) found.push(line * bins + bin);
      out[line * bins + bin] = table[best];
    }
    sum.fill(0);
    seen.fill(0);
    bad.fill(0);
  };
  let current = -1;
  for (let k = 0; k < indexes.length; k++) {
    if (binOf[k] !== current) {
      if (current >= 0) flush(current);
      current = binOf[k];
    }
    const base = indexes[k] * width;
    for (let i = 0; i < rows; i++) {
      const lvl = levels[base + order[i]];
      if (lvl === HOLE) continue;
      if (lvl === NONFINITE) bad[i] = 1;
      else if (relative) {
        sum[i] += lvl;
        seen[i]++;
      } else {
        if (lvl > sum[i]) sum[i] = lvl;
        seen[i] = 1;
      }
    }
  }
  if (current >= 0) flush(current);
  return found;
}
