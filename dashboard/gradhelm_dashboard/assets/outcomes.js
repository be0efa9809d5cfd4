// The table of how the compared runs were set up, and what came of it.

import { differences } from "./differences.js";
import { STATUS, colours, make } from "./dom.js";
import { hue, ink, letter } from "./hues.js";
import * as numbers from "./numbers.js";

const LONG = 200;

/** Rows about what came of the runs: [title, value of a run]. */
const OUTCOMES = [
  ["Status", (run) => [STATUS[run.status]?.word ?? run.status, run.status_reason].filter(Boolean).join(": ")],
  ["Steps", (run) => numbers.count(run.steps)],
  ["Global norm, newest", (run) => (run.last_step !== null && run.norm_finite === false ? "not finite" : numbers.norm(run.global_norm))],
  ["Clip fraction", (run) => numbers.percent(run.clip_fraction)],
  ["Non-finite steps", (run) => numbers.count(run.nonfinite)],
  ["Skipped steps", (run) => numbers.count(run.skipped)],
];
const SET_UP = [
  ["Project", (run) => run.project],
  ["Strategy", (run) => run.strategy || "observed only"],
  ["Threshold", (run) => (run.threshold === null ? "–" : `${run.threshold_name ?? "max_norm"} ${numbers.threshold(run.threshold)}`)],
  ["Host", (run) => run.host],
  ["Tags", (run) => (run.tags ?? []).join(", ")],
  ["Note", (run) => run.note],
];

export class Outcomes {
  #key = "";

  /** `look.every`: also what is equal; `changed()` is called when that is switched. */
  constructor(place, controls, look, changed) {
    this.place = place;
    this.look = look;
    const box = make("input", { type: "checkbox", id: "compare-equal", onchange: () => {
      look.every = box.checked;
      changed();
    } });
    box.checked = look.every;
    controls.replaceChildren(make("label", { class: "chooser" }, box, "Also what is equal"));
  }

  /** `compared`: the runs, each {run, slot}. */
  render(compared) {
    const { theme } = colours();
    const rows = this.rows(compared.map(({ run }) => run));
    const key = JSON.stringify([rows, compared.map(({ run, slot }) => [run.id, run.name, slot]), theme]);
    if (key === this.#key) return;
    this.#key = key;
    const head = compared.map(({ run, slot }) => {
      const badge = make("span", { class: "badge", "aria-hidden": "true" }, letter(slot));
      badge.style.setProperty("--key", hue(slot, theme));
      badge.style.setProperty("--ink", ink(slot, theme));
      return make("th", { scope: "col" }, make("a", { href: `/runs/${encodeURIComponent(run.id)}`, title: run.name }, badge, make("bdi", { class: "name" }, run.name)));
    });
    const body = rows.map(({ title, config, values, differs }) => (values
      ? make("tr", { class: differs ? "differs" : "" },
        make("th", { scope: "row", class: config ? "mono" : "", title }, make("bdi", {}, title)),
        ...values.map((value) => make("td", { class: value === undefined ? "faint" : config ? "mono" : "num", title: value && value.length > 30 ? value.slice(0, 2000) : null },
          make("bdi", {}, value === undefined ? "not set" : cut(value || "–")))))
      : make("tr", { class: "part" }, make("th", { scope: "rowgroup", colspan: compared.length + 1 }, title))));
    this.place.replaceChildren(make("table", { class: "outcomes" },
      make("thead", {}, make("tr", {}, make("td"), ...head)), make("tbody", {}, ...body)));
  }

  rows(runs) {
    const plain = ([title, of]) => {
      const values = runs.map((run) => String(of(run) ?? ""));
      return { title, values, differs: values.some((value) => value !== values[0]) };
    };
    const { every } = this.look;
    const alone = runs.length < 2;
    const config = differences(runs.map((run) => run.config)).map((row) => ({ title: row.key, config: true, ...row }));
    const wanted = config.filter((row) => every || alone || row.differs);
    const setUp = SET_UP.map(plain).filter((row) => row.values.some(Boolean) && (every || alone || row.differs || ["Strategy", "Threshold"].includes(row.title)));
    const equal = config.length - wanted.length;
    const title = !config.length ? "Configuration: none was given"
      : equal ? `Configuration: ${numbers.count(wanted.length)} of ${numbers.count(config.length)} keys differ` : "Configuration";
    return [{ title: "Outcome" }, ...OUTCOMES.map(plain), { title: "Set up" }, ...setUp, { title }, ...wanted];
  }
}

const cut = (text) => (text.length > LONG ? `${text.slice(0, LONG)}…` : text);
