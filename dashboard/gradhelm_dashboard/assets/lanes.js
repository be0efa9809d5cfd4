// Scalars beside the norms (loss, learning rate, whatever the script logs): a low chart each, under
// the large one and on its time axis.

import uPlot from "./vendor/uplot.js";
import { gutters } from "./chart.js";
import { make, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { laneRange } from "./ranges.js";

const HEIGHT = 78;

export class Lanes {
  #lanes = new Map();
  #look = "";

  /** `on`: {cursor(step | null), zoom(first, last), close(name)}. */
  constructor(place, on) {
    this.place = place;
    this.on = on;
  }

  /**
   * Draws `data`: {x, low, high, lanes: [{name, values, raw}]}; `theme`: colours(). `logarithmic`: as
   * the chart above, where the values allow it.
   */
  draw(data, theme, logarithmic) {
    const place = this.place();
    show(place, data.lanes.length > 0);
    // Hidden, it has no width, and nothing to draw.
    const width = data.lanes.length ? place?.clientWidth : 1;
    if (!width) return;
    const ranges = data.lanes.map(({ raw, values }) => laneRange(raw ?? values, logarithmic));
    const look = [theme.theme, width, gutters(width).narrow, ...data.lanes.map(({ name, raw }, i) => `${name}${raw !== null}${ranges[i].logarithmic}`)].join("\n");
    if (look !== this.#look || (data.lanes.length && !place.firstChild)) this.#build(place, width, data, ranges, theme);
    this.#look = look;
    data.lanes.forEach(({ name, values, raw }, i) => {
      const { plot, word } = this.#lanes.get(name);
      const { low, high } = ranges[i];
      plot.batch(() => {
        plot.setData(raw ? [data.x, raw, values] : [data.x, values], false);
        plot.setScale("x", { min: data.low, max: data.high });
        plot.setScale("y", { min: low, max: high });
      });
      const newest = values.findLast((value) => value !== null);
      const text = newest === undefined ? "no value here" : numbers.norm(newest);
      if (word.textContent !== text) word.textContent = text;
    });
  }

  /** Shows the cursor at a step, without telling of it. */
  point(step) {
    for (const { plot } of this.#lanes.values()) {
      plot.setCursor(step === null ? { left: -10, top: -10 } : { left: plot.valToPos(step, "x"), top: 10 }, false);
    }
  }

  #build(place, width, data, ranges, theme) {
    for (const { plot } of this.#lanes.values()) plot.destroy();
    this.#lanes.clear();
    const side = gutters(width);
    const rows = data.lanes.map(({ name, raw }, i) => {
      const word = make("span", { class: "num" });
      const close = make("button", { type: "button", class: "close", "aria-label": `Hide ${name}`, title: `Hide ${name}`, onclick: () => this.on.close(name) }, "×");
      const chart = make("div", { role: "img", "aria-label": `${name} by step` });
      const row = make("div", { class: "lane" }, make("div", { class: "lane-head" }, make("span", { class: "mono name", title: name }, name), word, close), chart);
      this.#lanes.set(name, { plot: this.#plot(chart, width, side, raw !== null, ranges[i].logarithmic, theme), word });
      return row;
    });
    place.replaceChildren(...rows);
  }

  #plot(place, width, side, smoothed, logarithmic, theme) {
    const line = (stroke) => ({ stroke, width: 1, points: { show: false }, spanGaps: true });
    return new uPlot({
      width,
      height: HEIGHT,
      padding: [6, side.right, 6, 0],
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false, dist: 6 } },
      scales: { x: { time: false, auto: false }, y: { auto: false, distr: logarithmic ? 3 : 1 } },
      series: [{}, ...(smoothed ? [line(theme.edge)] : []), line(theme.info)],
      axes: [
        { show: false },
        {
          size: side.left, gap: 8, font: `11px ${theme.font}`, stroke: theme.faint, ticks: { show: false },
          grid: { stroke: theme.line, width: 1 },
          splits: (_u, _axis, min, max) => (logarithmic ? numbers.logTicks(min, max, 3) : numbers.linearTicks(min, max, 2)),
          filter: (_u, splits) => splits,
          values: (_u, splits) => splits.map(numbers.tick),
        },
      ],
      hooks: {
        setCursor: [(u) => {
          const { idx, left } = u.cursor;
          this.on.cursor(left < 0 || idx === null || idx === undefined ? null : u.data[0][idx]);
        }],
        setSelect: [(u) => {
          if (u.select.width < 6) return;
          const [first, last] = [u.select.left, u.select.left + u.select.width].map((at) => Math.round(u.posToVal(at, "x")));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          this.on.zoom(first, last);
        }],
      },
    }, smoothed ? [[], [], []] : [[], []], place);
  }
}
