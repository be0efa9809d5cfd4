// A run's data in the browser: the live socket and the history before it, as one matrix.
//
// History is asked for when the socket has said hello, so that nothing falls between the two;
// frames that come meanwhile wait, so that steps are appended in order.

import { getHeatmap, getParameters, getSeries, getServer } from "./api.js";
import { frameHeader, readFrame } from "./bytes.js";
import { Live } from "./live.js";
import { Matrix, capacityFor } from "./matrix.js";

/** Scalars that the page draws; every run has them. */
export const SCALARS = ["global_norm", "threshold", "clipped", "nonfinite"];
/** Shown too where the training script logs it. */
const LOSS = "loss";
/** Logged by the script or told by the clip: a number for each step, of which one can have a lane. */
const NUMBERS = ["log", "scalar"];
const PATIENCE = 2000;
/** The code that a socket is closed with when what let it in does so no more; see docs/protocol.md. */
const UNAUTHORIZED = 4401;

export class Stream {
  names = [];
  matrix = new Matrix(0);
  run = null;
  latency = null;
  state = "connecting";
  hello = false;
  caughtUp = false;
  frames = 0;
  points = 0;
  #rows = new Map();
  #columns = new Map();
  #layouts = new Map();
  #waiting = null;
  #ranges = [];
  #widen = false;
  #wanted = new Set(SCALARS);

  /**
   * `optimizer`: the name of the one that is shown, null for the run's first.
   * `on`: {run, control, event, change (anything to draw), state}.
   */
  constructor(id, optimizer, on) {
    this.id = id;
    this.optimizer = optimizer;
    this.on = on;
    new Live(id, {
      message: (message) => this.#message(message),
      frame: (buffer) => this.#frame(buffer),
      state: (state, attempt, code) => {
        if (state !== "open") {
          this.hello = false;
          this.#layouts.clear();
        }
        this.state = state;
        on.state(state, attempt);
        if (state === "closed") this.#stillIn(code);
      },
    });
  }

