// The page of one run: joins the stream, the two charts, the panel and the lists.

import { ApiError, getControl, getEvents, getHeatmap, getRun, getSeries } from "./api.js";
import { Chart, legendItem } from "./chart.js";
import { Painter } from "./coalesce.js";
import { $, STATUS, attribute, colours, connection, icon, make, say, show } from "./dom.js";
import { Events } from "./events.js";
import { Heatmap, drawKey } from "./heatmap.js";
import { magenta, viridis } from "./heat.js";
import { renderHot } from "./hot.js";
import { arrange, handful, parse, spread } from "./layers.js";
import { Picker } from "./picker.js";
import * as numbers from "./numbers.js";
import { Panel } from "./panel.js";
import { sparkline } from "./spark.js";
import { SCALARS, Stream, seenBy } from "./stream.js";
import * as views from "./views.js";

const ENDED = ["finished", "failed", "stopped"];
const REFETCH = 3000;

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
    this.range = null; // a chosen part; null follows the newest steps
    this.paused = null;
    this.drawn = new Set();
    this.label = "";
    this.fetched = null;
    this.theme = null;
    this.painter = new Painter(() => this.draw());
    this.chart = new Chart(() => $("live-chart"), {
      cursor: (step) => this.point(step, "chart"),
      zoom: (first, last) => this.look(first, last),
      reset: () => this.follow(),
    });
    this.map = new Heatmap(() => $("layer-heatmap"), {
      cursor: (step) => this.point(step, "map"),
      pick: (row) => this.toggle(row),
    });
    this.panel = new Panel(id, optimizer, {
      norms: () => this.recent("global_norm"),
      clipped: () => this.recent("clipped").reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0),
      proposed: (value) => {
        this.chart.proposed = value;
        this.touch();
      },
    });
    this.events = new Events((first, last) => this.jump(first, last));
    this.picker = new Picker({
      names: () => this.stream.names,
      drawn: () => this.drawn,
      toggle: (row) => this.toggle(row),
      choose: (rows, label) => this.choose(rows, label),
    });
    this.panel.setRun(run);
    getControl(id).then((control) => this.panel.setControl(control), () => null);
    this.loadEvents();
    attend({
      run: (fresh) => this.setRun(fresh),
      control: (control) => this.panel.setControl(control),
      event: (event) => this.concerns(event) && this.events.add([event]),
      change: () => this.touch(),
      state: (word, attempt) => this.setConnection(word, attempt),
    });
    this.listen();
    this.setRun(run);
    $("run-page").classList.remove("loading");
  }

  listen() {
    addEventListener("gradhelm:control", ({ detail: { id, value } }) => {
      if (id.startsWith("threshold-")) this.panel.changed(id, value);
      if (id === "window-choice" || id === "scale-choice" || id === "heat-choice") {
        if (id === "window-choice") {
          this.range = null;
          this.fetched = null;
        }
        this.touch();
      }
    });
    this.optimizers();
    $("threshold-apply").addEventListener("click", () => this.panel.apply());
    $("threshold-reset").addEventListener("click", () => this.panel.reset());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.closest?.("#threshold-input, #threshold-reason")) this.panel.apply();
      if (event.key === "Escape" && this.range) this.follow();
    });
    $("pause-view").addEventListener("click", () => this.pause());
    $("back-to-live").addEventListener("click", () => this.follow());
    document.addEventListener("visibilitychange", () => document.hidden || this.touch());
    new ResizeObserver(() => this.touch()).observe($("charts-card"));
    new MutationObserver(() => {
      this.theme = null;
      this.keyOf = "";
      this.touch();
    }).observe(document.documentElement, { attributes: true, attributeFilter: ["data-mantine-color-scheme"] });
    // Clocks on the page move on although nothing comes in.
    setInterval(() => {
      this.banner();
      this.setConnection();
      if (this.everything() && !ENDED.includes(this.run.status)) this.touch();
    }, 1000);
    document.fonts?.ready.then(() => {
      this.theme = null;
      this.touch();
    });
  }

  control(id, fallback) {
    return window.gradhelmControls.get(id) ?? fallback;
  }

  everything() {
    return !this.range && this.control("window-choice", "1000") === "all";
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
    try {
      this.events.add(await getEvents(this.id, { limit: 200, stream: this.optimizer ?? first }));
    } catch {
      this.events.add([]);
    }
  }

  touch() {
    this.painter.touch();
    const { matrix, frames, points } = this.stream ?? {};
    Object.assign(window.gradhelm, {
      frames: frames ?? 0,
      points: points ?? 0,
      firstStep: matrix?.firstStep ?? null,
      lastStep: matrix?.lastStep ?? null,
      steps: matrix?.length ?? 0,
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

  // -- what is shown ------------------------------------------------------------------------

  look(first, last) {
    const low = Math.max(0, Math.min(first, last));
    this.range = { low, high: Math.max(low + 1, Math.max(first, last)) };
    this.fetched = null;
    this.touch();
  }

  follow() {
    this.range = null;
    this.fetched = null;
    if (this.paused) this.pause();
    this.touch();
  }

  jump(first, last) {
    const around = Math.max(100, Math.round((last - first) * 0.4));
    this.look(first - around, last + around);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    $("charts-card").scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    requestAnimationFrame(() => requestAnimationFrame(() => this.point(first, null)));
  }

  /** Freezes the charts where they are; steps are collected on. */
  pause() {
    const { matrix } = this.stream;
    if (this.paused) {
      this.paused = null;
      this.range = null;
      this.fetched = null;
    } else if (matrix.length) {
      this.paused = { at: matrix.lastStep };
      if (!this.everything()) this.range ??= this.followed();
    }
    const button = $("pause-view");
    attribute(button, "aria-pressed", String(Boolean(this.paused)));
    button.replaceChildren(icon(this.paused ? "play" : "pause"), make("span", {}, this.paused ? "Resume view" : "Pause view"));
    this.touch();
  }

  followed() {
    const { matrix } = this.stream;
    const wanted = Number(this.control("window-choice", "1000")) || 1000;
    return views.following(matrix.firstStep, matrix.lastStep, wanted);
  }

  toggle(row) {
    if (!this.drawn.delete(row)) this.drawn.add(row);
    this.label = "";
    this.fetched = null;
    this.touch();
    this.slow(true);
  }

  choose(rows, label) {
    this.drawn = new Set(spread(rows, 10));
    this.label = label;
    this.fetched = null;
    this.touch();
    this.slow(true);
  }

  /** One cursor for both charts. */
  point(step, from) {
    if (from !== "chart") this.chart.point(step);
    this.map.point(step);
    this.cursor = step;
    this.readout();
  }

  readout() {
    const place = $("legend-readout");
    if (!place) return;
    const { x, global, nonfinite } = this.data ?? {};
    const at = x && this.cursor !== null && this.cursor !== undefined ? nearest(x, this.cursor) : -1;
    if (at < 0) return say(place, "");
    const value = nonfinite[at] && global[at] === null ? "non-finite" : numbers.norm(global[at]);
    const lines = [...this.drawn].length && this.data.lines.length
      ? ` · layers ${numbers.norm(smallest(this.data.lines, at))} to ${numbers.norm(largest(this.data.lines, at))}` : "";
    return say(place, `Step ${numbers.count(x[at])}: ${value}${lines}`);
  }

  // -- drawing ------------------------------------------------------------------------------

  draw() {
    const { stream } = this;
    const { matrix } = stream;
    this.theme ??= { ...colours(), magenta: null };
    this.theme.magenta ??= magenta(this.theme.theme);
    if (!this.labelled && stream.names.length) {
      this.labelled = true;
      const some = handful(stream.names);
      this.drawn = new Set(some.rows);
      this.label = some.label;
    }
    if (this.arranged?.names !== stream.names) this.arranged = { names: stream.names, ...arrange(stream.names) };
    this.slow(false);
    const none = !matrix.length && stream.caughtUp;
    $("charts-card").classList.toggle("empty", !matrix.length);
    this.note(none);
    if (!matrix.length) return;
    const rows = [...this.drawn].sort((a, b) => a - b);
    const view = this.view(rows);
    if (!view) return;
    const { chart, map } = view;
    this.data = chart;
    const theme = this.theme;
    const coloured = rows.map((row, i) => ({
      label: stream.names[row], colour: this.depthColour(i, rows.length), values: chart.lines[i] ?? [],
    }));
    this.chart.draw({
      ...chart, lines: coloured, logarithmic: this.control("scale-choice", "log") === "log",
    }, theme);
    this.legend(rows);
    // A slow map must not hold up the lines: give it at most a quarter of the time.
    const now = performance.now();
    if (stream.names.length && now - (this.mapped ?? 0) > this.map.cost * 4) {
      this.mapped = now;
      const relative = this.control("heat-choice", "absolute") === "relative";
      const key = this.map.draw({ ...map, order: this.arranged.order, groups: this.arranged.groups, names: stream.names, relative }, theme);
      if (key) this.key(key);
    } else if (stream.names.length) {
      clearTimeout(this.mapTimer);
      this.mapTimer = setTimeout(() => this.touch(), this.map.cost * 4);
    }
    if (this.cursor !== null && this.cursor !== undefined) this.readout();
    Object.assign(window.gradhelm, { drawn: this.painter.drawn, view: { low: chart.low, high: chart.high, stride: chart.stride } });
  }

  /** What to draw, from memory if it is there, else from the server. */
  view(rows) {
    const { matrix, run } = this.stream;
    const everything = this.everything();
    if (!everything) {
      const { low, high } = this.range ?? this.followed();
      if (low >= matrix.firstStep || matrix.firstStep <= (run?.first_step ?? 0)) {
        return { chart: views.fromMatrix(matrix, low, high, rows), map: views.mapFromMatrix(matrix, low, high) };
      }
      this.fetchRange(low, high, rows);
    } else {
      const low = run?.first_step ?? matrix.firstStep;
      const high = this.paused?.at ?? matrix.lastStep;
      if (low >= matrix.firstStep) {
        return { chart: views.fromMatrix(matrix, low, high, rows), map: views.mapFromMatrix(matrix, low, high) };
      }
      this.fetchRange(low, high, rows);
    }
    return this.fetched?.view ?? null;
  }

  async fetchRange(low, high, rows) {
    const key = [rows.join(), this.range ? `${low}-${high}` : "all"].join("|");
    const now = performance.now();
    if (this.fetching || (this.fetched?.key === key && (this.range || now - this.fetched.at < REFETCH || this.fetched.high === high))) return;
    this.fetching = true;
    try {
      const names = rows.map((row) => this.stream.names[row]);
      const range = { first: low, last: high, points: 1000, stream: this.optimizer };
      const columns = [...SCALARS, ...names.map((name) => `norm/${name}`)];
      const [series, picture] = await Promise.all([
        getSeries(this.id, columns, range), this.stream.names.length ? getHeatmap(this.id, range) : null,
      ]);
      const shown = { low, high };
      const map = picture ? views.mapFromPicture(picture, low, high) : null;
      this.fetched = { key, at: performance.now(), high, view: { chart: { ...views.fromSeries(series, names), ...shown }, map } };
    } catch {
      this.fetched = { key, at: performance.now(), high, view: this.fetched?.view ?? null };
    }
    this.fetching = false;
    this.touch();
  }

  depthColour(i, of) {
    const share = of > 1 ? i / (of - 1) : 0.4;
    return this.theme.theme === "dark" ? viridis(0.24 + 0.72 * share) : viridis(0.02 + 0.74 * share);
  }

  key(key) {
    const name = [key.kind, this.theme.theme].join();
    if (this.keyOf !== name) {
      this.keyOf = name;
      drawKey($("heat-key"), key.kind, this.theme.theme);
    }
    say("heat-low", key.low);
    say("heat-high", key.high);
  }

  legend(rows) {
    const key = [rows.join(), this.label, this.theme.theme, this.stream.names.length].join("|");
    const place = $("chart-legend");
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const items = [legendItem("line", "Global norm", "var(--text)")];
    if (rows.length) {
      const depths = rows.map((row) => parse(this.stream.names[row]).depth);
      const known = depths.every((depth) => depth !== null) && depths.length > 1;
      const what = this.label && known
        ? `${this.label}, ${depths[0]} → ${depths.at(-1)}`
        : rows.length === 1 ? this.stream.names[rows[0]] : `${rows.length} layers, first → last`;
      const item = legendItem("ramp", what);
      const stops = Array.from({ length: 5 }, (_, i) => this.depthColour(i, 5));
      item.firstChild.style.background = rows.length > 1 ? `linear-gradient(90deg, ${stops.join(",")})` : this.depthColour(0, 1);
      items.push(item);
    }
    items.push(legendItem("dash", "Threshold", "var(--clip)"), legendItem("triangle", "Clipped step", "var(--clip)"));
    const readout = make("span", { id: "legend-readout", class: "num" });
    place.replaceChildren(...items, this.picker.element(), readout);
  }

  note(none) {
    const place = $("view-note");
    show("back-to-live", this.range !== null && !this.paused);
    let text = "";
    if (none) {
      text = ENDED.includes(this.run.status)
        ? "This run ended before its first step." : "Waiting for the first step. It appears here as soon as the optimizer takes it.";
    } else if (!this.stream.caughtUp) text = "Loading steps…";
    else if (this.paused) {
      const more = this.stream.matrix.lastStep - this.paused.at;
      text = `View paused at step ${numbers.count(this.paused.at)}; ${numbers.count(more)} newer ${more === 1 ? "step" : "steps"} collected.`;
    } else if (this.range) text = `Showing steps ${numbers.count(this.range.low)} to ${numbers.count(this.range.high)}. Double-click or press Escape to go back to live.`;
    say(place, text);
    show(place, text !== "");
    place?.classList.toggle("over", none || !this.stream.caughtUp);
  }

  /** Text that need not change with every frame. */
  slow(now) {
    const time = performance.now();
    if (!now && time - (this.slowAt ?? 0) < 250) {
      if (!this.slowTimer) {
        this.slowTimer = setTimeout(() => {
          this.slowTimer = 0;
          if (!document.hidden) this.slow(true);
        }, 260);
      }
      return;
    }
    this.slowAt = time;
    this.figures();
    this.panel.whatIf();
    if (this.stream.matrix.length) renderHot(this.stream.matrix, this.stream.names, this.drawn, (row) => this.toggle(row));
    show("hot-card", $("hot-list").childElementCount > 0);
    this.picker.refresh();
  }

  figures() {
    const { run } = this;
    const { matrix } = this.stream;
    const last = matrix.length - 1;
    const step = Math.max(matrix.lastStep ?? -1, run.last_step ?? -1);
    const column = matrix.scalars.get("global_norm");
    const known = last >= 0 && column && column.bits[last] !== 0x7fc00bad;
    const value = known ? column.values[last] : run.global_norm;
    say("fig-step-value", step < 0 ? "–" : numbers.count(step));
    say("fig-step-beside", run.total_steps ? `/ ${numbers.count(run.total_steps)}` : "");
    say("fig-step-note", run.total_steps ? "" : step < 0 ? "none yet" : run.skipped ? `${numbers.count(run.skipped)} skipped` : run.first_step ? `since ${numbers.count(run.first_step)}` : "since the start");
    show("fig-step-track", Boolean(run.total_steps));
    if (run.total_steps) $("fig-step-bar").style.width = `${Math.min(100, (100 * (step + 1)) / run.total_steps)}%`;
    say("fig-norm-value", step < 0 ? "–" : !known && run.norm_finite === false ? "non-finite" : numbers.norm(value));
    $("fig-norm-value").classList.toggle("bad-text", known ? !Number.isFinite(value) : run.norm_finite === false && step >= 0);
    const norms = this.recent("global_norm");
    const finite = norms.filter(Number.isFinite);
    const mean = finite.length ? finite.reduce((a, b) => a + b, 0) / finite.length : run.recent?.mean_norm;
    say("fig-norm-note", mean === null || mean === undefined ? "" : `mean ${numbers.norm(mean)} over ${numbers.count(norms.length || run.recent?.steps)}`);
    const { rule, rules } = this.panel;
    const named = rule ? rule.threshold_name : run.threshold_name;
    const who = rules.length > 1 && rule.match !== null ? rule.match : (rule?.strategy ?? run.strategy ?? "");
    say("fig-threshold-value", named ? numbers.threshold(this.panel.applied ?? run.threshold) : "none");
    say("fig-threshold-note", named ? `${named}, ${who}` : "observing only");
    const clips = this.recent("clipped");
    const of = clips.length || run.recent?.steps || 0;
    const clipped = clips.length ? clips.filter((v) => v > 0).length : (run.recent?.clipped ?? 0);
    say("fig-clip-value", of ? numbers.percent(clipped / of) : "–");
    $("fig-clip-value").classList.toggle("clip-text", of > 0 && clipped / of >= 0.05);
    say("fig-clip-note", of ? `${numbers.count(clipped)} of ${numbers.count(of)} steps` : "");
    say("fig-nonfinite-value", run.nonfinite === null ? "–" : numbers.count(run.nonfinite ?? 0));
    $("fig-nonfinite-value").classList.toggle("bad-text", run.nonfinite > 0);
    say("fig-nonfinite-note", run.nonfinite === null ? "counted for the first optimizer" : run.nonfinite ? `${numbers.count(run.recent?.nonfinite ?? 0)} in the last ${numbers.count(run.recent?.steps ?? 500)}` : "none this run");
    const losses = this.recent("loss");
    show("fig-loss", losses.length > 0);
    if (losses.length) {
      const known = losses.filter(Number.isFinite);
      const newest = losses.at(-1);
      say("fig-loss-value", numbers.norm(newest));
      $("fig-loss-value").classList.toggle("bad-text", !Number.isFinite(newest));
      say("fig-loss-note", known.length ? `mean ${numbers.norm(known.reduce((a, b) => a + b, 0) / known.length)} over ${numbers.count(losses.length)}` : "");
      $("fig-loss-beside").replaceChildren(sparkline(losses));
    }
    say("fig-rate-value", run.steps_per_second ? numbers.short(run.steps_per_second) : "–");
    say("fig-rate-note", run.status === "live" ? "steps per second" : "not running");
    document.title = `${step < 0 ? "–" : numbers.norm(value)} · ${run.name} · gradhelm`;
  }

  // -- the run itself -----------------------------------------------------------------------

  setRun(run) {
    const before = this.run;
    this.run = run;
    say("run-name", run.name);
    say("run-crumb", run.name);
    const { word, icon: symbol } = STATUS[run.status] ?? { word: run.status, icon: "info" };
    const chip = $("run-status");
    if (chip && chip.dataset.status !== run.status) {
      chip.dataset.status = run.status;
      chip.className = `chip ${run.status}`;
      chip.replaceChildren(icon(symbol), word);
    }
    const tags = [run.project, run.host, ...(run.tags ?? [])].filter(Boolean);
    const place = $("run-tags");
    if (place && place.dataset.key !== JSON.stringify(tags)) {
      place.dataset.key = JSON.stringify(tags);
      place.replaceChildren(...tags.map((tag, i) => make("span", { class: "tag", title: ["Project", "Host"][i] ?? "Tag" }, tag)));
    }
    if (before.status !== run.status) this.setConnection();
    this.panel.setRun(run);
    this.banner();
    this.costs(run.stats ?? {});
    this.touch();
  }

  banner() {
    const place = $("run-banner");
    if (!place) return;
    const { run } = this;
    const heard = run.last_heard_at ? Date.parse(run.last_heard_at) : null;
    const when = heard ? `${new Date(heard).toLocaleTimeString()} (${numbers.ago(heard, Date.now())})` : "never";
    let tone = "";
    let text = "";
    let symbol = "info";
    if (this.stream && this.stream.state !== "open" && this.broken) {
      [tone, symbol] = ["bad", "unplug"];
      text = `The server cannot be reached. What is shown is from ${new Date(this.broken).toLocaleTimeString()}; trying again.`;
    } else if (run.status === "stale") {
      [tone, symbol] = ["warn", "clock"];
      text = `No signal since ${when}. The trainer may hang, or its connection be lost; a change of the threshold waits for it.`;
    } else if (run.status === "failed") {
      [tone, symbol] = ["bad", "octagon-x"];
      text = `${ended("Failed", run.status_reason)} Last heard at ${when}.`;
    } else if (run.status === "stopped") {
      [tone, symbol] = ["info", "circle-stop"];
      text = `${ended("Stopped", run.status_reason)} Last heard at ${when}.`;
    } else if (run.status === "finished") {
      [tone, symbol] = ["info", "circle-check"];
      text = `Finished ${when}.`;
    }
    show(place, text !== "");
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    place.className = `banner ${tone}`;
    place.replaceChildren(icon(symbol), make("span", {}, text));
  }

  setConnection(word = this.stream?.state, attempt = 0) {
    if (!word || !this.stream) return;
    window.gradhelm.connected = word === "open";
    if (word === "open") {
      this.broken = null;
      const live = this.run.status === "live";
      const { latency } = this.stream;
      connection(live ? "live" : "idle", live ? (latency === null ? "Live" : `Live · ${numbers.span(latency)}`) : "Connected");
    } else {
      if (word === "closed" && !this.broken) {
        this.broken = Date.now();
        // A socket cannot tell why it was refused; a request can: without a session, off to /login.
        getRun(this.id).catch(() => null);
      }
      connection(this.broken ? "closed" : "connecting", this.broken ? "Disconnected, retrying" : "Connecting…");
    }
    if (attempt || word === "open") this.banner();
  }

  costs(stats) {
    const list = $("cost-list");
    const card = $("cost-card");
    if (!list) return;
    const rows = [];
    const add = (title, value) => rows.push([title, value]);
    if (stats.handoff_p50_us !== undefined) add("Hand-off per step", numbers.micros(stats.handoff_p50_us));
    if (stats.handoff_p99_us !== undefined) add("… slowest of a hundred", numbers.micros(stats.handoff_p99_us));
    if (stats.ring_fill !== undefined) add("Buffer in use", numbers.percent(stats.ring_fill));
    if (stats.unsent !== undefined) add("Waiting to be sent", numbers.count(Math.round(stats.unsent)));
    if (stats.dropped !== undefined) add("Dropped", numbers.count(Math.round(stats.dropped)));
    show(card, rows.length > 0);
    const key = JSON.stringify(rows);
    if (list.dataset.key === key) return;
    list.dataset.key = key;
    list.replaceChildren(...rows.flatMap(([title, value]) => [make("dt", {}, title), make("dd", { class: "num" }, value)]));
  }
}

function ended(word, reason) {
  const text = reason ? `${word}: ${reason}` : word;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function nearest(steps, step) {
  let [low, high] = [0, steps.length - 1];
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

const at = (lines, i) => lines.map((line) => line[i]).filter((value) => value !== null && value !== undefined);
const smallest = (lines, i) => (at(lines, i).length ? Math.min(...at(lines, i)) : null);
const largest = (lines, i) => (at(lines, i).length ? Math.max(...at(lines, i)) : null);
