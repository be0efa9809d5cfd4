// From the matrix, or from the server's rollups, to what the two charts draw. Pure.

import { MISSING } from "./bytes.js";
import { level } from "./heat.js";
import { isHole, usualDistance } from "./matrix.js";

/** The steps to be shown when the newest `wanted` are followed. */
export function following(firstStep, lastStep, wanted) {
  const low = Math.max(firstStep, lastStep - wanted + 1);
  return { low, high: Math.max(lastStep, low + Math.min(wanted, 60) - 1) };
}

const finite = (value) => (value !== undefined && Number.isFinite(value) ? value : null);

/** Chart data for steps `low`…`high` of the matrix; `rows` are the layers to draw, `lanes` scalars beside them. */
export function fromMatrix(matrix, low, high, rows, lanes = []) {
  const from = matrix.find(low);
  const to = matrix.find(high + 1);
  const usual = usualDistance(matrix.steps, Math.max(from, to - 200), to);
  // Drawn ten times a second: column by column, over the rows of the matrix (-1: a hole).
  const [x, at] = [[], []];
  for (let i = from; i < to; i++) {
    const step = matrix.steps[i];
    if (i > from && isHole(step - matrix.steps[i - 1], usual)) {
      x.push(matrix.steps[i - 1] + usual);
      at.push(-1);
    }
    x.push(step);
    at.push(i);
  }
  const { rows: width, norms } = matrix;
  const scalar = (name) => matrix.scalars.get(name) ?? NOTHING;
  const column = (values, first, by) => {
    const found = new Array(at.length);
    for (let k = 0; k < at.length; k++) {
      // What is missing is a NaN, too.
      const value = at[k] < 0 ? NaN : values[first + at[k] * by];
      found[k] = value - value === 0 ? value : null;
    }
    return found;
  };
  const finites = (name) => column(scalar(name).values, 0, 1);
  const norm = scalar("global_norm");
  const bad = scalar("nonfinite");
  const data = {
    x,
    global: finites("global_norm"),
    threshold: finites("threshold"),
    clipped: finites("clipped").map((value) => (value > 0 ? 1 : 0)),
    nonfinite: [],
    lines: rows.map((row) => column(norms, row, width)),
    lanes: lanes.map(finites),
  };
  for (let k = 0; k < at.length; k++) {
    const i = at[k];
    data.nonfinite.push(i >= 0 && (bad.values[i] > 0 || (data.global[k] === null && norm !== NOTHING && norm.bits[i] !== MISSING)));
  }
  return { ...data, low, high, stride: 1, band: null, changes: changes(data) };
}

/** A scalar that the run does not have. */
const NOTHING = { values: new Float32Array(0), bits: new Uint32Array(0) };

/** The same from the rollups of `series`; `names` are the layers to draw. */
export function fromSeries(series, names, lanes = []) {
  const { columns, stride } = series;
  const norm = columns.global_norm ?? { step: [] };
  const data = empty(names.length, lanes.length);
  const at = new Map();
  const usual = Math.max(stride, usualDistance(norm.step, 0, norm.step.length));
  const band = { min: [], max: [] };
  for (let i = 0; i < norm.step.length; i++) {
    if (i && norm.step[i] - norm.step[i - 1] > 3 * usual) {
      hole(data, norm.step[i - 1] + stride);
      band.min.push(null);
      band.max.push(null);
    }
    at.set(norm.step[i], data.x.length);
    data.x.push(norm.step[i]);
    data.global.push(finite(norm.mean[i]));
    band.min.push(finite(norm.min[i]));
    band.max.push(finite(norm.max[i]));
    data.threshold.push(null);
    data.clipped.push(0);
    data.nonfinite.push(stride === 1 ? !Number.isFinite(norm.mean[i]) : norm.nonfinite[i] > 0);
    for (const line of [...data.lines, ...data.lanes]) line.push(null);
  }
  const put = (name, act) => {
    const column = columns[name];
    if (column) for (let i = 0; i < column.step.length; i++) if (at.has(column.step[i])) act(at.get(column.step[i]), column, i);
  };
  put("threshold", (k, column, i) => (data.threshold[k] = finite(column.mean[i])));
  put("clipped", (k, column, i) => (data.clipped[k] = finite(column.mean[i]) ?? 0));
  put("nonfinite", (k, column, i) => (data.nonfinite[k] ||= column.max[i] > 0));
  names.forEach((name, j) => put(`norm/${name}`, (k, column, i) => (data.lines[j][k] = finite(column.mean[i]))));
  lanes.forEach((name, j) => put(name, (k, column, i) => (data.lanes[j][k] = finite(column.mean[i]))));
  return {
    ...data, low: series.first, high: series.last, stride, band: stride > 1 ? band : null,
    // Inside a bucket the mean of two thresholds is neither of them: no mark there.
    changes: stride === 1 ? changes(data) : [],
  };
}

