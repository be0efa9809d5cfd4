// The layer map's pixels: a column per bin of steps, painted once and kept while the window moves on.
//
// The canvas is a ring: bin b lies in column b modulo its width, so that a step more costs one column
// and no pixel is moved. Whatever changes the meaning of a colour paints all of them anew.

import { paint } from "./heat.js";

/** The first of `steps` (increasing) at or after `step`. */
function firstAt(steps, step) {
  let [low, high] = [0, steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class Picture {
  #key = [];
  #first = 0;
  #last = -1;
  #bad = [];

  constructor(canvas = document.createElement("canvas")) {
    this.canvas = canvas;
  }

  /**
   * Paints what is not there yet of bins `first`…`last`, each of `size` steps; returns how many.
   *
   * `source`: the map's view, as views.js makes it; what it is a view of may have a `dirtyFrom`, the
   * lowest step written since it was painted last, and is told so by setting it. `lines`, `range`,
   * `medians`, `table`: as of heat.paint().
   */
  update(source, { first, last, size, lines, range, medians, table }) {
    const { canvas } = this;
    const key = [source.source, source.order, size, lines, range, medians, table];
    const needed = last - first + 1;
    const fits = needed <= canvas.width && canvas.width <= 4 * needed && canvas.height === lines;
    const kept = fits && this.#key.length && key.every((part, i) => part === this.#key[i]) && first >= this.#first && first <= this.#last + 1;
    if (!fits) Object.assign(canvas, { width: 2 ** Math.ceil(Math.log2(needed)), height: lines });
    const dirty = Math.floor((source.source.dirtyFrom ?? Infinity) / size);
    const from = kept ? Math.max(first, Math.min(dirty, this.#last + 1)) : first;
    if ("dirtyFrom" in source.source) source.source.dirtyFrom = Infinity;
    Object.assign(this, { lines, size });
    this.#key = key;
    this.#first = first;
    this.#last = last;
    this.#bad = kept ? this.#bad.filter(([bin]) => bin >= first && bin < from) : [];
    const bins = last - from + 1;
    if (bins <= 0) return 0;
    const [low, high] = [firstAt(source.steps, from * size), firstAt(source.steps, (last + 1) * size)];
    const binOf = new Uint32Array(high - low);
    for (let k = low; k < high; k++) binOf[k - low] = Math.floor(source.steps[k] / size) - from;
    const image = new ImageData(bins, lines);
    const found = paint({
      ...source, indexes: source.indexes.subarray(low, high), binOf, bins, lines, medians, range, table,
      out: new Uint32Array(image.data.buffer),
    });
    for (const place of found) this.#bad.push([from + (place % bins), Math.floor(place / bins)]);
    const ctx = canvas.getContext("2d");
    for (const [bin, column, count] of this.#pieces(from, last)) {
      ctx.putImageData(image, column - (bin - from), 0, bin - from, 0, count, lines);
    }
    return bins;
  }

  /** Onto `ctx`, with the first bin's left edge at `left`, bins `wide` and the whole `height` pixels. */
  draw(ctx, left, wide, height) {
    // The two ends of the ring meet on a whole pixel, or a seam would show.
    const edge = (bin) => (bin === this.#first || bin === this.#last + 1 ? left + (bin - this.#first) * wide : Math.round(left + (bin - this.#first) * wide));
    for (const [bin, column, count] of this.#pieces(this.#first, this.#last)) {
      const from = edge(bin);
      ctx.drawImage(this.canvas, column, 0, count, this.lines, from, 0, edge(bin + count) - from, height);
    }
  }

  /** Where cells are not finite: [bins from the first one, line]. */
  bad() {
    return this.#bad.map(([bin, line]) => [bin - this.#first, line]);
  }

  /** Bins first…last as they lie in the ring: [bin, column, how many]. */
  *#pieces(first, last) {
    const { width } = this.canvas;
    for (let bin = first; bin <= last;) {
      const column = ((bin % width) + width) % width;
      const count = Math.min(last - bin + 1, width - column);
      yield [bin, column, count];
      bin += count;
    }
  }
}