  /** Whoever may not look any more is led to the login page by the answer, or sees what is left. */
  async #stillIn(code) {
    try {
      await getServer();
    } catch {
      return;
    }
    if (code === UNAUTHORIZED) location.reload();
  }

  /** The scalars there are for the optimizer that is shown, as they are asked for. */
  get scalars() {
    const own = [...this.#columns.values()].filter((column) => NUMBERS.includes(column.kind) && this.#own(column));
    return own.map(({ name, kind }) => (kind === "log" ? name : this.#plain(name)));
  }

  /** Whether something is measured of each layer besides its norm, such as "update_ratio". */
  measured(block) {
    return [...this.#columns.values()].some((column) => column.kind === "detail" && this.#plain(column.name).startsWith(`${block}/`) && this.#own(column));
  }

  /** Brings scalars that the page did not need so far, of the steps at hand; later ones come by themselves. */
  async want(names) {
    const { matrix } = this;
    const missing = names.filter((name) => !this.#wanted.has(name) && this.scalars.includes(name));
    for (const name of missing) this.#wanted.add(name);
    if (!missing.length || !matrix.length) return;
    try {
      const series = await getSeries(this.id, missing, { first: matrix.firstStep, last: matrix.lastStep, points: 4096, stream: this.optimizer });
      this.#takeSeries(series, missing);
    } catch {
      for (const name of missing) this.#wanted.delete(name);
    }
    this.on.change();
  }

  #message(message) {
    switch (message.type) {
      case "run":
        this.run = seenBy(message.run, this.optimizer);
        this.on.run(this.run);
        if (!this.hello) {
          this.hello = true;
          this.#catchUp();
        }
        break;
      case "columns":
        for (const column of message.columns) {
          this.#columns.set(column.index, column);
          if (column.kind === "norm" && this.caughtUp && this.#own(column) && !this.#rows.has(column.name)) this.#widen = true;
        }
        this.#layouts.forEach((layout) => (layout.targets = null));
        if (this.#widen) this.#learn();
        break;
      case "layout":
        this.#layouts.set(message.layout, { columns: message.columns, targets: null });
        break;
      case "control":
        this.on.control(message.control);
        break;
      case "event":
        this.on.event(message.event);
        break;
      case "lost":
        this.#catchUp(message.first, message.last);
        break;
    }
  }

  /** Parameters that were declared while the run lives. */
  async #learn() {
    this.#widen = false;
    await this.#parameters().catch(() => null);
    this.on.change();
  }

  async #parameters() {
    const parameters = await getParameters(this.id, { stream: this.optimizer });
    this.names = parameters.map((parameter) => parameter.name);
    this.#rows = new Map(parameters.map((parameter, row) => [parameter.column ?? `norm/${parameter.name}`, row]));
    if (this.names.length !== this.matrix.rows) {
      this.matrix = this.matrix.length ? this.matrix.widened(this.names.length) : new Matrix(this.names.length);
    }
    this.#layouts.forEach((layout) => (layout.targets = null));
  }

  /** Fetches what was missed: since the newest step at hand, or the range that was lost. */
  async #catchUp(first, last) {
    this.#ranges.push([first, last]);
    if (this.#waiting) return;
    this.#waiting = [];
    try {
      while (this.#ranges.length) {
        const [from, to] = this.#ranges.shift();
        if (this.matrix.rows === 0 || !this.names.length) await this.#parameters();
        await this.#fetch(from, to);
      }
    } catch {
      // Live frames go on without it; the next reconnect asks again.
      this.#ranges.length = 0;
    }
    const waiting = this.#waiting;
    this.#waiting = null;
    this.caughtUp = true;
    for (const buffer of waiting) this.#apply(buffer);
    this.on.change();
  }

  async #fetch(first, last) {
    if (this.run.last_step === null) return;
    const room = capacityFor(this.names.length);
    const known = this.matrix.lastStep;
    let from = first ?? (known === null || this.run.last_step - known > room ? -room : known + 1);
    if (first === undefined && known !== null && from > this.run.last_step) return;
    if (last !== undefined && last - from >= room) from = last - room + 1;
    const range = { first: from, last, points: 4096, stream: this.optimizer };
    if (!this.optimizer && this.scalars.includes(LOSS)) this.#wanted.add(LOSS);
    const scalars = [...this.#wanted];
    const [series, picture] = await Promise.all([
      getSeries(this.id, scalars, range),
      this.names.length ? getHeatmap(this.id, range) : null,
    ]);
    this.#takeSeries(series, scalars);
    if (picture) this.#takePicture(picture);
  }

  #takeSeries(series, names) {
    const { matrix } = this;
    for (const name of names) {
      const column = series.columns[name];
      if (!column) continue;
      const values = series.stride === 1 ? column.mean : name === "clipped" ? column.max : column.mean;
      const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
      for (let i = 0; i < bits.length; i++) {
        const row = matrix.row(column.step[i]);
        if (row >= 0) matrix.scalar(name).bits[row] = bits[i];
      }
    }
  }

  #takePicture({ rows, buckets, origin, stride, bits }) {
    const { matrix } = this;
    const upTo = Math.min(rows, matrix.rows);
    for (let b = 0; b < buckets; b++) {
      const step = origin + b * stride;
      const row = matrix.find(step);
      if (matrix.steps[row] !== step || row >= matrix.length) continue;
      for (let r = 0; r < upTo; r++) matrix.setNorm(row, r, bits[r * buckets + b]);
    }
  }

  #plain(name) {
    return this.optimizer ? name.slice(this.optimizer.length + 1) : name;
  }

  #frame(buffer) {
    this.frames++;
    if (this.#waiting) {
      if (this.#waiting.length < PATIENCE) this.#waiting.push(buffer);
      return;
    }
    this.#apply(buffer);
    this.on.change();
  }

  /** Whether a column is one of the optimizer that is shown; what is logged is counted by the first one's steps. */
  #own({ name, kind }) {
    if (this.optimizer) return kind !== "log" && name.startsWith(`${this.optimizer}/`);
    const others = (this.run?.streams ?? []).slice(1);
    return kind === "log" || !others.some((stream) => name.startsWith(`${stream.name}/`));
  }

  #apply(buffer) {
    const layout = this.#layouts.get(frameHeader(buffer).layout);
    if (!layout) return;
    layout.targets ??= layout.columns.map((index) => {
      const column = this.#columns.get(index);
      // Details of parameters and rules are asked for when they are looked at.
      if (!column || column.kind === "detail" || !this.#own(column)) return null;
      const row = this.#rows.get(column.name);
      return row === undefined ? this.matrix.scalar(this.#plain(column.name)) : row;
    });
    const { targets } = layout;
    if (targets.every((target) => target === null)) return;
    const { matrix } = this;
    const frame = readFrame(buffer, targets.length);
    for (let i = 0; i < frame.n; i++) {
      const row = matrix.row(frame.steps[i]);
      if (row < 0) continue;
      const base = i * targets.length;
      for (let j = 0; j < targets.length; j++) {
        const target = targets[j];
        if (typeof target === "number") matrix.setNorm(row, target, frame.bits[base + j]);
        else if (target) target.bits[row] = frame.bits[base + j];
      }
    }
    this.points += frame.n * targets.length;
    const delay = Date.now() - frame.sent * 1000;
    // Two clocks: what cannot be is not shown.
    if (delay >= -50 && delay < 10_000) {
      const now = Math.max(0, delay);
      this.latency = this.latency === null ? now : this.latency * 0.9 + now * 0.1;
    }
  }
}

/** A run as the optimizer called so sees it: with its steps, and without the first one's counts. */
export function seenBy(run, optimizer) {
  if (!optimizer) return run;
  const own = (run.streams ?? []).find((stream) => stream.name === optimizer) ?? {};
  const counts = { skipped: 0, nonfinite: null, global_norm: null, recent: {}, threshold: null, steps_per_second: null, total_steps: null };
  return { ...run, ...counts, first_step: own.first_step ?? null, last_step: own.last_step ?? null };
}
