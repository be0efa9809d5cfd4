// The charts card: the lines, the lanes and the layer map on one time axis, with one cursor.

import { exportOf } from "./api.js";
import { Chart, legendItem } from "./chart.js";
import { $, colours, make, say } from "./dom.js";
import { exportMenu, fileName } from "./exports.js";
import { Heatmap, drawKey } from "./heatmap.js";
import { magenta, viridis } from "./heat.js";
import { Lanes } from "./lanes.js";
import { arrange, parse } from "./layers.js";
import { marks } from "./marks.js";
import * as numbers from "./numbers.js";
import { chartTable, mapTable } from "./table.js";
import { smoothed } from "./views.js";

/** Milliseconds between two pictures of a map that follows. */
const CALM = 300;

export class Charts {
  /** What was drawn last, as the chart had it. */
  data = null;
  cursor = null;
  #theme = null;
  #keyOf = "";
  #arranged = null;
  #mapped = 0;
  #mapTimer = 0;
  #mapLook = "";
  #mapView = null;

  /**
   * `page`: {look, stream, run, drawn → Set of rows, label (of the drawn layers), versions, gaps,
   * touch(), zoom(first, last), jump(first, last), follow(), toggle(row), closeLane(name)}.
   */
  constructor(page) {
    this.page = page;
    this.chart = new Chart(() => $("live-chart"), {
      cursor: (step) => this.point(step, this.chart),
      zoom: page.zoom,
      reset: page.follow,
      jump: page.jump,
    });
    this.lanes = new Lanes(() => $("lanes"), {
      cursor: (step) => this.point(step, this.lanes),
      zoom: page.zoom,
      close: page.closeLane,
    });
    this.map = new Heatmap(() => $("layer-heatmap"), {
      cursor: (step) => this.point(step, this.map),
      pick: page.toggle,
    });
    this.#exports();
  }

  /** The colours are others now, or the letters have come. */
  restyle() {
    this.#theme = null;
    this.#keyOf = "";
    this.page.touch();
  }

  get theme() {
    if (!this.#theme) {
      this.#theme = colours();
      this.#theme.magenta = magenta(this.#theme.theme);
    }
    return this.#theme;
  }

  set proposed(value) {
    this.chart.proposed = value;
    this.page.touch();
  }

  /** One cursor for all; `from` is the one that has it already. */
  point(step, from) {
    for (const one of [this.chart, this.lanes, this.map]) if (one !== from || one === this.map) one.point(step);
    this.cursor = step;
    this.#readout();
  }

  /** The cursor goes `by` points to the right, for somebody at the keyboard; readers hear where it is. */
  step(by) {
    const { x } = this.data;
    const at = this.cursor === null ? (by < 0 ? x.length : -1) : nearest(x, this.cursor);
    const next = Math.min(Math.max(at + by, 0), x.length - 1);
    this.point(x[next], null);
    say("chart-told", $("legend-readout")?.textContent ?? "");
  }

  /** Draws `view`: {chart, map} of source.js, with the layers `rows`, the lanes and what is marked. */
  draw({ chart, map }, rows, lanes) {
    const { page, theme } = this;
    const { look, stream } = page;
    if (this.#arranged?.names !== stream.names) this.#arranged = { names: stream.names, ...arrange(stream.names) };
    const weight = look.smooth;
    const logarithmic = look.scale === "log";
    const lines = rows.map((row, i) => ({
      label: stream.names[row], colour: this.#depthColour(i, rows.length),
      raw: chart.lines[i] ?? [], values: smoothed(chart.lines[i] ?? [], weight, logarithmic),
    }));
    const beside = lanes.map((name, i) => {
      const values = chart.lanes[i] ?? [];
      return { name, values: smoothed(values, weight), raw: weight ? values : null };
    });
    this.data = { ...chart, lines, lanes: beside };
    const gaps = reaching(page.gaps, chart).filter(({ last, first }) => last >= chart.low && first <= chart.high);
    this.chart.draw({
      ...this.data,
      global: smoothed(chart.global, weight, logarithmic), raw: weight ? chart.global : null,
      marks: marks(page.versions, chart.changes, page.optimizer), gaps, logarithmic,
    }, theme);
    this.lanes.draw(this.data, theme, logarithmic);
    this.#legend(rows);
    this.#drawMap(map, gaps);
    if (this.cursor !== null) this.#readout();
  }

  /**
   * A slow map must not hold up the lines: it gets at most a quarter of the time; and one that follows
   * the newest step, which moves it by a pixel, is not drawn for each of them.
   */
  #drawMap(map, gaps) {
    const { look, stream, paused } = this.page;
    if (!map || !stream.names.length) return;
    const now = performance.now();
    const wanted = [look.map, look.window, this.theme.theme, stream.names.length, $("layer-heatmap").clientWidth].join();
    const same = wanted === this.#mapLook && look.range === null && !paused;
    const wait = Math.max(this.map.cost * 4, same ? CALM : 0);
    if (now - this.#mapped <= wait) {
      clearTimeout(this.#mapTimer);
      this.#mapTimer = setTimeout(() => this.page.touch(), wait);
      return;
    }
    this.#mapped = now;
    this.#mapLook = wanted;
    const { order, groups, names } = this.#arranged;
    this.#mapView = { ...map, order, groups, names, gaps, relative: look.map === "relative" };
    const key = this.map.draw(this.#mapView, this.theme);
    if (key) this.#key(key);
  }

  #depthColour(i, of) {
    const share = of > 1 ? i / (of - 1) : 0.4;
    return this.theme.theme === "dark" ? viridis(0.24 + 0.72 * share) : viridis(0.02 + 0.74 * share);
  }

  #key(key) {
    const name = [key.kind, this.theme.theme].join();
    if (this.#keyOf !== name) {
      this.#keyOf = name;
      drawKey($("heat-key"), key.kind, this.theme.theme);
    }
    say("heat-low", key.low);
    say("heat-high", key.high);
  }

