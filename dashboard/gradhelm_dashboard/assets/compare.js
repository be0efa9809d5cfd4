// The page that compares runs: joins what is known of each, the chart, the maps and the table.

import { alignedMap, alignedRows, comparisonTable, line, nearest } from "./aligned.js";
import { gutters } from "./chart.js";
import { Painter } from "./coalesce.js";
import { Compared } from "./compared.js";
import { Comparison, choices } from "./comparison.js";
import { $, STATUS, attribute, colours, connection, icon, make, say, show } from "./dom.js";
import { exportMenu, fileName } from "./exports.js";
import { histogram, levelRange, magenta, normOf } from "./heat.js";
import { Heatmap, drawKey } from "./heatmap.js";
import { MOST_RUNS, hue, ink, letter } from "./hues.js";
import { moved } from "./keys.js";
import * as numbers from "./numbers.js";
import { Outcomes } from "./outcomes.js";
import { Overlay, placeTicks, placeWords } from "./overlay.js";
import { RunFinder } from "./runfinder.js";

const EVERY = 3000;
const CELLS = 1000;
/** A map's height; there may be eight of them. */
const LOW_MAP = 150;
/** Scalars that are steps and no slopes. */
const STEPPED = new Set(["threshold", "clipped", "lr"]);

export const startCompare = () => new ComparePage();

class ComparePage {
  runs = [];
  cursor = null;
  data = null;
  #maps = new Map();
  #cached = new Map();
  #range = null;
  #told = "";
  #wide = "";

  constructor() {
    document.title = "Compare · gradhelm";
    connection("connecting", "Connecting…");
    this.look = Comparison.read(location.search);
    for (const name of ["touch", "point"]) this[name] = this[name].bind(this);
    this.painter = new Painter(() => this.draw());
    this.overlay = new Overlay(() => $("compare-chart"), {
      cursor: this.point, zoom: (low, high) => this.zoom(low, high), reset: () => this.zoom(null),
    });
    this.outcomes = new Outcomes($("compare-table"), $("compare-every"), this.look, () => this.lookChanged());
    this.finder = new RunFinder($("compare-finder"), { pick: (run) => this.add(run.id), taken: () => new Set(this.look.runs) });
    this.column();
    this.smoothing();
    this.exporting();
    for (const id of this.look.runs) this.enter(id);
    this.listen();
    this.render();
    this.poll();
    window.gradhelm.compare = { runs: 0, lines: 0, busy: true, drawn: 0 };
  }

