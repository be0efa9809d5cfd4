// One of the runs that are compared: what is known of it, and what is drawn of it.

import { getColumns, getHeatmap, getHistory, getParameters, getRun, getSeries, getTimes } from "./api.js";
import { clock } from "./clock.js";
import { marks } from "./marks.js";

const POINTS = 1000;
/** Of the maps, of which there may be eight; also what a line of time is told by. */
const BUCKETS = 500;
const GROWING = ["live", "stale"];

export class Compared {
  run = null;
  /** "loading", "here", "missing", or "lost" when the server could not be asked. */
  state = "loading";
  why = "";
  scalars = [];
  names = [];
  times = clock({ step: [], elapsed: [] });
  marks = [];
  /** {column, stride, key}: the newest answer about the scalar that was asked for; null before. */
  series = null;
  picture = null;
  #wanted = null;
  #busy = false;
  #version = null;

  /** `changed()` is called when there is something new to be shown. */
  constructor(id, slot, changed) {
    this.id = id;
    this.slot = slot;
    this.changed = changed;
  }

  get growing() {
    return this.state !== "missing" && (this.run === null || GROWING.includes(this.run.status));
  }

  /** Whether an answer is on its way that will change what is drawn. */
  get busy() {
    return this.#busy;
  }

  get name() {
    return this.run?.name ?? this.id;
  }

  get empty() {
    return this.run !== null && this.run.last_step === null;
  }

  /** Asks how the run stands, and what follows from that. */
  async look() {
    try {
      const before = this.run;
      const run = await getRun(this.id);
      const moved = !before || before.last_step !== run.last_step || before.status !== run.status;
      // Columns may come at any step; parameters come with the first.
      if (moved) {
        const [columns, parameters, times] = await Promise.all([
          getColumns(this.id), this.names.length ? null : getParameters(this.id), getTimes(this.id, { points: BUCKETS }),
        ]);
        this.scalars = columns.filter(({ kind }) => kind === "scalar" || kind === "log").map(({ name }) => name);
        if (parameters) this.names = parameters.map(({ name }) => name);
        this.times = clock(times);
      }
      const version = `${run.control.version}${run.control.status}`;
      if (version !== this.#version) {
        this.marks = marks(await getHistory(this.id), [], null);
        this.#version = version;
      }
      this.run = run;
      this.state = "here";
      this.why = "";
    } catch (error) {
      this.state = error.status === 404 ? "missing" : "lost";
      this.why = error.message ?? String(error);
    }
    this.changed();
  }

  /** Says what is to be drawn: a scalar, and the part {first, last} of the steps (null: all of them). */
  want(column, part) {
    this.#wanted = { column, part };
    this.#fetch();
  }

  async #fetch() {
    if (this.#busy || this.state !== "here" || this.empty || !this.#wanted) return;
    const { column, part } = this.#wanted;
    const { first_step: first, last_step: last } = this.run;
    const range = part ? { first: Math.max(part.first, first), last: Math.min(part.last, last) } : { first, last };
    const none = range.first > range.last;
    const key = JSON.stringify([part ? range : null, last]);
    const wantsSeries = this.series?.key !== key || this.series.name !== column;
    const wantsPicture = this.picture?.key !== key && this.names.length > 0;
    if (!wantsSeries && !wantsPicture) return;
    this.#busy = true;
    const has = this.scalars.includes(column) && !none;
    try {
      const [series, picture] = await Promise.all([
        wantsSeries && has ? getSeries(this.id, [column], { ...range, points: POINTS }) : null,
        wantsPicture && !none ? getHeatmap(this.id, { ...range, points: BUCKETS }) : null,
      ]);
      if (wantsSeries) this.series = { name: column, key, column: series?.columns[column] ?? null, stride: series?.stride ?? 1, at: {} };
      if (wantsPicture) this.picture = { key, cells: picture };
      this.state = "here";
    } catch (error) {
      this.state = error.status === 404 ? "missing" : "lost";
      this.why = error.message ?? String(error);
    }
    this.#busy = false;
    this.changed();
    // What is wanted may be something else by now.
    if (this.state === "here") this.#fetch();
  }
}
