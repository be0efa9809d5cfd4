// Several runs on one axis: their lines, their layers' rows, their colours. Pure.

import { MISSING } from "./bytes.js";
import { HOLE, level } from "./heat.js";
import { arrange } from "./layers.js";
import { isHole, usualDistance } from "./matrix.js";
import * as numbers from "./numbers.js";
import { smoothed } from "./views.js";

const finite = (value) => (value !== undefined && Number.isFinite(value) ? value : null);

/**
 * One run's line: `column` of a series with that `stride`; `place(step)` puts it on the axis. What is
 * missing for long, or not finite, breaks it. `bad` are the places of what is not finite.
 */
export function line(column, stride, place, { smooth = 0, geometric = false } = {}) {
  const found = { x: [], steps: [], values: [], bad: [] };
  const { step } = column;
  const usual = Math.max(stride, usualDistance(step, 0, step.length));
  for (let i = 0; i < step.length; i++) {
    if (i && isHole(step[i] - step[i - 1], usual)) {
      found.x.push(place(step[i - 1] + stride));
      found.steps.push(step[i - 1] + stride);
      found.values.push(null);
    }
    const value = column.mean[i];
    const bad = stride === 1 ? !Number.isFinite(value) : column.nonfinite[i] > 0;
    const at = place(step[i]);
    if (bad) found.bad.push(at);
    found.x.push(at);
    found.steps.push(step[i]);
    found.values.push(finite(value));
  }
  return { ...found, raw: found.values, values: smoothed(found.values, smooth, geometric) };
}

/** Lines over one another: {x, columns}; undefined where a line has no point of its own, null where it breaks. */
export function joined(lines) {
  const x = [...new Set(lines.flatMap((one) => one.x))].sort((a, b) => a - b);
  const at = new Map(x.map((value, i) => [value, i]));
  const columns = lines.map((one) => {
    const column = new Array(x.length).fill(undefined);
    // Of two steps at one place in time the later one counts, and a break counts for nothing.
    one.x.forEach((value, i) => {
      const k = at.get(value);
      if (one.values[i] !== null || column[k] === undefined) column[k] = one.values[i];
    });
    return column;
  });
  return { x, columns };
}

/** The point of a line that is nearest to `at`: its index, -1 when there is none. */
export function nearest({ x, values }, at) {
  let [low, high] = [0, x.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < at) low = middle + 1;
    else high = middle;
  }
  let best = -1;
  for (const [from, by] of [[low, 1], [low - 1, -1]]) {
    let i = from;
    while (i >= 0 && i < x.length && values[i] === null) i += by;
    if (i >= 0 && i < x.length && (best < 0 || Math.abs(x[i] - at) < Math.abs(x[best] - at))) best = i;
  }
  return best;
}

/** The range of values of lines: {low, high, positive: the lowest above 0}; null when there are none. */
function extent(lines) {
  let [low, high, positive] = [Infinity, -Infinity, Infinity];
  for (const { values } of lines) {
    for (const value of values) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
      if (value > 0 && value < positive) positive = value;
    }
  }
  return low > high ? null : { low, high, positive: Number.isFinite(positive) ? positive : null };
}

/** The visible part of the y axis: [low, high, whether it is logarithmic after all]. */
export function valueRange(lines, logarithmic) {
  const found = extent(lines);
  if (!found) return [logarithmic ? 0.1 : 0, logarithmic ? 10 : 1, logarithmic];
  const { low, high, positive } = found;
  if (logarithmic && positive !== null) {
    // One line that dies must not press all others together.
    return [...numbers.axisRange(Math.max(positive, high / 1e9), high, true), true];
  }
  if (low >= 0 && high > 0 && low < high * 0.6) return [...numbers.axisRange(low, high, false), false];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.08 || 1;
  return [low - room, high + room, false];
}

/**
 * The rows of each run's map, for `names` (a list of parameter names for each run): what at least two
 * of them have stands on top, the same and in the same order for all, and what a run has for itself
 * below. [{names, order, groups}] as the layer map wants them.
 */
