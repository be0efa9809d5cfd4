// The chart of the page that compares: one scalar of several runs over one another.

import uPlot from "./vendor/uplot.js";
import { joined, nearest, valueRange } from "./aligned.js";
import { gutters, ticksOf } from "./chart.js";
import { duration, timeTicks } from "./clock.js";
import { make } from "./dom.js";
import { hue, ink, letter } from "./hues.js";
import * as numbers from "./numbers.js";
import { followFinger, roomForMarks } from "./pointing.js";

const AXIS = 26;
/** Points below which a line is drawn with dots: of one alone there would be nothing to see. */
const SPARSE = 40;
const MARKS = 60;

/** What an axis says at `at`. */
export const placeWords = (axis, at) => (axis === "time" ? duration(at) : numbers.count(Math.round(at)));
/** Where an axis says something. */
export const placeTicks = (axis, low, high, most) =>
  (axis === "time" ? timeTicks(low, high, most) : numbers.linearTicks(low, high, most).filter(Number.isInteger));

export class Overlay {
  #plot = null;
  #data = null;
  #look = "";
  #joined = null;
  #setting = false;
  #places = null;

  /** `on`: {cursor(at | null), zoom(low, high), reset()}. */
  constructor(place, on) {
    this.place = place;
    this.on = on;
  }

