// The history of a run's control: who changed what, when and why, and what became of it.

import { conditionWords } from "./conditions.js";
import { $, attribute, icon, make, say } from "./dom.js";
import * as numbers from "./numbers.js";
import { Steering, moves } from "./steering.js";

const SHOWN = 5;
const STATUS = {
  pending: ["clock", "Sent"], delivered: ["clock", "Delivered"], applied: ["check", "Applied"], rejected: ["circle-x", "Refused"],
  superseded: ["x", "Superseded"], expired: ["x", "Never applied"], reverted: ["rotate-ccw", "Taken back"],
};

/** What a version changed, in parts: [{name, from, to}]; `name` is "" for the rule's threshold. Pure. */
export function changes(entry, thresholdName) {
  const found = moves(entry.from, entry.to);
  // Asked for again as it was: then that is what the row says.
  const same = found.length || !Object.keys(entry.to ?? {}).length ? [] : [{ name: thresholdName ?? Object.keys(entry.to)[0], from: null, to: null }];
  for (const move of same) move.from = move.to = entry.to[move.name] ?? null;
  return [...found, ...same].map((move) => ({ ...move, name: move.name === thresholdName ? "" : move.name === "lr_factor" ? "learning rates ×" : move.name }));
}

/** Where a version was and is, in words: "step 1,200", "steps 1,200 to 1,400". Pure. */
export function where(entry) {
  const at = (status) => entry.events?.find((event) => event.status === status)?.step ?? null;
  const [first, last] = [at("applied"), at("reverted")];
  if (first !== null && last !== null) return `steps ${numbers.count(first)} to ${numbers.count(last)}`;
  const step = first ?? entry.step;
  return step === null || step === undefined ? "" : `step ${numbers.count(step)}`;
}

export class Versions {
  #all = false;
  #versions = [];
  #rules = [];

  constructor() {
    $("history-more").addEventListener("click", () => {
      this.#all = !this.#all;
      this.#draw();
    });
  }

  /** `versions`: newest first; `rules`: of the control document, by which values are named. */
  render(versions, rules) {
    [this.#versions, this.#rules] = [versions, rules];
    this.#draw();
  }

  #draw() {
    const place = $("threshold-history");
    if (!place) return;
    const shown = this.#all ? this.#versions : this.#versions.slice(0, SHOWN);
    place.replaceChildren(...shown.map((entry) => this.#row(entry)));
    const more = this.#versions.length - SHOWN;
    $("history-more").hidden = more <= 0;
    attribute("history-more", "aria-expanded", String(this.#all));
    say("history-more", this.#all ? "Show fewer" : `Show ${numbers.count(more)} older`);
    $("history-head").hidden = !this.#versions.length;
    this.tick();
  }

  #row(entry) {
    const rule = this.#rules.find(({ match, stream }) => match === entry.match && stream === entry.stream);
    const [symbol, word] = STATUS[entry.status] ?? ["info", entry.status];
    const parts = changes(entry, rule?.threshold_name).map(({ name, from, to }) =>
      make("span", { class: "move" }, name ? `${name} ` : "", `${value(from)} → `, make("b", {}, value(to))));
    if (entry.stop) parts.push(make("span", { class: "move" }, make("b", {}, "Stop")));
    const named = this.#rules.length > 1 || entry.match !== null ? Steering.called(entry) || "all parameters" : "";
    const notes = [entry.rolled_back_to !== null ? (entry.rolled_back_to === 0 ? "as coded" : `back to version ${entry.rolled_back_to}`) : "", conditionWords(entry)].filter(Boolean);
    const ended = (entry.status === "rejected" || entry.status === "reverted") && entry.why;
    const time = new Date(entry.at);
    return make("li", { class: `history ${entry.status}` },
      make("span", { class: "change" }, ...parts, named ? make("span", { class: "tag mono" }, named) : null),
      make("span", { class: "fate" }, icon(symbol), word),
      make("span", { class: "faint line" }, make("span", {}, entry.author ?? ""), " · ",
        make("time", { datetime: entry.at, title: time.toLocaleString() }, ""), where(entry) ? ` · ${where(entry)}` : ""),
      notes.length ? make("span", { class: "line info-text" }, notes.join(", ")) : null,
      entry.reason ? make("span", { class: "line muted" }, `“${entry.reason}”`) : null,
      ended ? make("span", { class: "line muted" }, entry.why) : null);
  }

  /** Ages grow. */
  tick() {
    for (const time of $("threshold-history")?.querySelectorAll("time") ?? []) say(time, numbers.ago(Date.parse(time.dateTime), Date.now()));
  }
}

const value = (one) => (one === null ? "none" : numbers.threshold(one));
