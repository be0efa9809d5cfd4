// The page of one run: joins the stream, the charts, the panel and the lists.

import { ApiError, getControl, getEvents, getRun } from "./api.js";
import { Charts } from "./charts.js";
import { Calm, Painter } from "./coalesce.js";
import { Display } from "./display.js";
import { renderDistribution } from "./distribution.js";
import { $, attribute, connection, icon, make, say, show } from "./dom.js";
import { Events } from "./events.js";
import { renderFigures } from "./figures.js";
import { moved, singleKeys } from "./keys.js";
import { LayerList } from "./layerlist.js";
import { handful, spread } from "./layers.js";
import { Look } from "./look.js";
import * as numbers from "./numbers.js";
import { Panel } from "./panel.js";
import { Ratios } from "./ratios.js";
import { Source } from "./source.js";
import { Standing } from "./standing.js";
import { Stream, seenBy } from "./stream.js";
import { following } from "./views.js";

const ENDED = ["finished", "failed", "stopped"];
/** Lines that one press may draw; more cannot be told apart. */
const LINES = 10;

/**
 * Begins to fetch a run: itself, its socket, its newest steps. This needs no document yet; what is
 * heard before `attend(handlers)` waits for it.
 */
export async function openRun(id) {
  const run = await getRun(id);
  const names = (run.streams ?? []).map((stream) => stream.name);
  const wanted = new URLSearchParams(location.search).get("stream");
  const optimizer = names.indexOf(wanted) > 0 ? wanted : null;
  const heard = [];
  const on = { change: () => null };
  for (const name of ["run", "control", "event", "state"]) on[name] = (...words) => heard.push([name, words]);
  const stream = new Stream(id, optimizer, on);
  const attend = (handlers) => {
    Object.assign(on, handlers);
    for (const [name, words] of heard.splice(0)) on[name](...words);
  };
  return { run, optimizer, stream, attend };
}

export async function startRun(id, opening = openRun(id)) {
  connection("connecting", "Connecting…");
  try {
    return new RunPage(id, await opening);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 404) return state("unplug", "No such run", "It may have been deleted, or the address is incomplete.");
    if (error.status === 401) return undefined;
    state("unplug", "The run could not be loaded", `${error.message} Trying again.`);
    connection("closed", "Disconnected");
    return setTimeout(() => startRun(id), 3000);
  }
}

/** Instead of the page: what is the matter, and a way on. */
function state(symbol, title, text) {
  const place = $("run-state");
  if (!place) return;
  place.replaceChildren(icon(symbol), make("h1", {}, title), make("p", {}, text), make("a", { href: "/", class: "button primary" }, "See all runs"));
  show(place, true);
  show("run-body", false);
  $("run-page").classList.remove("loading");
  document.title = `${title} · gradhelm`;
  connection("idle", "Connected");
}

