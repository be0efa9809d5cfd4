// The line chart: global norm, some layers, the threshold as it was at each step.
//
// uPlot draws the axes, the global norm and the threshold. The layers' lines, of which there may be
// many, are painted under them in its hook, for a third of what they cost as series; the rest
// (triangles, the rail, marks) over them.

import uPlot from "./vendor/uplot.js";
import { make } from "./dom.js";
import * as numbers from "./numbers.js";
import { followFinger, roomForMarks } from "./pointing.js";

const RAIL = 6;
/** Buttons on a chart; where there are more of them than this, only the newest can be told apart. */
const MARKS = 60;

/** Left and right of the plot, the same for the chart and the layer map under it. */
export function gutters(width) {
  return width < 560 ? { left: 38, right: 46, narrow: true } : { left: 116, right: 62, narrow: false };
}

/** Where the y axis of a chart has its ticks, as many as there is room for, and what stands there. */
export function ticksOf(logarithmic) {
  return {
    splits: (u, _axis, min, max) => {
      const most = Math.max(3, Math.floor(u.bbox.height / devicePixelRatio / 34));
      return logarithmic ? numbers.logTicks(min, max, most) : numbers.linearTicks(min, max, most);
    },
    filter: (_u, splits) => splits,
    values: (_u, splits) => splits.map(numbers.tick),
  };
}

export class Chart {
  #plot = null;
  #data = null;
  #look = "";
  #setting = false;
  #places = null;

  /** `on`: {cursor(step | null), zoom(first, last), reset(), jump(first, last)}. */
  constructor(place, on) {
    this.place = place;
    this.on = on;
    this.proposed = null;
  }

