// The newest steps of a run, as they are drawn: steps × (scalars + one norm per parameter). Pure.
//
// Arrays are twice the capacity, so that appending moves memory once per `capacity` steps only.

import { MISSING } from "./bytes.js";
import { level } from "./heat.js";

/** How many steps of a run with so many parameters are kept in the browser. */
export function capacityFor(rows) {
  return Math.max(256, Math.min(2048, Math.floor(6e6 / Math.max(1, rows))));
}

export class Matrix {
  constructor(rows, capacity = capacityFor(rows)) {
    this.rows = rows;
    this.capacity = capacity;
    this.length = 0;
    /** The lowest step of which a norm was written since whoever draws set this; see picture.js. */
    this.dirtyFrom = Infinity;
    this.steps = new Float64Array(2 * capacity);
    this.scalars = new Map();
    this.norms = new Float32Array(2 * capacity * rows);
    this.bits = new Uint32Array(this.norms.buffer);
    this.levels = new Uint8Array(2 * capacity * rows);
  }

  get lastStep() {
    return this.length ? this.steps[this.length - 1] : null;
  }

  get firstStep() {
    return this.length ? this.steps[0] : null;
  }

  /** The first row at or after `step`. */
  find(step) {
    let [low, high] = [0, this.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The row of `step`, made if need be; -1 if it is older than all that is kept. */
  row(step) {
    if (!this.length || step > this.steps[this.length - 1]) {
      if (this.length === 2 * this.capacity) this.#forget();
      return this.#open(this.length, step);
    }
    const at = this.find(step);
    if (this.steps[at] === step) return at;
    if (this.length >= this.capacity && at === 0) return -1;
    if (this.length === 2 * this.capacity) {
      this.#forget();
      return this.row(step);
    }
    this.#each((array, width) => array.copyWithin((at + 1) * width, at * width, this.length * width));
    return this.#open(at, step);
  }

  scalar(name) {
    let column = this.scalars.get(name);
    if (!column) {
      column = { values: new Float32Array(2 * this.capacity) };
      column.bits = new Uint32Array(column.values.buffer).fill(MISSING);
      this.scalars.set(name, column);
    }
    return column;
  }

  setNorm(row, index, bits) {
    const at = row * this.rows + index;
    this.bits[at] = bits;
    this.levels[at] = level(bits, this.norms[at]);
    if (this.steps[row] < this.dirtyFrom) this.dirtyFrom = this.steps[row];
  }

  /** The norms of one row, as a view. */
  normsOf(row) {
    return this.norms.subarray(row * this.rows, (row + 1) * this.rows);
  }

  /** The same matrix with room for more parameters. */
  widened(rows) {
    const wider = new Matrix(rows);
    for (let i = Math.max(0, this.length - wider.capacity); i < this.length; i++) {
      const row = wider.row(this.steps[i]);
      for (const [name, column] of this.scalars) wider.scalar(name).bits[row] = column.bits[i];
      for (let j = 0; j < this.rows; j++) wider.setNorm(row, j, this.bits[i * this.rows + j]);
    }
    return wider;
  }

  #each(act) {
    act(this.steps, 1);
    act(this.bits, this.rows);
    act(this.levels, this.rows);
    for (const column of this.scalars.values()) act(column.bits, 1);
  }

  #forget() {
    const from = this.length - this.capacity;
    this.#each((array, width) => array.copyWithin(0, from * width, this.length * width));
    this.length = this.capacity;
  }

  #open(at, step) {
    this.steps[at] = step;
    this.bits.fill(MISSING, at * this.rows, (at + 1) * this.rows);
    this.levels.fill(0, at * this.rows, (at + 1) * this.rows);
    for (const column of this.scalars.values()) column.bits[at] = MISSING;
    this.length++;
    return at;
  }
}

/**
 * Where lines must break: `steps` with a hole put in after each jump. A thinned run (every 10th
 * step) has jumps everywhere and they mean nothing, so the usual distance is looked at first.
 */
export function usualDistance(steps, from, to) {
  const differences = [];
  for (let i = from + 1; i < to; i++) differences.push(steps[i] - steps[i - 1]);
  if (!differences.length) return 1;
  differences.sort((a, b) => a - b);
  return differences[differences.length >> 1];
}

export function isHole(distance, usual) {
  return usual <= 1 ? distance > 1 : distance > 3 * usual;
}