class RunPage {
  /** `opened`: of openRun; its `optimizer` is the one that is shown, null for the run's first. */
  constructor(id, { run, optimizer, stream, attend }) {
    this.id = id;
    this.optimizer = optimizer;
    this.stream = stream;
    this.run = run = seenBy(run, optimizer);
    show("run-state", false);
    show("run-body", true);
    this.look = Look.read(location.search);
    this.paused = null;
    this.drawn = new Set();
    this.label = "";
    this.namesOf = null;
    // Bound, because they are handed to the parts of the page.
    for (const name of ["touch", "zoom", "jump", "follow", "toggle", "choose", "recent", "closeLane", "lookChanged"]) this[name] = this[name].bind(this);
    this.painter = new Painter(() => this.draw());
    this.calmWords = new Calm(250, () => this.words());
    this.calmLists = new Calm(2000, () => this.lists());
    this.source = new Source(id, stream, () => {
      this.calmLists.hurry();
      this.touch();
    });
    this.standing = new Standing(id, stream);
    this.panel = new Panel(id, optimizer, {
      norms: () => this.recent("global_norm"),
      clipped: () => this.recent("clipped").reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0),
      lastStep: () => this.stream.matrix.lastStep ?? this.run.last_step ?? null,
      scalars: () => this.stream.scalars,
      proposed: (value) => (this.charts.proposed = value),
      steered: this.touch,
    });
    this.events = new Events(this.jump);
    this.charts = new Charts(this);
    this.ratios = new Ratios(id, stream);
    this.layers = new LayerList({
      names: () => stream.names, matrix: () => stream.matrix, drawn: () => this.drawn, toggle: this.toggle, choose: this.choose,
    });
    this.display = new Display({ look: this.look, scalars: () => stream.scalars, changed: this.lookChanged, go: (step) => this.jump(step, step) });
    this.panel.setRun(run);
    getControl(id).then((control) => this.panel.setControl(control), () => null);
    this.loadEvents();
    attend({
      run: (fresh) => this.setRun(fresh),
      control: (control) => this.panel.setControl(control),
      event: (event) => this.concerns(event) && this.events.add([event]),
      change: this.touch,
      state: (word, attempt) => {
        this.standing.setConnection(word, attempt);
        // The steps that were missed the stream fetches itself.
        if (word === "open" && this.away) this.loadEvents();
        this.away = word !== "open";
      },
    });
    this.listen();
    this.setRun(run);
    $("run-page").classList.remove("loading");
  }

  listen() {
    addEventListener("gradhelm:control", ({ detail: { id, value } }) => {
      const choice = { "window-choice": "window", "scale-choice": "scale", "heat-choice": "map" }[id];
      if (!choice || !value || this.look[choice] === value) return;
      this.look[choice] = value;
      if (choice === "window") this.look.range = null;
      this.lookChanged();
    });
    this.optimizers();
    $("threshold-apply").addEventListener("click", () => this.panel.apply());
    $("threshold-reset").addEventListener("click", () => this.panel.reset());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.closest?.("#threshold-input, #threshold-reason")) this.panel.apply();
      if (event.key === "Escape" && this.look.range) this.follow();
    });
    $("pause-view").addEventListener("click", () => this.pause());
    $("back-to-live").addEventListener("click", this.follow);
    this.keys();
    document.addEventListener("visibilitychange", () => document.hidden || this.touch());
    new ResizeObserver(this.touch).observe($("charts-card"));
    new MutationObserver(() => this.charts.restyle())
      .observe(document.documentElement, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    // Clocks on the page move on although nothing comes in.
    setInterval(() => {
      this.standing.banner();
      this.standing.setConnection();
      if (this.everything() && !ENDED.includes(this.run.status)) this.touch();
    }, 1000);
    document.fonts?.ready.then(() => this.charts.restyle());
  }

  keys() {
    const press = (id, value) => () => document.querySelector(`#${id} input[value="${value}"]`)?.click();
    const other = (id, name, values) => () => press(id, values[(values.indexOf(this.look[name]) + 1) % values.length])();
    singleKeys({
      p: () => this.pause(),
      l: other("scale-choice", "scale", ["log", "linear"]),
      m: other("heat-choice", "map", ["absolute", "relative"]),
      1: press("window-choice", "500"), 2: press("window-choice", "1000"), 3: press("window-choice", "2000"), 0: press("window-choice", "all"),
      f: this.follow,
      "/": () => $("layer-search").focus(),
      t: () => $("threshold-input").focus(),
      g: () => {
        $("display-menu").open = true;
        $("goto-step").focus();
      },
    });
    $("live-chart").addEventListener("keydown", (event) => this.walk(event));
  }

  /** Keys pressed on the chart: along its points, or to another part of the run. */
  walk(event) {
    const { data } = this.charts;
    if (!data?.x.length || event.ctrlKey || event.metaKey || event.altKey || event.target !== event.currentTarget) return;
    const last = Math.max(this.stream.matrix.lastStep ?? 0, this.run.last_step ?? 0);
    const range = moved(data, event.key, event.shiftKey, this.run.first_step ?? 0, last, this.charts.cursor);
    if (range) this.zoom(range.low, range.high);
    else if (event.key === "End") this.follow();
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") this.charts.step(event.key === "ArrowLeft" ? -1 : 1);
    else return;
    event.preventDefault();
  }

  everything() {
    return !this.look.range && this.look.window === "all";
  }

  /** The choice of the optimizer, where there are several; each has an address of its own. */
  optimizers() {
    const names = (this.run.streams ?? []).map((stream) => stream.name);
    const place = $("stream-choice");
    show("stream-field", names.length > 1);
    if (names.length < 2) return;
    place.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    place.value = this.optimizer ?? names[0];
    place.onchange = () => {
      location.search = place.value === names[0] ? "" : `?${new URLSearchParams({ stream: place.value })}`;
    };
  }

  /** Whether an event is one of the optimizer that is shown, or of the run as a whole. */
  concerns(event) {
    return ["gap", "status"].includes(event.kind) || (event.stream ?? null) === this.optimizer;
  }

  async loadEvents() {
    const first = this.run.streams?.[0]?.name;
    const stream = this.optimizer ?? first;
    try {
      // Gaps are drawn wherever they are, not only among the newest events.
      const asked = [{ limit: 200, stream }, { limit: 200, stream, kind: "gap" }];
      this.events.add((await Promise.all(asked.map((values) => getEvents(this.id, values)))).flat());
    } catch {
      this.events.add([]);
    }
  }

  touch() {
    this.painter.touch();
    const { matrix, frames, points } = this.stream;
    Object.assign(window.gradhelm, {
      frames, points, firstStep: matrix.firstStep, lastStep: matrix.lastStep, steps: matrix.length,
    });
  }

  /** The newest 500 values of a scalar, as they were recorded. */
  recent(name) {
    const { matrix } = this.stream;
    const column = matrix.scalars.get(name);
    if (!column) return [];
    const values = [];
    for (let i = Math.max(0, matrix.length - 500); i < matrix.length; i++) {
      if (column.bits[i] !== 0x7fc00bad) values.push(column.values[i]);
    }
    return values;
  }

  // -- for the parts ------------------------------------------------------------------------

  get versions() {
    return this.panel.versions;
  }

  get gaps() {
    return this.events.gaps;
  }

  // -- what is shown ------------------------------------------------------------------------

  /** What is looked at is something else now, and so is the address. */
  lookChanged() {
    this.source.forget();
    this.stream.want(this.look.lanes);
    this.calmLists.hurry();
    clearTimeout(this.telling);
    this.telling = setTimeout(() => {
      history.replaceState(history.state, "", location.pathname + this.look.write(location.search) + location.hash);
    }, 200);
    this.touch();
  }

  zoom(first, last) {
    const low = Math.max(0, Math.min(first, last));
    this.look.range = { low, high: Math.max(low + 1, Math.max(first, last)) };
    this.lookChanged();
  }

  follow() {
    this.look.range = null;
    if (this.paused) this.pause();
    this.lookChanged();
  }

  jump(first, last) {
    const around = Math.max(100, Math.round((last - first) * 0.4));
    this.zoom(first - around, last + around);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    $("charts-card").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    requestAnimationFrame(() => requestAnimationFrame(() => this.charts.point(first, null)));
  }

  /** Freezes the charts where they are; steps are collected on. */
  pause() {
    const { matrix } = this.stream;
    if (this.paused) {
      this.paused = null;
      this.look.range = null;
    } else if (matrix.length) {
      this.paused = { at: matrix.lastStep };
      if (!this.everything()) this.look.range ??= this.followed();
    }
    const button = $("pause-view");
    attribute(button, "aria-pressed", String(Boolean(this.paused)));
    button.replaceChildren(icon(this.paused ? "play" : "pause"), make("span", {}, this.paused ? "Resume view" : "Pause view"));
    this.source.forget();
    this.touch();
  }

  followed() {
    const { matrix } = this.stream;
    return following(matrix.firstStep, matrix.lastStep, Number(this.look.window) || 1000);
  }

  toggle(row) {
    if (!this.drawn.delete(row)) this.drawn.add(row);
    this.redrawn("");
  }

  choose(rows, label) {
    this.drawn = new Set(spread(rows, LINES));
    this.redrawn(label);
  }

  redrawn(label) {
    this.label = label;
    this.look.layers = [...this.drawn].map((row) => this.stream.names[row]);
    this.lookChanged();
    this.calmLists.do();
  }

  closeLane(name) {
    this.display.toggle(name);
  }

  /** The layers' names are here, or have changed: those that are drawn, in their new places. */
  named() {
    const { names } = this.stream;
    if (this.namesOf === names || !names.length) return;
    this.namesOf = names;
    this.calmLists.hurry();
    if (this.look.layers) {
      const wanted = new Set(this.look.layers);
      this.drawn = new Set(names.flatMap((name, row) => (wanted.has(name) ? [row] : [])));
    } else {
      const some = handful(names);
      this.drawn = new Set(some.rows);
      this.label = some.label;
    }
  }

  // -- drawing ------------------------------------------------------------------------------

  draw() {
    this.named();
    this.calmWords.touch();
    this.picture();
    this.calmLists.touch(); // of what the charts show
  }

  picture() {
    const { stream, look } = this;
    const { matrix } = stream;
    const none = !matrix.length && stream.caughtUp;
    $("charts-card").classList.toggle("empty", !matrix.length);
    this.note(none);
    if (!matrix.length) return;
    const rows = [...this.drawn].sort((a, b) => a - b);
    // All columns are looked through for that: not for each frame, unless there are lanes.
    const known = look.lanes.length ? new Set(stream.scalars) : null;
    const lanes = look.lanes.filter((name) => known.has(name));
    stream.want(lanes);
    const everything = this.everything();
    const { low, high } = everything
      ? { low: stream.run?.first_step ?? matrix.firstStep, high: this.paused?.at ?? matrix.lastStep }
      : look.range ?? this.followed();
    const view = this.source.view(low, high, rows, lanes, everything);
    if (!view) return;
    if (!this.charts.data) this.calmLists.hurry(); // the first steps are here
    this.charts.draw(view, rows, lanes);
    const { chart } = view;
    Object.assign(window.gradhelm, { drawn: this.painter.drawn, view: { low: chart.low, high: chart.high, stride: chart.stride } });
  }

  note(none) {
    const place = $("view-note");
    const { range } = this.look;
    show("back-to-live", range !== null && !this.paused);
    let text = "";
    if (none) {
      text = ENDED.includes(this.run.status)
        ? "This run ended before its first step." : "Waiting for the first step. It appears here as soon as the optimizer takes it.";
    } else if (!this.stream.caughtUp) text = "Loading steps…";
    else if (this.paused) {
      const more = this.stream.matrix.lastStep - this.paused.at;
      text = `View paused at step ${numbers.count(this.paused.at)}; ${numbers.count(more)} newer ${more === 1 ? "step" : "steps"} collected.`;
    } else if (range) text = `Showing steps ${numbers.count(range.low)} to ${numbers.count(range.high)}. Double-click or press Escape to go back to live.`;
    say(place, text);
    show(place, text !== "");
    place?.classList.toggle("over", none || !this.stream.caughtUp);
  }

  /** Text that need not change with every frame. */
  words() {
    renderFigures(this);
    this.panel.tick();
    this.display.render();
  }

  /** Lists and bars, which cost more to draw and are looked at longer. */
  lists() {
    if (this.stream.matrix.length) this.layers.render();
    const { data } = this.charts;
    if (!data) return;
    const norms = data.global.flatMap((value, i) => (value !== null ? [value] : data.nonfinite[i] ? [NaN] : []));
    renderDistribution(norms, data.stride, data.threshold.findLast((value) => value !== null) ?? null);
    this.ratios.refresh(this.stream.names);
  }

  // -- the run itself -----------------------------------------------------------------------

  setRun(run) {
    this.run = run;
    this.standing.setRun(run);
    this.panel.setRun(run);
    this.touch();
  }
}