  #legend(rows) {
    const { label, stream, look } = this.page;
    const key = [rows.join(), label, this.theme.theme, stream.names.length, look.smooth].join("|");
    const place = $("chart-legend");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const items = [legendItem("line", look.smooth ? `Global norm, smoothed ${look.smooth}` : "Global norm", "var(--text)")];
    if (rows.length) {
      const depths = rows.map((row) => parse(stream.names[row]).depth);
      const known = depths.every((depth) => depth !== null) && depths.length > 1;
      const what = label && known
        ? `${label}, ${depths[0]} → ${depths.at(-1)}`
        : rows.length === 1 ? stream.names[rows[0]] : `${rows.length} layers, first → last`;
      const item = legendItem("ramp", what);
      const stops = Array.from({ length: 5 }, (_, i) => this.#depthColour(i, 5));
      item.firstChild.style.background = rows.length > 1 ? `linear-gradient(90deg, ${stops.join(",")})` : this.#depthColour(0, 1);
      items.push(item);
    }
    items.push(legendItem("dash", "Threshold", "var(--clip)"), legendItem("triangle", "Clipped step", "var(--clip)"));
    place.replaceChildren(...items, make("span", { id: "legend-readout", class: "num" }));
  }

  #readout() {
    const place = $("legend-readout");
    if (!place) return;
    const { x, global, nonfinite, lines, lanes } = this.data ?? {};
    const at = x && this.cursor !== null ? nearest(x, this.cursor) : -1;
    if (at < 0) {
      say(place, "");
      return;
    }
    const value = nonfinite[at] && global[at] === null ? "non-finite" : numbers.norm(global[at]);
    const known = lines.map(({ raw }) => raw[at]).filter((one) => one !== null && one !== undefined);
    const spread = known.length ? ` · layers ${numbers.norm(Math.min(...known))} to ${numbers.norm(Math.max(...known))}` : "";
    const others = lanes.map(({ name, raw, values }) => ` · ${name} ${numbers.norm((raw ?? values)[at])}`).join("");
    say(place, `Step ${numbers.count(x[at])}: ${value}${spread}${others}`);
  }

  #exports() {
    const range = () => `${this.data?.low ?? 0}-${this.data?.high ?? 0}`;
    const { page } = this;
    $("charts-export")?.append(exportMenu({
      name: () => fileName(page.run.name, "norms", range()),
      table: () => this.data && chartTable(this.data),
      canvases: () => [...document.querySelectorAll("#live-chart canvas, #lanes canvas, #layer-heatmap canvas")],
      title: () => `${page.run.name}, steps ${numbers.count(this.data.low)} to ${numbers.count(this.data.high)}`,
      theme: () => this.theme,
      whole: exportOf(page.id, { format: "csv", stream: page.optimizer }),
    }));
    $("map-export")?.append(exportMenu({
      name: () => fileName(page.run.name, "layers", range()),
      table: () => this.#mapView && mapTable(this.#mapView),
      canvases: () => [...document.querySelectorAll("#layer-heatmap canvas")],
      title: () => `${page.run.name}, gradient norm of each layer`,
      theme: () => this.theme,
    }));
  }
}

/** The gaps with the end of those that are open: before the next step that was measured. */
function reaching(gaps, { x, global, nonfinite }) {
  return gaps.map((gap) => {
    if (!gap.open) return gap;
    const next = x.find((step, i) => step >= gap.first && (global[i] !== null || nonfinite[i]));
    return { ...gap, last: next === undefined ? gap.first : Math.max(gap.first, next - 1) };
  });
}

/** Where in `steps` (increasing) the one closest to `step` is; -1 when there is none. */
export function nearest(steps, step) {
  let [low, high] = [0, steps.length - 1];
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}