  listen() {
    addEventListener("gradhelm:control", ({ detail: { id, value } }) => {
      const choice = { "compare-axis": "axis", "compare-scale": "scale" }[id];
      if (!choice || !value || this.look[choice] === value) return;
      this.look[choice] = value;
      // Steps are no seconds.
      if (choice === "axis") this.look.range = null;
      this.lookChanged();
    });
    $("compare-all").addEventListener("click", () => this.zoom(null));
    $("compare-chart").addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("visibilitychange", () => document.hidden || this.poll());
    new ResizeObserver(this.touch).observe($("compare-page"));
    new MutationObserver(() => this.restyle()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    document.fonts?.ready.then(() => this.restyle());
  }

  /** The choice of the scalar, filled when it is known what the runs have. */
  column() {
    this.columnChoice = make("select", { class: "field", id: "compare-column", "aria-label": "Scalar" });
    this.columnChoice.addEventListener("change", () => {
      this.look.column = this.columnChoice.value;
      this.lookChanged();
    });
    $("compare-column-place").replaceChildren(this.columnChoice);
  }

  smoothing() {
    const word = make("span", { class: "num faint" });
    const slider = make("input", { type: "range", id: "compare-smooth", min: 0, max: 0.99, step: 0.01 });
    const tell = () => {
      const text = this.look.smooth ? String(this.look.smooth) : "off";
      say(word, text);
      slider.setAttribute("aria-valuetext", text);
    };
    slider.value = this.look.smooth;
    slider.addEventListener("input", () => {
      this.look.smooth = Number(slider.value);
      tell();
      this.lookChanged();
    });
    tell();
    $("compare-smooth-place").replaceChildren(make("label", { class: "chooser smooth" }, "Smoothing", slider, word));
  }

  exporting() {
    const shown = () => this.data?.lines ?? [];
    const names = () => shown().map(({ slot, name }) => `${letter(slot)} ${name}`).join(" · ");
    $("compare-export").replaceChildren(exportMenu({
      name: () => fileName("compare", this.look.column),
      title: () => `${this.look.column} by ${this.look.axis === "time" ? "time" : "step"}: ${names()}`,
      theme: colours,
      canvases: () => [this.overlay.canvas, ...document.querySelectorAll("#compare-maps canvas")],
      table: () => {
        const table = comparisonTable(this.look.axis, this.look.column, shown().map((own) => ({ name: own.name, line: own })));
        return table.rows.length ? table : null;
      },
    }));
  }

  // -- which runs ---------------------------------------------------------------------------

  enter(id) {
    const taken = new Set(this.runs.map(({ slot }) => slot));
    // A run keeps its colour while others come and go.
    const slot = Array.from({ length: MOST_RUNS }, (_, i) => i).find((i) => !taken.has(i));
    const run = new Compared(id, slot, this.touch);
    this.runs.push(run);
    return run;
  }

  add(id) {
    if (this.look.runs.includes(id)) return;
    if (this.look.runs.length >= MOST_RUNS) {
      this.notice("info", "info", `No more than ${MOST_RUNS} runs can be told apart. Take one out first.`);
      return;
    }
    this.look.runs.push(id);
    this.enter(id).look();
    this.lookChanged();
    this.render();
  }

  remove(id) {
    this.look.runs = this.look.runs.filter((other) => other !== id);
    this.look.hidden = this.look.hidden.filter((other) => other !== id);
    this.look.dropped = 0;
    const at = this.runs.findIndex((run) => run.id === id);
    this.runs.splice(at, 1);
    this.#maps.get(id)?.row.remove();
    this.#maps.delete(id);
    this.#cached.delete(id);
    this.lookChanged();
    this.render();
    const next = this.runs[Math.min(at, this.runs.length - 1)];
    (next ? document.querySelector(`#compare-runs [data-run="${CSS.escape(next.id)}"] .close`) : this.finder.input)?.focus();
  }

  toggle(id) {
    const { look } = this;
    look.hidden = look.hidden.includes(id) ? look.hidden.filter((other) => other !== id) : [...look.hidden, id];
    this.lookChanged();
  }

  async poll() {
    clearTimeout(this.timer);
    await Promise.all(this.runs.filter((run) => run.growing || run.state === "lost").map((run) => run.look()));
    const lost = this.runs.filter((run) => run.state === "lost");
    window.gradhelm.connected = !lost.length;
    if (lost.length) connection("closed", "Disconnected, retrying");
    else connection("live", "Connected");
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.poll(), EVERY);
  }

  // -- what is looked at --------------------------------------------------------------------

