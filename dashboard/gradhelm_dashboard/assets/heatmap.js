// The layer map: one line per parameter, the same x axis as the chart above it.

import { gutters } from "./chart.js";
import { make } from "./dom.js";
import * as heat from "./heat.js";
import * as numbers from "./numbers.js";
import { Picture } from "./picture.js";

const AXIS = 22;
/** Milliseconds for which the range of the colours, and the medians, are not looked at again. */
const CALM = 1000;

/** How tall the map is drawn, from how many rows it has. */
export function mapHeight(rows, wide) {
  return Math.round(Math.min(wide ? 330 : 260, Math.max(110, rows * (rows < 24 ? 16 : 5))));
}

export class Heatmap {
  #canvas = null;
  #tip = null;
  #line = null;
  #picture = new Picture();
  #medians = null;
  #medianAge = 0;
  #rangeAge = 0;
  #tables = new Map();
  #view = null;
  #pointer = null;
  cost = 0;

  /** `on`: {cursor(step | null), pick(row)}. */
  constructor(place, on) {
    this.place = place;
    this.on = on;
  }

  destroy() {
    this.#canvas = null;
  }

  /**
   * `view`: {levels, width, indexes, steps, stride, low, high, order, groups, names, gaps, relative, valueAt},
   * and where several maps stand together {range: of the colours, height: at most, ticks: [{at, text}],
   * where(k): words}, instead of what the map would find by itself.
   * Returns what the colour key should say.
   */
  draw(view, theme) {
    const place = this.place();
    if (!place || !place.clientWidth) return null;
    const started = performance.now();
    this.#view = view;
    if (!this.#canvas || !place.contains(this.#canvas)) this.#build(place);
    const side = gutters(place.clientWidth);
    const ratio = devicePixelRatio || 1;
    const cssWidth = place.clientWidth;
    const cssHeight = Math.min(mapHeight(view.order.length, !side.narrow), view.height ?? Infinity) + AXIS;
    const canvas = this.#canvas;
    if (canvas.width !== Math.round(cssWidth * ratio) || canvas.height !== Math.round(cssHeight * ratio)) {
      canvas.width = Math.round(cssWidth * ratio);
      canvas.height = Math.round(cssHeight * ratio);
      canvas.style.width = `${cssWidth}px`;
      canvas.style.height = `${cssHeight}px`;
      place.style.height = `${cssHeight}px`;
    }
    const plotWidth = cssWidth - side.left - side.right;
    const plotHeight = cssHeight - AXIS;
    this.geometry = { left: side.left, width: plotWidth, height: plotHeight };

    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, cssWidth, cssHeight);
    ctx.fillStyle = theme.bg;
    ctx.fillRect(side.left, 0, plotWidth, plotHeight);
    const key = this.#paint(ctx, view, theme, plotWidth, plotHeight, side.left);
    this.#labels(ctx, view, theme, side, plotHeight);
    this.#axis(ctx, view, theme, side.left, plotWidth, plotHeight);
    // The picture moved on under a pointer that rests.
    if (this.#pointer && !this.#tip.hidden) this.#hover(this.#pointer);
    this.cost = performance.now() - started;
    return key;
  }

  #paint(ctx, view, theme, plotWidth, plotHeight, left) {
    const rows = view.order.length;
    if (!view.indexes.length || !rows) return null;
    const stepsShown = Math.max(1, view.high - view.low + 1);
    const cells = stepsShown / view.stride;
    // Single steps against their median are mostly noise: wider bins, and their mean.
    const size = heat.binSize(cells, view.relative ? plotWidth / 5 : plotWidth) * view.stride;
    const first = Math.floor(view.low / size);
    const lines = Math.min(rows, Math.round(plotHeight * (devicePixelRatio || 1)));
    const range = this.#range(view);
    this.#picture.update(view, {
      first, last: Math.floor(view.high / size), size, lines, range,
      medians: view.relative ? this.#median(view) : null,
      table: this.#table(view.relative ? "relative" : "absolute", theme.theme),
    });
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, 0, plotWidth, plotHeight);
    ctx.clip();
    ctx.imageSmoothingEnabled = false;
    const perStep = plotWidth / Math.max(1, view.high - view.low);
    this.#holes(ctx, view, theme, left, perStep, plotHeight);
    const from = left + (first * size - view.low) * perStep;
    this.#picture.draw(ctx, from, size * perStep, plotHeight);
    // One step is a pixel or less in most windows; one that is not finite must be seen all the same.
    ctx.fillStyle = heat.magenta(theme.theme);
    const [wide, tall] = [Math.max(4, size * perStep), Math.max(3, plotHeight / lines)];
    for (const [bin, line] of this.#picture.bad()) {
      const x = from + (bin + 0.5) * size * perStep;
      const y = (line + 0.5) * (plotHeight / lines);
      ctx.fillRect(x - wide / 2, y - tall / 2, wide, tall);
    }
    ctx.restore();
    return view.relative
      ? { low: "÷ 10", high: "× 10", kind: "relative" }
      : { low: numbers.norm(heat.normOf(range[0])), high: numbers.norm(heat.normOf(range[1])), kind: "absolute" };
  }

  /** What is declared missing is hatched, as on the chart. */
  #holes(ctx, view, theme, left, perStep, height) {
    ctx.strokeStyle = theme.edge;
    ctx.lineWidth = 1;
    for (const { first, last } of view.gaps) {
      const from = left + (first - 0.5 - view.low) * perStep;
      const width = Math.max(2, (last - first + 1) * perStep);
      ctx.save();
      ctx.beginPath();
      ctx.rect(from, 0, width, height);
      ctx.clip();
      ctx.beginPath();
      for (let x = from - height; x < from + width; x += 7) {
        ctx.moveTo(x, height);
        ctx.lineTo(x + height, 0);
      }
      ctx.stroke();
      ctx.restore();
    }
  }

  /** Moves only when the data leave it, so that colours keep their meaning while one looks. */
  #range(view) {
    if (view.range) return view.range;
    const now = performance.now();
    if (this.rangeOf === view.source && now - this.#rangeAge < CALM) return this.range;
    this.#rangeAge = now;
    const wanted = heat.levelRange(heat.histogram(view, 60_000));
    const same = this.rangeOf === view.source
      && Math.abs(this.range[0] - wanted[0]) < 12 && Math.abs(this.range[1] - wanted[1]) < 12;
    if (!same) {
      this.range = wanted;
      this.rangeOf = view.source;
    }
    return this.range;
  }

  /** Each row's median over the window, looked at once a second. */
  #median(view) {
    const now = performance.now();
    if (this.#medians?.length === view.width && now - this.#medianAge < CALM && this.medianOf === view.source) {
      return this.#medians;
    }
    this.#medianAge = now;
    this.medianOf = view.source;
    const medians = new Float32Array(view.width);
    const histogram = new Uint16Array(256);
    const every = Math.max(1, Math.floor(view.indexes.length / 250));
    for (const row of view.order) {
      histogram.fill(0);
      for (let k = 0; k < view.indexes.length; k += every) histogram[view.levels[view.indexes[k] * view.width + row]]++;
      medians[row] = heat.medianLevel(histogram);
    }
    this.#medians = medians;
    return medians;
  }

  #table(kind, theme) {
    const key = kind + theme;
    if (!this.#tables.has(key)) this.#tables.set(key, heat.palette(kind, theme));
    return this.#tables.get(key);
  }

  #labels(ctx, view, theme, side, plotHeight) {
    const rows = view.order.length;
    let at = 0;
    let lastLabel = -Infinity;
    ctx.font = `${side.narrow ? 10 : 11}px ${theme.font}`;
    ctx.textBaseline = "middle";
    if (rows <= plotHeight / 14) {
      view.order.forEach((row, i) => this.#label(ctx, view.names[row] ?? "", side, ((i + 0.5) / rows) * plotHeight, theme));
      return;
    }
    for (const group of view.groups) {
      const top = (at / rows) * plotHeight;
      const height = (group.rows.length / rows) * plotHeight;
      const middle = Math.max(7, top + height / 2);
      if (at > 0 && view.groups.length <= plotHeight / 6) {
        ctx.fillStyle = theme.panel;
        ctx.fillRect(side.left, Math.round(top) - 0.5, ctx.canvas.clientWidth - side.left - side.right, 1);
      }
      if (group.label && middle - lastLabel >= 13 && (height >= 7 || view.groups.length < 30)) {
        lastLabel = middle;
        if (!side.narrow || height >= 12) this.#label(ctx, group.label, side, middle, theme);
      }
      at += group.rows.length;
    }
  }

  #label(ctx, label, side, middle, theme) {
    if (side.narrow) {
      this.#pill(ctx, label, side.left + 4, middle, theme);
      return;
    }
    ctx.fillStyle = theme.faint;
    ctx.textAlign = "right";
    ctx.fillText(fit(ctx, label, side.left - 10), side.left - 8, middle);
  }

  /** On a narrow screen the gutter is too dear: the label lies on the map. */
  #pill(ctx, label, left, middle, theme) {
    const text = fit(ctx, label, 110);
    ctx.textAlign = "left";
    ctx.globalAlpha = 0.78;
    ctx.fillStyle = theme.panel;
    ctx.beginPath();
    ctx.roundRect(left, middle - 7, ctx.measureText(text).width + 8, 14, 4);
    ctx.fill();
    ctx.globalAlpha = 1;
    ctx.fillStyle = theme.text;
    ctx.fillText(text, left + 4, middle + 0.5);
  }

  #axis(ctx, view, theme, left, plotWidth, plotHeight) {
    ctx.fillStyle = theme.faint;
    ctx.font = `11px ${theme.font}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "alphabetic";
    const most = Math.max(2, Math.floor(plotWidth / 110));
    const ticks = view.ticks ?? numbers.linearTicks(view.low, view.high, most).filter(Number.isInteger)
      .map((at) => ({ at, text: numbers.count(at) }));
    for (const { at, text } of ticks) {
      const x = left + ((at - view.low) / Math.max(1, view.high - view.low)) * plotWidth;
      ctx.fillText(text, x, plotHeight + 16);
    }
  }

  /** The vertical line of the shared cursor. */
  point(step) {
    if (!this.#line || !this.#view || !this.geometry) return;
    const { low, high } = this.#view;
    const inside = step !== null && step >= low && step <= high;
    this.#line.hidden = !inside;
    if (!inside) return;
    const { left, width, height } = this.geometry;
    this.#line.style.transform = `translateX(${left + ((step - low) / Math.max(1, high - low)) * width}px)`;
    this.#line.style.height = `${height}px`;
  }

  #build(place) {
    this.#canvas = make("canvas", { "aria-hidden": "true" });
    this.#line = make("div", { class: "cursor-line", hidden: true });
    this.#tip = make("div", { class: "tip", hidden: true });
    place.replaceChildren(this.#canvas, this.#line, this.#tip);
    this.#canvas.addEventListener("pointermove", (event) => this.#hover(event));
    this.#canvas.addEventListener("pointerdown", (event) => this.#hover(event));
    this.#canvas.addEventListener("pointerleave", () => {
      this.#tip.hidden = true;
      this.on.cursor(null);
    });
    this.#canvas.addEventListener("click", (event) => {
      const cell = this.#cell(event);
      if (cell && event.pointerType !== "touch") this.on.pick(cell.row);
    });
  }

  #cell(event) {
    const view = this.#view;
    if (!view || !this.geometry || !view.indexes.length) return null;
    const box = this.#canvas.getBoundingClientRect();
    const { left, width, height } = this.geometry;
    const x = event.clientX - box.left - left;
    const y = event.clientY - box.top;
    if (x < 0 || x > width || y < 0 || y >= height) return null;
    const wanted = view.low + (x / width) * (view.high - view.low);
    let [from, to] = [0, view.steps.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (view.steps[middle] + view.stride <= wanted) from = middle + 1;
      else to = middle;
    }
    const k = Math.min(from, view.steps.length - 1);
    const row = view.order[Math.min(view.order.length - 1, Math.floor((y / height) * view.order.length))];
    return { k, row, step: view.steps[k], x: x + left, y };
  }

  #hover(event) {
    this.#pointer = event;
    const cell = this.#cell(event);
    if (!cell) {
      this.#tip.hidden = true;
      this.on.cursor(null);
      return;
    }
    const view = this.#view;
    this.on.cursor(cell.step);
    const value = view.valueAt(cell.k, cell.row);
    const where = view.where ? view.where(cell.k) : view.stride > 1 ? `steps ${numbers.count(cell.step)}–${numbers.count(cell.step + view.stride - 1)} · largest` : `step ${numbers.count(cell.step)} · norm`;
    this.#tip.replaceChildren(
      make("div", { class: "mono strong" }, view.names[cell.row] ?? ""),
      make("div", {}, value === null ? `${where.split(" ·")[0]} · no value` : `${where} ${numbers.norm(value)}`),
    );
    this.#tip.hidden = false;
    const width = this.#tip.offsetWidth;
    const room = this.place().clientWidth;
    const left = cell.x + 14 + width > room ? Math.max(0, cell.x - width - 14) : cell.x + 14;
    const top = cell.y > this.geometry.height - 64 ? cell.y - 60 : cell.y + 12;
    this.#tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(Math.max(0, top))}px)`;
  }
}

/** The end of a label, which tells more than its beginning. */
function fit(ctx, text, room) {
  if (ctx.measureText(text).width <= room) return text;
  let short = text;
  while (short.length > 3 && ctx.measureText(`…${short}`).width > room) short = short.slice(1);
  return `…${short}`;
}

/** The colour key beside the map's title. */
export function drawKey(canvas, kind, theme) {
  if (!canvas) return;
  const table = heat.palette(kind, theme);
  const image = new ImageData(canvas.width, canvas.height);
  const out = new Uint32Array(image.data.buffer);
  for (let x = 0; x < canvas.width; x++) {
    const colour = table[1 + Math.round((x / (canvas.width - 1)) * 253)];
    for (let y = 0; y < canvas.height; y++) out[y * canvas.width + x] = colour;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