  destroy() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#look = "";
  }

  get canvas() {
    return this.place()?.querySelector("canvas") ?? null;
  }

  /**
   * Draws `data`: {axis, low, high, logarithmic, stepped, lines: [{slot, name, x, values, bad}],
   * marks: [{slot, at, title}]}. Returns whether the y axis is logarithmic.
   */
  draw(data, theme) {
    const place = this.place();
    if (!place?.clientWidth || !place.clientHeight) return data.logarithmic;
    const [width, height] = [place.clientWidth, place.clientHeight];
    const [low, high, logarithmic] = valueRange(data.lines, data.logarithmic);
    this.#data = { ...data, logarithmic };
    this.#joined = joined(data.lines);
    // Data that come in under a cursor that rests must not be told as a move of it.
    this.#setting = true;
    queueMicrotask(() => (this.#setting = false));
    const look = [
      theme.theme, logarithmic, data.axis, data.stepped, gutters(width).narrow,
      data.lines.map(({ slot, x }) => `${slot}${x.length <= SPARSE ? "." : ""}`),
    ].join("|");
    if (!this.#plot || look !== this.#look || !place.contains(this.#plot.root)) {
      this.#build(place, width, height, theme);
      this.#look = look;
    } else if (this.#plot.width !== width || this.#plot.height !== height) this.#plot.setSize({ width, height });
    this.#plot.batch(() => {
      this.#plot.setData([this.#joined.x, ...this.#joined.columns], false);
      this.#plot.setScale("x", { min: data.low, max: data.high });
      this.#plot.setScale("y", { min: low, max: high });
    });
    this.#marks(theme);
    return logarithmic;
  }

  /** Shows the cursor at a place on the axis, without telling of it. */
  point(at) {
    const plot = this.#plot;
    if (!plot) return;
    const before = this.#setting;
    this.#setting = true;
    if (at === null) plot.setCursor({ left: -10, top: -10 });
    else plot.setCursor({ left: plot.valToPos(at, "x"), top: 10 });
    this.#setting = before;
  }

  #marks(theme) {
    const { marks, low, high, lines } = this.#data;
    const plot = this.#plot;
    const drawn = new Set(lines.map(({ slot }) => slot));
    const within = marks.filter(({ at, slot }) => at >= low && at <= high && drawn.has(slot)).slice(-MARKS);
    while (this.#places.childElementCount > within.length) this.#places.lastChild.remove();
    while (this.#places.childElementCount < within.length) {
      const button = make("button", { type: "button", class: "mark own" }, make("span", { class: "tip" }));
      button.addEventListener("click", () => this.on.cursor(Number(button.dataset.at)));
      this.#places.append(button);
    }
    within.forEach(({ at, slot, title }, i) => {
      const button = this.#places.children[i];
      button.style.left = `${plot.valToPos(at, "x")}px`;
      button.style.setProperty("--key", hue(slot, theme.theme));
      button.dataset.at = at;
      if (button.getAttribute("aria-label") === title) return;
      button.setAttribute("aria-label", title);
      button.firstChild.textContent = title;
    });
  }

  #build(place, width, height, theme) {
    this.#plot?.destroy();
    place.replaceChildren();
    const data = this.#data;
    const side = gutters(width);
    const font = `11px ${theme.font}`;
    const axis = { font, stroke: theme.faint, ticks: { show: false }, grid: { stroke: theme.line, width: 1 } };
    const paths = data.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined;
    this.#plot = new uPlot({
      width,
      height,
      padding: [18, side.right, 4, 0],
      legend: { show: false },
      cursor: {
        y: false,
        points: { show: false },
        drag: { x: true, y: false, setScale: false, dist: 6 },
        bind: { dblclick: () => () => this.on.reset() },
      },
      scales: { x: { time: false, auto: false }, y: { auto: false, distr: data.logarithmic ? 3 : 1 } },
      series: [
        {},
        ...data.lines.map(({ slot, x }) => {
          const stroke = hue(slot, theme.theme);
          return { stroke, width: 1, spanGaps: false, paths, points: { show: x.length <= SPARSE, size: 5, stroke, fill: stroke } };
        }),
      ],
      axes: [
        {
          ...axis, size: AXIS, gap: 6, grid: { show: false },
          splits: (u, _axis, min, max) => placeTicks(data.axis, min, max, Math.max(3, Math.floor(u.bbox.width / devicePixelRatio / 110))),
          filter: (_u, splits) => splits,
          values: (_u, splits) => splits.map((at) => placeWords(data.axis, at)),
        },
        {
          ...axis, size: side.left, gap: 8,
          ...ticksOf(data.logarithmic),
        },
      ],
      hooks: {
        drawClear: [(u) => this.#under(u, theme)],
        draw: [(u) => this.#over(u, theme)],
        setCursor: [(u) => {
          if (this.#setting) return;
          const { left } = u.cursor;
          this.on.cursor(left < 0 ? null : u.posToVal(left, "x"));
        }],
        setSelect: [(u) => {
          if (u.select.width < 6) return;
          const [first, last] = [u.select.left, u.select.left + u.select.width].map((at) => u.posToVal(at, "x"));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.on.zoom(first, last);
        }],
      },
    }, [[], ...data.lines.map(() => [])], place);
    this.#places = roomForMarks(this.#plot);
    followFinger(this.#plot);
  }

  /** Under the lines: where somebody stepped in. */
  #under(u, theme) {
    const { ctx, bbox } = u;
    const drawn = new Set(this.#data.lines.map(({ slot }) => slot));
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const { at, slot } of this.#data.marks) {
      const left = Math.round(u.valToPos(at, "x", true)) + 0.5;
      if (!drawn.has(slot) || left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.strokeStyle = hue(slot, theme.theme);
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  #over(u, theme) {
    const { ctx, bbox } = u;
    const { lines, low, high } = this.#data;
    const ratio = devicePixelRatio;
    ctx.save();
    // What is not finite has no place on the axis: a diamond over it, in the run's colour.
    for (const { slot, bad } of lines) {
      ctx.fillStyle = hue(slot, theme.theme);
      for (const at of bad) {
        if (at < low || at > high) continue;
        const left = u.valToPos(at, "x", true);
        const top = bbox.top - 5 * ratio;
        ctx.beginPath();
        for (const [dx, dy] of [[0, -5], [4, 0], [0, 5], [-4, 0]]) ctx.lineTo(left + dx * ratio, top + dy * ratio);
        ctx.closePath();
        ctx.fill();
      }
    }
    this.#letters(u, theme);
    ctx.restore();
  }

  /** Each run's letter at the right, as high as its line ends, pushed apart where they would overlap. */
  #letters(u, theme) {
    const { ctx, bbox } = u;
    const { lines, high } = this.#data;
    const ratio = devicePixelRatio;
    const size = 15 * ratio;
    const tags = lines.flatMap(({ slot, x, values }) => {
      const i = nearest({ x, values }, high);
      const at = i < 0 ? NaN : u.valToPos(values[i], "y", true);
      return Number.isFinite(at) ? [{ slot, at: Math.min(Math.max(at, bbox.top), bbox.top + bbox.height) }] : [];
    }).sort((a, b) => a.at - b.at);
    const room = size + 2 * ratio;
    for (let i = 1; i < tags.length; i++) tags[i].at = Math.max(tags[i].at, tags[i - 1].at + room);
    // Pushed beyond the bottom, they go up again.
    const bottom = bbox.top + bbox.height;
    for (let i = tags.length - 1, most = bottom; i >= 0; i--, most -= room) tags[i].at = Math.min(tags[i].at, most);
    ctx.font = `640 ${10.5 * ratio}px ${theme.font}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    for (const { slot, at } of tags) {
      const left = bbox.left + bbox.width + 6 * ratio;
      ctx.fillStyle = hue(slot, theme.theme);
      ctx.beginPath();
      ctx.roundRect(left, at - size / 2, size, size, 4 * ratio);
      ctx.fill();
      ctx.fillStyle = ink(slot, theme.theme);
      ctx.fillText(letter(slot), left + size / 2, at + 0.5 * ratio);
    }
  }
}