  destroy() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#look = "";
  }

  /**
   * Draws `data`: {x, low, high, lines: [{label, colour, values}], global, raw (before it was
   * smoothed, or null), band, threshold, clipped: [shares], nonfinite: [bools], marks: [{step, title,
   * tone}], gaps: [{first, last, title}], logarithmic}. `theme`: colours().
   */
  draw(data, theme) {
    const place = this.place();
    if (!place) return;
    this.#data = data;
    const width = place.clientWidth;
    const height = place.clientHeight;
    if (!width || !height) return;
    const look = [theme.theme, data.logarithmic, gutters(width).narrow, data.raw !== null].join("|");
    if (!this.#plot || look !== this.#look || !place.contains(this.#plot.root)) {
      this.#build(place, width, height, theme);
      this.#look = look;
    } else if (this.#plot.width !== width || this.#plot.height !== height) {
      this.#plot.setSize({ width, height });
    }
    const range = this.#range();
    this.#plot.batch(() => {
      this.#plot.setData(columns(data), false);
      this.#plot.setScale("x", { min: data.low, max: data.high });
      this.#plot.setScale("y", { min: range[0], max: range[1] });
    });
    this.#marks();
  }

  /** Where something was changed or is missing: words for a pointer, a finger or a reader. */
  #marks() {
    const plot = this.#plot;
    const { marks, gaps, low, high } = this.#data;
    const within = marks.filter(({ step }) => step >= low && step <= high).slice(-MARKS);
    const holes = gaps.filter(({ first, last }) => last >= low && first <= high).slice(-MARKS);
    const at = (step) => `${plot.valToPos(Math.min(Math.max(step, low), high), "x")}px`;
    const items = [
      ...within.map(({ step, title, tone }) => ({ left: at(step), title, kind: `mark ${tone}`, first: step, last: step })),
      ...holes.map(({ first, last, title }) => ({ left: at((Math.max(first, low) + Math.min(last, high)) / 2), title, kind: "mark gap", first, last })),
    ];
    while (this.#places.childElementCount > items.length) this.#places.lastChild.remove();
    while (this.#places.childElementCount < items.length) {
      const button = make("button", { type: "button" }, make("span", { class: "tip" }));
      button.addEventListener("click", () => this.on.jump(Number(button.dataset.first), Number(button.dataset.last)));
      this.#places.append(button);
    }
    items.forEach(({ left, title, kind, first, last }, i) => {
      const button = this.#places.children[i];
      button.style.left = left;
      Object.assign(button.dataset, { first, last });
      if (button.className !== kind) button.className = kind;
      if (button.getAttribute("aria-label") === title) return;
      button.setAttribute("aria-label", title);
      button.firstChild.textContent = title;
    });
  }

  /** The visible part of the y axis; proposals and thresholds stay in sight, but do not rule. */
  #range() {
    const data = this.#data;
    let low = Infinity;
    let high = 0;
    const look = (values, alsoLow) => {
      for (const value of values) {
        if (value === null || !(value > 0)) continue;
        if (value > high) high = value;
        if (alsoLow && value < low) low = value;
      }
    };
    look(data.global, true);
    if (data.band) look(data.band.max, true);
    const calm = low;
    if (data.logarithmic) for (const line of data.lines) look(line.values, true);
    const within = (value) => value > 0 && (!high || (value < high * 30 && value > high / 1000));
    for (const value of [...data.threshold.slice(-1), this.proposed]) {
      if (value && within(value)) {
        high = Math.max(high, value);
        if (data.logarithmic) low = Math.min(low, value);
      }
    }
    // One layer that dies must not press all others together; nor may one explosion push what is
    // usual out of sight.
    if (data.logarithmic && high > 0 && low < high / 1e6) low = Math.max(low, Math.min(high / 1e6, calm / 100));
    return numbers.axisRange(low, high, data.logarithmic) ?? (data.logarithmic ? [0.1, 10] : [0, 1]);
  }

  /** Shows the cursor at a step, without telling of it. */
  point(step) {
    const plot = this.#plot;
    if (!plot) return;
    this.#setting = true;
    if (step === null) plot.setCursor({ left: -10, top: -10 });
    else plot.setCursor({ left: plot.valToPos(step, "x"), top: plot.bbox.height / 4 / devicePixelRatio });
    this.#setting = false;
  }

  #build(place, width, height, theme) {
    this.#plot?.destroy();
    place.replaceChildren();
    const data = this.#data;
    const side = gutters(width);
    const line = (stroke, more = {}) => ({ stroke, width: 1, points: { show: false }, spanGaps: false, ...more });
    const stepped = uPlot.paths.stepped({ align: 1 });
    const font = `11px ${theme.font}`;
    this.#plot = new uPlot(
      {
        width,
        height,
        padding: [20, side.right, RAIL + 8, 0],
        legend: { show: false },
        cursor: {
          y: false,
          points: { show: false },
          drag: { x: true, y: false, setScale: false, dist: 6 },
          bind: { dblclick: () => () => this.on.reset() },
        },
        scales: {
          x: { time: false, auto: false },
          y: { auto: false, distr: data.logarithmic ? 3 : 1 },
        },
        series: [
          {},
          line(theme.clip, { dash: [5, 4], paths: stepped, width: 1.5 }),
          ...(data.raw ? [line(theme.edge)] : []),
          line(theme.text, { width: 1.5 }),
        ],
        axes: [
          { show: false },
          {
            size: side.left,
            gap: 8,
            font,
            stroke: theme.faint,
            ticks: { show: false },
            grid: { stroke: theme.line, width: 1 },
            ...ticksOf(data.logarithmic),
          },
        ],
        hooks: {
          drawClear: [(u) => this.#under(u, theme)],
          drawAxes: [(u) => this.#layers(u)],
          draw: [(u) => this.#over(u, theme)],
          setCursor: [
            (u) => {
              if (this.#setting) return;
              const index = u.cursor.idx;
              this.on.cursor(u.cursor.left < 0 || index === null || index === undefined ? null : this.#data.x[index]);
            },
          ],
          setSelect: [
            (u) => {
              if (u.select.width < 6) return;
              const first = u.posToVal(u.select.left, "x");
              const last = u.posToVal(u.select.left + u.select.width, "x");
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              this.on.zoom(Math.round(first), Math.round(last));
            },
          ],
        },
      },
      columns(data),
      place,
    );
    this.#places = roomForMarks(this.#plot);
    followFinger(this.#plot);
  }

  /** Under the lines: the spread of each bucket, and where the threshold was changed. */
  #under(u, theme) {
    const { ctx, bbox } = u;
    const { x, band } = this.#data;
    ctx.save();
    if (band) {
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      ctx.fillStyle = theme.text;
      ctx.globalAlpha = 0.22;
      ctx.beginPath();
      const size = Math.max(1, bbox.width / Math.max(1, x.length));
      for (let i = 0; i < x.length; i++) {
        if (band.max[i] === null || band.min[i] === null) continue;
        const left = u.valToPos(x[i], "x", true);
        const top = u.valToPos(band.max[i], "y", true);
        const bottom = u.valToPos(Math.max(band.min[i], 1e-12), "y", true);
        ctx.rect(left, top, size, Math.max(1, bottom - top));
      }
      ctx.fill();
      ctx.globalAlpha = 1;
    }
    const ratio = devicePixelRatio;
    this.#holes(u, theme, ratio);
    ctx.lineWidth = ratio;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    for (const { step, tone } of this.#data.marks) {
      const left = Math.round(u.valToPos(step, "x", true)) + 0.5;
      if (left < bbox.left || left > bbox.left + bbox.width) continue;
      ctx.strokeStyle = theme[tone];
      ctx.beginPath();
      ctx.moveTo(left, bbox.top);
      ctx.lineTo(left, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** The lines of the layers, each broken where it has no value. */
  #layers({ ctx, bbox, scales: { y } }) {
    const { x, lines, low, high, logarithmic } = this.#data;
    const perStep = bbox.width / Math.max(1e-9, high - low);
    const height = logarithmic ? Math.log10 : Number;
    const bottom = height(y.min);
    const perHeight = bbox.height / (height(y.max) - bottom);
    const places = Float64Array.from(x, (step) => bbox.left + (step - low) * perStep);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineWidth = devicePixelRatio;
    ctx.lineJoin = "bevel";
    for (const { colour, values } of lines) {
      ctx.strokeStyle = colour;
      ctx.beginPath();
      let open = false;
      for (let i = 0; i < values.length; i++) {
        const value = values[i];
        if (value === null || (logarithmic && value <= 0)) {
          open = false;
          continue;
        }
        const at = bbox.top + bbox.height - ((logarithmic ? Math.log10(value) : value) - bottom) * perHeight;
        if (open) ctx.lineTo(places[i], at);
        else ctx.moveTo(places[i], at);
        open = true;
      }
      ctx.stroke();
    }
    ctx.restore();
  }

  /** What is declared missing is hatched: it is no stretch of small norms. */
  #holes(u, theme, ratio) {
    const { ctx, bbox } = u;
    const { gaps, low, high } = this.#data;
    for (const { first, last } of gaps) {
      if (last < low || first > high) continue;
      const left = u.valToPos(Math.max(first - 0.5, low), "x", true);
      const width = Math.max(2 * ratio, u.valToPos(Math.min(last + 0.5, high), "x", true) - left);
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, bbox.top, width, bbox.height);
      ctx.clip();
      ctx.strokeStyle = theme.edge;
      ctx.lineWidth = ratio;
      ctx.setLineDash([]);
      ctx.beginPath();
      for (let x = left - bbox.height; x < left + width; x += 7 * ratio) {
        ctx.moveTo(x, bbox.top + bbox.height);
        ctx.lineTo(x + bbox.height, bbox.top);
      }
      ctx.stroke();
      ctx.restore();
    }
  }

  #over(u, theme) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    const data = this.#data;
    ctx.save();
    const right = bbox.left + bbox.width;
    const bottom = bbox.top + bbox.height;
    const railTop = bottom + 5 * ratio;
    ctx.fillStyle = theme.line;
    ctx.fillRect(bbox.left, railTop, bbox.width, RAIL * ratio);
    const perStep = bbox.width / Math.max(1, data.high - data.low);
    const mark = Math.max(1.5 * ratio, perStep * (data.stride ?? 1));
    let lastTriangle = -Infinity;
    const visible = (left) => left >= bbox.left - 1 && left <= right + 1;
    for (let i = 0; i < data.x.length; i++) {
      const bad = data.nonfinite[i];
      const share = data.clipped[i];
      if (!bad && !share) continue;
      const left = u.valToPos(data.x[i], "x", true);
      if (!visible(left)) continue;
      ctx.fillStyle = bad ? theme.magenta : theme.clip;
      ctx.globalAlpha = bad ? 1 : 0.35 + 0.65 * Math.min(1, share);
      ctx.fillRect(Math.min(left, right - mark), railTop, mark, RAIL * ratio);
      ctx.globalAlpha = 1;
      if (bad) {
        const top = bbox.top - 6 * ratio;
        ctx.beginPath();
        for (const [dx, dy] of [[0, -5], [5, 0], [0, 5], [-5, 0]]) ctx.lineTo(left + dx * ratio, top + dy * ratio);
        ctx.closePath();
        ctx.fill();
      } else if (left - lastTriangle >= 7 * ratio) {
        const value = data.band ? data.band.max[i] : data.global[i];
        if (value === null || value === undefined) continue;
        lastTriangle = left;
        const tip = Math.max(bbox.top - 2 * ratio, u.valToPos(value, "y", true) - 4 * ratio);
        ctx.beginPath();
        ctx.moveTo(left, tip);
        ctx.lineTo(left - 4 * ratio, tip - 7 * ratio);
        ctx.lineTo(left + 4 * ratio, tip - 7 * ratio);
        ctx.closePath();
        ctx.fill();
      }
    }
    this.#tags(u, theme, right);
    ctx.restore();
  }

  /** The thresholds' numbers at the right edge, pushed apart where they would overlap. */
  #tags(u, theme, right) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    const tags = [];
    const add = (value, colour, text, dotted) => {
      if (!value) return;
      const raw = u.valToPos(value, "y", true);
      if (!Number.isFinite(raw)) return;
      tags.push({ raw, colour, text, dotted, value, at: Math.min(Math.max(raw, bbox.top - 6 * ratio), bbox.top + bbox.height) });
    };
    const current = this.#data.threshold.findLast((value) => value !== null && value !== undefined);
    add(current, theme.clip, theme.theme === "dark" ? "#1b1406" : "#1b1406", false);
    if (this.proposed !== null && this.proposed !== current) add(this.proposed, theme.proposed, "#ffffff", true);
    for (const tag of tags) {
      if (!tag.dotted || tag.raw < bbox.top - 8 * ratio || tag.raw > bbox.top + bbox.height) continue;
      ctx.strokeStyle = theme["accent-text"];
      ctx.lineWidth = 1.5 * ratio;
      ctx.setLineDash([1.5 * ratio, 3.5 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, tag.raw);
      ctx.lineTo(right, tag.raw);
      ctx.stroke();
      ctx.setLineDash([]);
    }
    const height = 17 * ratio;
    if (tags.length === 2 && Math.abs(tags[0].at - tags[1].at) < height + 2 * ratio) {
      const upper = tags[0].value >= tags[1].value ? 0 : 1;
      const middle = Math.max((tags[0].at + tags[1].at) / 2, bbox.top + 2 * ratio);
      tags[upper].at = middle - height / 2 - ratio;
      tags[1 - upper].at = middle + height / 2 + ratio;
    }
    ctx.font = `560 ${11 * ratio}px ${theme.font}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    const width = gutters(u.width).narrow ? 42 * ratio : 50 * ratio;
    for (const tag of tags) {
      const left = right + 4 * ratio;
      ctx.fillStyle = tag.colour;
      ctx.beginPath();
      ctx.roundRect(left, tag.at - height / 2, width, height, 4 * ratio);
      ctx.fill();
      ctx.fillStyle = tag.text;
      ctx.fillText(numbers.threshold(tag.value), left + width / 2, tag.at + 0.5 * ratio, width - 6 * ratio);
    }
  }
}

const columns = ({ x, threshold, raw, global }) => [x, threshold, ...(raw ? [raw] : []), global];

/** An item of the legend above the chart. */
export function legendItem(kind, text, colour) {
  const mark = make("span", { class: `key key-${kind}`, "aria-hidden": "true" });
  if (colour) mark.style.setProperty("--key", colour);
  return make("span", { class: "legend-item" }, mark, text);
}
