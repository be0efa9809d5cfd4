// What the steps were like before a change took hold, and after: a comparison, not a proof.

import { getSeries } from "./api.js";
import { $, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";

/** Steps on either side, and how few are not worth comparing. */
export const SPAN = 200;
export const FEW = 20;
const COLUMNS = ["global_norm", "clipped"];

/**
 * The newest change of `stream` that was applied: {entry, step, end, mixed}, null if there is none. Pure.
 * Compared are the steps before `step` and those from it up to `end` (exclusive: SPAN later, or where the
 * trainer took it back). `mixed`: another change took hold among the steps before.
 */
export function subject(versions, stream) {
  const at = (entry, status) => entry.events?.find((event) => event.status === status && event.step !== null)?.step ?? null;
  const mine = versions.filter((entry) => (entry.stream ?? null) === stream);
  const entry = mine.find((one) => at(one, "applied") !== null && Object.keys(one.to ?? {}).length > 0);
  if (!entry) return null;
  const step = at(entry, "applied");
  const end = Math.min(step + SPAN, at(entry, "reverted") ?? Infinity);
  const mixed = mine.some((one) => one !== entry && ["applied", "reverted"].some((status) => {
    const other = at(one, status);
    return other !== null && other > step - SPAN && other <= step;
  }));
  return { entry, step, end, mixed };
}

export function median(values) {
  if (!values.length) return null;
  const ranked = Float64Array.from(values).sort();
  const middle = ranked.length >> 1;
  return ranked.length % 2 ? ranked[middle] : (ranked[middle - 1] + ranked[middle]) / 2;
}

/** The steps `low` to `high` of a series of single steps, in four figures. Pure. */
export function summary(series, low, high) {
  const inside = (name) => {
    const column = series.columns[name];
    return column ? [...column.mean].filter((_, i) => column.step[i] >= low && column.step[i] <= high) : [];
  };
  const [norms, clipped, loss] = [...COLUMNS, "loss"].map(inside);
  const finite = norms.filter(Number.isFinite);
  return {
    steps: norms.length,
    norm: median(finite),
    clipped: clipped.length ? clipped.filter((one) => one > 0).length / clipped.length : null,
    nonfinite: norms.length - finite.length,
    loss: median(loss.filter(Number.isFinite)),
  };
}

/** By how much, in percent: "−50 %". Pure. */
export function relative(before, after) {
  if (!(before > 0) || after === null) return "";
  const percent = Math.round((100 * (after - before)) / before);
  return percent === 0 ? "±0 %" : `${percent > 0 ? "+" : "−"}${numbers.count(Math.abs(percent))} %`;
}

/** The comparison in a sentence. Pure. */
export function effectWords(before, after) {
  const words = [];
  const add = (name, one, other, write) => {
    if (one === null || other === null) return;
    // What is written alike has not moved, as far as anybody can see.
    const [from, to] = [write(one), write(other)];
    words.push(from === to ? `${name} stayed at ${to}` : `${name} ${other < one ? "fell" : "rose"} from ${from} to ${to}`);
  };
  add("the median norm", before.norm, after.norm, numbers.norm);
  add("the clip fraction", before.clipped, after.clipped, numbers.percent);
  add("the median loss", before.loss, after.loss, numbers.norm);
  if (!words.length) return "";
  const text = words.join(", ");
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

export class Effect {
  #shown = "";
  #busy = false;

  /** `on`: {lastStep(), scalars()}. */
  constructor(id, stream, on) {
    Object.assign(this, { id, stream, on });
  }

  /** `versions`: newest first; looks whether there are steps enough, and asks for them once. */
  render(versions) {
    const found = subject(versions, this.stream);
    const last = this.on.lastStep();
    const place = $("threshold-effect");
    show(place, found !== null && last !== null);
    if (place.hidden) return;
    const { entry, step, end } = found;
    const key = `${entry.version} ${end}`;
    if (this.#shown === key || this.#busy) return;
    say("effect-title", `Before and after step ${numbers.count(step)}`);
    if (step < FEW) return this.#say(`The change took hold at step ${numbers.count(step)}: too few steps before it to compare with.`, key);
    if (end - step < FEW) return this.#say(`It was in force for ${numbers.count(end - step)} steps: too few to compare.`, key);
    if (last < end - 1) {
      const missing = end - 1 - last;
      return this.#say(`${numbers.count(missing)} more ${missing === 1 ? "step" : "steps"} until ${numbers.count(Math.min(SPAN, step))} before can be compared with ${numbers.count(end - step)} after.`);
    }
    this.#ask(found, key);
  }

  #say(text, key = "") {
    this.#shown = key;
    const place = $("effect-body");
    if (place.childElementCount !== 1 || place.firstElementChild.className !== "hint") place.replaceChildren(make("p", { class: "hint" }));
    say(place.firstElementChild, text);
  }

  async #ask(found, key) {
    const { step, end } = found;
    this.#busy = true;
    try {
      const columns = [...COLUMNS, ...(this.stream === null && this.on.scalars().includes("loss") ? ["loss"] : [])];
      const series = await getSeries(this.id, columns, { first: Math.max(0, step - SPAN), last: end - 1, points: 4 * SPAN, stream: this.stream });
      if (series.stride !== 1) this.#say("The steps around the change were pruned.", key);
      else this.#compare(found, summary(series, 0, step - 1), summary(series, step, end - 1), key);
    } catch {
      this.#say("The steps around the change could not be loaded; trying again.");
      await new Promise((done) => setTimeout(done, 3000));
    }
    this.#busy = false;
  }

  #compare({ mixed, entry }, before, after, key) {
    if (before.steps < FEW || after.steps < FEW) return this.#say("Too few of the steps around the change are recorded.", key);
    this.#shown = key;
    const row = (name, one, other, write, more) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, write(one)), make("td", {}, make("b", {}, write(other))), make("td", { class: "faint" }, more ?? relative(one, other)));
    const difference = (one, other) => `${other >= one ? "+" : "−"}${(100 * Math.abs(other - one)).toFixed(1)} pp`;
    const rows = [row("Median norm", before.norm, after.norm, numbers.norm)];
    if (before.clipped !== null && after.clipped !== null) rows.push(row("Clipped", before.clipped, after.clipped, numbers.percent, difference(before.clipped, after.clipped)));
    rows.push(row("Non-finite", before.nonfinite, after.nonfinite, numbers.count, ""));
    if (before.loss !== null || after.loss !== null) rows.push(row("Median loss", before.loss, after.loss, numbers.norm));
    $("effect-body").replaceChildren(
      make("table", {}, make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col" }, `${numbers.count(before.steps)} before`), make("th", { scope: "col" }, `${numbers.count(after.steps)} after`), make("td"))), make("tbody", {}, ...rows)),
      make("p", { class: "small" }, effectWords(before, after)),
      make("p", { class: "hint" }, `Other things change as training goes on, so this is a comparison and no proof.${mixed ? " Another change took hold among the steps before." : ""}${entry.status === "reverted" ? " The change was taken back after these steps." : ""}`));
  }
}