  lookChanged() {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => {
      history.replaceState(history.state, "", location.pathname + this.look.write(location.search) + location.hash);
    }, 200);
    this.touch();
  }

  zoom(low, high) {
    if (low === null) this.look.range = null;
    else {
      const digits = this.look.axis === "time" ? 3 : 0;
      const [from, to] = [Math.max(0, Math.min(low, high)), Math.max(low, high)].map((at) => Number(at.toFixed(digits)));
      this.look.range = { low: from, high: Math.max(to, from + (digits ? 0.01 : 1)) };
    }
    this.lookChanged();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== event.currentTarget || !this.data) return;
    const { low, high, whole } = this.data;
    const range = moved({ low, high }, event.key, event.shiftKey, whole.low, whole.high, this.cursor);
    if (range) this.zoom(range.low, range.high);
    else if (event.key === "0" || event.key === "End") this.zoom(null);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const by = (high - low) / 100;
      const at = this.cursor === null ? high : this.cursor + (event.key === "ArrowLeft" ? -by : by);
      this.point(Math.min(high, Math.max(low, at)));
      say("compare-told", this.words());
    } else return;
    event.preventDefault();
  }

  /** The cursor is at a place on the axis; null is nowhere. */
  point(at) {
    this.cursor = at;
    this.overlay.point(at);
    for (const { map, view } of this.#maps.values()) {
      if (view) map.point(at === null ? null : view.low + ((at - this.data.low) / (this.data.high - this.data.low)) * (view.high - view.low));
    }
    this.values();
  }

  words() {
    const values = this.data.lines.map((own) => `${letter(own.slot)} ${own.name}: ${this.valueOf(own)}`);
    return `${this.look.axis === "time" ? "At" : "Step"} ${placeWords(this.look.axis, this.cursor)}. ${values.join(", ")}`;
  }

  valueOf(own) {
    const i = nearest(own, this.cursor ?? Infinity);
    return i < 0 ? "–" : numbers.norm(own.values[i]);
  }

  touch() {
    this.painter.touch();
  }

  // -- drawing ------------------------------------------------------------------------------

  draw() {
    this.render();
    const here = this.runs.filter((run) => run.state !== "missing" && run.run);
    for (const run of here) run.want(this.look.column, this.partOf(run));
    this.chart(here);
    this.maps(here);
    this.outcomes.render(here);
    Object.assign(window.gradhelm.compare, { runs: here.length, lines: this.data.lines.length, busy: here.some((run) => run.busy), drawn: this.painter.drawn });
  }

  /** The part of a run's steps that is looked at: {first, last}; null is all of them. */
  partOf(run) {
    const { range, axis } = this.look;
    if (!range) return null;
    if (axis === "step") return { first: Math.floor(range.low), last: Math.ceil(range.high) };
    return { first: Math.max(0, Math.floor(run.times.stepAt(range.low))), last: Math.ceil(run.times.stepAt(range.high)) };
  }

  placeOf(run) {
    return this.look.axis === "time" ? run.times.secondsAt : (step) => step;
  }

  chart(here) {
    const { look } = this;
    const logarithmic = look.scale === "log";
    const drawn = here.filter((run) => !look.hidden.includes(run.id));
    const lines = drawn.flatMap((run) => {
      if (!run.series?.column || run.series.name !== look.column) return [];
      const own = line(run.series.column, run.series.stride, this.placeOf(run), { smooth: look.smooth, geometric: logarithmic });
      return [{ ...own, slot: run.slot, name: run.name, id: run.id }];
    });
    const places = (drawn.length ? drawn : here).filter((run) => !run.empty)
      .flatMap((run) => [run.run.first_step, run.run.last_step].map(this.placeOf(run)));
    const whole = places.length ? { low: Math.min(...places), high: Math.max(...places) } : { low: 0, high: 1 };
    if (whole.high <= whole.low) whole.high = whole.low + 1;
    const { low, high } = look.range ?? whole;
    const marks = drawn.flatMap((run) => run.marks.map(({ step, title }) => ({ slot: run.slot, at: this.placeOf(run)(step), title: `${letter(run.slot)} ${run.name}. ${title}` })));
    this.data = { axis: look.axis, low, high, whole, logarithmic, stepped: STEPPED.has(look.column) && !look.smooth, lines, marks };
    const log = this.overlay.draw(this.data, colours());
    if (this.cursor !== null) this.overlay.point(this.cursor);
    show("compare-all", look.range !== null);
    this.note(here, drawn, lines, logarithmic && !log);
    this.values();
  }

  note(here, drawn, lines, straightened) {
    const waiting = drawn.some((run) => run.state === "loading" || (!run.empty && run.scalars.includes(this.look.column) && run.series?.name !== this.look.column));
    const points = lines.some(({ values }) => values.some((value) => value !== null));
    let text = "";
    if (!here.length) text = "";
    else if (here.every((run) => run.empty)) text = "No run has a step yet. They appear here as soon as there is one.";
    else if (!drawn.length) text = "All runs are hidden. Press one above to draw it.";
    else if (waiting && !lines.length) text = "Loading…";
    else if (!lines.length) text = `None of the runs that are drawn has ${this.look.column}.`;
    else if (!points) text = waiting ? "Loading…" : `There is no finite ${this.look.column} in this part.`;
    say("compare-none", text);
    show("compare-none", text !== "");
    const hints = [];
    if (straightened && points) hints.push("Nothing here is above zero, so the axis is linear.");
    const without = drawn.filter((run) => run.run && !run.empty && !run.scalars.includes(this.look.column));
    if (lines.length && without.length) hints.push(`Without ${this.look.column}: ${without.map((run) => `${letter(run.slot)} ${run.name}`).join(", ")}.`);
    const empty = drawn.filter((run) => run.empty);
    if (empty.length && empty.length < here.length) hints.push(`No step yet: ${empty.map((run) => `${letter(run.slot)} ${run.name}`).join(", ")}.`);
    if (lines.some(({ bad }) => bad.length)) hints.push("A diamond stands where a value is not finite.");
    if (this.data.marks.length) hints.push("Dotted lines stand where somebody changed a run.");
    say("compare-hint", hints.join(" "));
    show("compare-hint", hints.length > 0);
  }

  maps(here) {
    const place = $("compare-maps");
    const drawn = here.filter((run) => !this.look.hidden.includes(run.id) && run.picture?.cells && run.names.length);
    show("compare-maps-card", drawn.length > 0);
    const ids = new Set(drawn.map((run) => run.id));
    for (const [id, { row }] of this.#maps) {
      if (ids.has(id)) continue;
      row.remove();
      this.#maps.delete(id);
    }
    if (!drawn.length) return;
    const theme = { ...colours(), magenta: magenta(colours().theme) };
    const rows = this.once("rows", drawn.map((run) => run.names), () => alignedRows(drawn.map((run) => run.names)));
    const { low, high } = this.data;
    const width = place.clientWidth;
    const most = Math.max(3, Math.floor((width - gutters(width).left - gutters(width).right) / 110));
    const time = this.look.axis === "time";
    const ticks = placeTicks(this.look.axis, low, high, most).map((at) => ({ at: time ? ((at - low) / (high - low)) * CELLS : at, text: placeWords(this.look.axis, at) }));
    const views = drawn.map((run, i) => this.once(
      `map ${run.id}`, [run.picture.cells, rows[i], low, high, time, time ? run.times : null],
      () => alignedMap(run.picture.cells, run.names, rows[i], low, high, time ? run.times.secondsAt : null, CELLS),
    ));
    const range = this.colourRange(views);
    drawn.forEach((run, i) => {
      if (!this.#maps.has(run.id)) this.#maps.set(run.id, this.mapOf(run));
      const shown = this.#maps.get(run.id);
      if (place.children[i] !== shown.row) place.insertBefore(shown.row, place.children[i] ?? null);
      say(shown.title, run.name);
      const own = new Set(run.names);
      const without = rows[i].names.filter((name) => !own.has(name)).length;
      say(shown.without, without ? `${numbers.count(without)} rows are empty: it has no such parameters` : "");
      this.badge(shown.badge, run.slot, theme.theme);
      attribute(shown.place, "aria-label", `Gradient norm of every layer of ${run.name}`);
      const where = (k) => {
        const step = views[i].stepOf(k);
        const steps = views[i].size > 1 ? `steps ${numbers.count(step)}–${numbers.count(step + views[i].size - 1)}` : `step ${numbers.count(step)}`;
        return `${steps}${time ? ` · ${placeWords("time", run.times.secondsAt(step))}` : ""} · ${views[i].size > 1 ? "largest" : "norm"}`;
      };
      shown.view = { ...views[i], range, ticks, where, height: LOW_MAP };
      shown.map.draw(shown.view, theme);
    });
    say("compare-low", numbers.norm(normOf(range[0])));
    say("compare-high", numbers.norm(normOf(range[1])));
    drawKey($("compare-key"), "absolute", theme.theme);
  }

  /** One range for all maps; it moves only when the data leave it, so that colours keep their meaning. */
  colourRange(views) {
    const counts = new Uint32Array(256);
    for (const view of views) histogram(view, 60_000).forEach((count, i) => (counts[i] += count));
    const wanted = levelRange(counts);
    if (!this.#range || Math.abs(this.#range[0] - wanted[0]) >= 6 || Math.abs(this.#range[1] - wanted[1]) >= 6) this.#range = wanted;
    return this.#range;
  }

  mapOf(run) {
    const badge = make("span", { class: "badge", "aria-hidden": "true" });
    const title = make("bdi", { class: "name" });
    const without = make("span", { class: "faint small" });
    const place = make("div", { class: "own-map", role: "img" });
    const row = make("div", { class: "map-row" }, make("div", { class: "map-title" }, badge, title, without), place);
    const shown = { row, badge, title, without, place, view: null };
    shown.map = new Heatmap(() => place, {
      cursor: (at) => {
        const { view } = shown;
        this.point(at === null || !view ? null : this.data.low + ((at - view.low) / (view.high - view.low)) * (this.data.high - this.data.low));
      },
      pick: () => null,
    });
    return shown;
  }

  /** What `make()` made of the same things last time, or makes now. */
  once(name, of, make_) {
    const known = this.#cached.get(name);
    const flat = of.flat();
    if (known && known.of.length === flat.length && known.of.every((part, i) => part === flat[i])) return known.made;
    const made = make_();
    this.#cached.set(name, { of: flat, made });
    return made;
  }

  restyle() {
    this.overlay.destroy();
    this.#told = "";
    this.touch();
  }

  badge(element, slot, theme) {
    say(element, letter(slot));
    element.style.setProperty("--key", hue(slot, theme));
    element.style.setProperty("--ink", ink(slot, theme));
  }

  // -- the legend, and what is the matter ---------------------------------------------------

  render() {
    const { theme } = colours();
    const place = $("compare-runs");
    const known = new Map([...place.children].map((item) => [item.dataset.run, item]));
    for (const [id, item] of known) if (!this.look.runs.includes(id)) item.remove();
    this.runs.forEach((run, i) => {
      const item = known.get(run.id) ?? this.item(run);
      if (place.children[i] !== item) place.insertBefore(item, place.children[i] ?? null);
      const hidden = this.look.hidden.includes(run.id);
      const { badge, toggle, name, status, open } = item.parts;
      this.badge(badge, run.slot, theme);
      attribute(toggle, "aria-pressed", String(!hidden));
      attribute(toggle, "title", hidden ? "Draw it" : "Hide it");
      item.className = `compared ${run.state}${hidden ? " off" : ""}`;
      say(name, run.state === "missing" ? "No such run" : run.run ? run.name : "Loading…");
      attribute(name, "title", run.state === "missing" ? `There is no run ${run.id}; it may have been deleted.` : run.name);
      const { word, icon: symbol } = STATUS[run.run?.status] ?? { word: "", icon: "info" };
      if (status.dataset.status !== (run.run?.status ?? "")) {
        status.dataset.status = run.run?.status ?? "";
        status.className = `chip ${run.run?.status ?? ""}`;
        status.replaceChildren(...(word ? [icon(symbol), word] : []));
      }
      show(open, run.state !== "missing");
    });
    this.columns();
    this.state();
  }

  item(run) {
    const badge = make("span", { class: "badge", "aria-hidden": "true" });
    const name = make("bdi", { class: "name" });
    const value = make("span", { class: "num value" });
    const toggle = make("button", { type: "button", class: "compared-toggle", onclick: () => this.toggle(run.id) }, badge, name, value);
    const status = make("span", { class: "chip" });
    const open = make("a", { href: `/runs/${encodeURIComponent(run.id)}`, class: "tool", title: "Open the run", "aria-label": "Open the run" }, icon("arrow-right"));
    const close = make("button", { type: "button", class: "close", title: "Take it out", "aria-label": "Take the run out", onclick: () => this.remove(run.id) }, "×");
    const item = make("div", { class: "compared", role: "listitem", "data-run": run.id }, toggle, status, open, close);
    item.parts = { badge, name, value, toggle, status, open };
    return item;
  }

  /** Beside each run the value at the cursor, or else the newest one that is drawn. */
  values() {
    const lines = new Map((this.data?.lines ?? []).map((own) => [own.id, own]));
    for (const item of $("compare-runs").children) {
      const own = lines.get(item.dataset.run);
      say(item.parts.value, own ? this.valueOf(own) : "");
    }
    if (this.cursor === null) say("compare-told", "");
  }

  columns() {
    const offered = choices(this.runs.filter((run) => run.run).map((run) => run.scalars));
    if (!offered.some(({ name }) => name === this.look.column)) offered.unshift({ name: this.look.column, runs: 0 });
    const total = this.runs.filter((run) => run.run && !run.empty).length;
    const key = JSON.stringify([offered, total, this.look.column]);
    if (key === this.#told) return;
    this.#told = key;
    this.columnChoice.replaceChildren(...offered.map(({ name, runs }) => make("option", { value: name }, runs < total ? `${name} (${runs} of ${total})` : name)));
    this.columnChoice.value = this.look.column;
  }

  notice(tone, symbol, text) {
    const place = $("compare-notice");
    show(place, text !== "");
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    place.className = `banner ${tone}`;
    place.replaceChildren(icon(symbol), make("span", {}, text));
  }

  state() {
    const { runs, look } = this;
    const lost = runs.find((run) => run.state === "lost");
    const missing = runs.filter((run) => run.state === "missing").length;
    if (lost) this.notice("bad", "unplug", `${lost.why} Trying again; what is shown may be out of date.`);
    else if (look.dropped) this.notice("warn", "info", `No more than ${MOST_RUNS} runs can be told apart; the last ${numbers.count(look.dropped)} of the address ${look.dropped === 1 ? "is" : "are"} left out.`);
    else if (missing) this.notice("warn", "unplug", `${missing === 1 ? "One run does" : `${missing} runs do`} not exist: deleted, or mistyped in the address.`);
    else if (runs.length === 1 && runs[0].run) this.notice("info", "info", "This is one run only. Add another one to compare it with.");
    else this.notice("", "info", "");
    const any = runs.some((run) => run.run && run.state !== "missing");
    const wait = runs.some((run) => run.state === "loading" || (run.state === "lost" && !run.run));
    show("compare-body", any);
    show("compare-state", !any);
    const key = `${any}${wait}${runs.length > 0}`;
    if (any || this.#wide === key) {
      this.#wide = any ? "" : key;
      return;
    }
    this.#wide = key;
    $("compare-state").replaceChildren(...(wait
      ? [make("p", {}, "Loading the runs…")]
      : [icon("chart-spline"), make("h2", {}, runs.length ? "None of these runs exists" : "No runs to compare yet"),
        make("p", {}, "Find runs by name above, or select two to eight of them in the table."),
        make("a", { href: "/", class: "button primary" }, "See all runs")]));
  }
}
