// What one looks at on the page that compares: which runs, which scalar, over what, and how it is
// drawn. It lives in the address, so that a link shows the same to somebody else. Pure.

import { MOST_RUNS } from "./hues.js";

export const AXES = ["step", "time"];
export const SCALES = ["log", "linear"];
const SMOOTHEST = 0.99;
/** The scalars that one looks at first, in this order. */
const FIRST = ["global_norm", "threshold", "clip_coef", "loss", "lr"];

export class Comparison {
  /** The runs' ids; no more than can be told apart. */
  runs = [];
  /** How many more an address asked for. */
  dropped = 0;
  column = FIRST[0];
  axis = AXES[0];
  scale = SCALES[0];
  /** The weight of the past in the lines, 0 for none. */
  smooth = 0;
  /** Runs that are not drawn. */
  hidden = [];
  /** A part {low, high} in units of the axis; null is everything. */
  range = null;
  /** Whether the table has what is equal, too. */
  every = false;

  /** What an address asks for; what it cannot mean is left as it is by itself. */
  static read(search) {
    const look = new Comparison();
    const given = new URLSearchParams(search);
    const ids = (name) => [...new Set(given.getAll(name).join(",").split(",").map((id) => id.trim()).filter((id) => id && id.length <= 100))];
    look.runs = ids("runs").slice(0, MOST_RUNS);
    look.dropped = ids("runs").length - look.runs.length;
    look.hidden = ids("hide").filter((id) => look.runs.includes(id));
    look.column = given.get("y") || look.column;
    if (AXES.includes(given.get("x"))) look.axis = given.get("x");
    if (SCALES.includes(given.get("scale"))) look.scale = given.get("scale");
    const smooth = Number(given.get("smooth"));
    if (smooth > 0) look.smooth = Math.min(smooth, SMOOTHEST);
    const [, low, high] = /^(\d{1,16}(?:\.\d{1,6})?)-(\d{1,16}(?:\.\d{1,6})?)$/.exec(given.get("range") ?? "") ?? [];
    if (Number(low) < Number(high)) look.range = { low: Number(low), high: Number(high) };
    look.every = given.get("every") === "1";
    return look;
  }

  /** The address's query that shows this; `search` is what is there now, and what is not ours in it stays. */
  write(search) {
    const told = new URLSearchParams(search);
    for (const name of ["runs", "hide", "y", "x", "scale", "smooth", "range", "every"]) told.delete(name);
    // Written by hand, because an encoded comma makes a long link hard to read.
    const list = (name, ids) => (ids.length ? [`${name}=${ids.map(encodeURIComponent).join(",")}`] : []);
    if (this.column !== FIRST[0]) told.set("y", this.column);
    if (this.axis !== AXES[0]) told.set("x", this.axis);
    if (this.scale !== SCALES[0]) told.set("scale", this.scale);
    if (this.smooth) told.set("smooth", String(this.smooth));
    if (this.range) told.set("range", `${this.range.low}-${this.range.high}`);
    if (this.every) told.set("every", "1");
    const text = [...list("runs", this.runs), ...list("hide", this.hidden), told.toString()].filter(Boolean).join("&");
    return text && `?${text}`;
  }
}

/**
 * The scalars to choose of: [{name, runs: how many have it}]; `columns` is a list of names for each
 * run. Those that one looks at first come first, then those that most runs share.
 */
export function choices(columns) {
  const found = new Map();
  for (const names of columns) for (const name of new Set(names)) found.set(name, (found.get(name) ?? 0) + 1);
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return [...found].map(([name, runs]) => ({ name, runs }))
    .sort((a, b) => rank(a.name) - rank(b.name) || b.runs - a.runs || a.name.localeCompare(b.name, "en", { numeric: true }));
}