export function alignedRows(names) {
  const many = new Map();
  for (const own of names) for (const name of new Set(own)) many.set(name, (many.get(name) ?? 0) + 1);
  const shared = [...many].filter(([, count]) => count > 1).map(([name]) => name);
  const top = arrange(shared);
  return names.map((own) => {
    const alone = own.filter((name) => many.get(name) === 1);
    const below = arrange(alone);
    const moved = (rows) => rows.map((row) => row + shared.length);
    const label = (text) => (shared.length ? ["only here", text].filter(Boolean).join(": ") : text);
    return {
      names: [...shared, ...alone],
      order: [...top.order, ...moved(below.order)],
      groups: [...top.groups, ...below.groups.map((group) => ({ label: label(group.label), rows: moved(group.rows) }))],
    };
  });
}

/**
 * A run's picture in rows of `rows` (of alignedRows) on an axis from `low` to `high`, as the layer map
 * draws it; `own` are the run's names. `place(step)`: where a step is on an axis of time, in which case
 * `cells` says into how many parts that is divided; null where the axis is one of steps.
 */
export function alignedMap({ buckets, origin, stride, bits }, own, rows, low, high, place = null, cells = 1000) {
  const values = new Float32Array(bits.buffer, bits.byteOffset, bits.length);
  const width = rows.names.length;
  const levels = new Uint8Array(width * buckets).fill(HOLE);
  const at = new Map(own.map((name, row) => [name, row]));
  const source = rows.names.map((name) => at.get(name) ?? -1);
  source.forEach((row, target) => {
    if (row < 0) return;
    for (let b = 0; b < buckets; b++) levels[b * width + target] = level(bits[row * buckets + b], values[row * buckets + b]);
  });
  const valueOf = (bucket, row) => {
    const from = source[row] < 0 ? -1 : source[row] * buckets + bucket;
    return from < 0 || bits[from] === MISSING ? null : values[from];
  };
  // A picture is painted anew when its source is another.
  const shared = { source: levels, levels, width, ...rows, gaps: [], relative: false };
  const stepOf = (bucket) => origin + bucket * stride;
  if (!place) {
    return {
      ...shared, stride, low, high, stepOf, size: stride,
      indexes: Uint32Array.from({ length: buckets }, (_, b) => b),
      steps: Float64Array.from({ length: buckets }, (_, b) => stepOf(b)),
      valueAt: valueOf,
    };
  }
  // Time is divided into cells. A bucket fills those from its own to the next one's, and where many
  // share a cell it holds the largest of them.
  const cellOf = (step) => Math.round(((place(step) - low) / (high - low)) * cells);
  const [indexes, steps] = [[], []];
  for (let b = 0; b < buckets; b++) {
    const from = cellOf(stepOf(b));
    const to = Math.max(from, cellOf(stepOf(b + 1)) - 1);
    for (let cell = Math.max(0, from); cell <= Math.min(to, cells); cell++) {
      indexes.push(b);
      steps.push(cell);
    }
  }
  return {
    ...shared, stride: 1, low: 0, high: cells, size: stride, stepOf: (k) => stepOf(indexes[k]),
    indexes: Uint32Array.from(indexes), steps: Float64Array.from(steps),
    valueAt: (k, row) => valueOf(indexes[k], row),
  };
}

/** A table of what the chart shows: a row for each point, a column for each run. */
export function comparisonTable(axis, column, runs) {
  const steps = axis === "step";
  const { x, columns } = joined(runs.map(({ line: own }) => ({ x: own.x, values: own.raw })));
  const head = [steps ? "step" : "seconds", ...runs.map(({ name }) => `${column}: ${name}`)];
  const rows = x.map((at, i) => [at, ...columns.map((values) => values[i] ?? null)]);
  return { head, rows: rows.filter((row) => row.slice(1).some((value) => value !== null)) };
}