function empty(lines, lanes) {
  const lists = (length) => Array.from({ length }, () => []);
  return { x: [], global: [], threshold: [], clipped: [], nonfinite: [], lines: lists(lines), lanes: lists(lanes) };
}

function hole(data, step) {
  data.x.push(step);
  data.global.push(null);
  data.threshold.push(null);
  data.clipped.push(0);
  data.nonfinite.push(false);
  for (const line of [...data.lines, ...data.lanes]) line.push(null);
}

/**
 * An exponential average that gives the past the weight `weight`, in which the first values count as
 * much as later ones (the bias of a start at zero is divided out). Holes stay, and are passed over.
 * `geometric`: of the logarithms, as a logarithmic axis shows them; one spike weighs less there.
 */
export function smoothed(values, weight, geometric = false) {
  if (!weight) return values;
  const [into, back] = geometric ? [Math.log, Math.exp] : [Number, Number];
  let [sum, share] = [0, 0];
  return values.map((value) => {
    if (value === null || (geometric && !(value > 0))) return null;
    sum = weight * sum + (1 - weight) * into(value);
    share = weight * share + (1 - weight);
    return back(sum / share);
  });
}

/** The steps at which the threshold became another; adaptive ones move at each step and get none. */
export function changes({ x, threshold }) {
  const found = [];
  let before = null;
  for (let i = 0; i < x.length; i++) {
    const value = threshold[i];
    if (value === null) continue;
    if (before !== null && value !== before) found.push({ step: x[i], from: before, to: value });
    before = value;
  }
  return found.length > 12 ? [] : found;
}

/** What the layer map draws from the matrix. */
export function mapFromMatrix(matrix, low, high) {
  const from = matrix.find(low);
  const to = matrix.find(high + 1);
  const indexes = new Uint32Array(to - from);
  for (let i = from; i < to; i++) indexes[i - from] = i;
  return {
    source: matrix, levels: matrix.levels, width: matrix.rows, indexes,
    steps: matrix.steps.subarray(from, to), stride: 1, low, high,
    valueAt: (k, row) => {
      const at = (from + k) * matrix.rows + row;
      return matrix.bits[at] === MISSING ? null : matrix.norms[at];
    },
  };
}

/** The same from the server's picture, which is row by row and by buckets. */
export function mapFromPicture({ rows, buckets, origin, stride, bits }, low, high) {
  const values = new Float32Array(bits.buffer, bits.byteOffset, bits.length);
  const levels = new Uint8Array(rows * buckets);
  for (let r = 0; r < rows; r++) {
    for (let b = 0; b < buckets; b++) levels[b * rows + r] = level(bits[r * buckets + b], values[r * buckets + b]);
  }
  return {
    source: bits, levels, width: rows, stride, low, high,
    indexes: Uint32Array.from({ length: buckets }, (_, b) => b),
    steps: Float64Array.from({ length: buckets }, (_, b) => origin + b * stride),
    valueAt: (k, row) => {
      const at = row * buckets + k;
      return bits[at] === MISSING ? null : values[at];
    },
  };
}
