// The list of what happened: bursts of clipping, spikes, non-finite norms, threshold changes, gaps.

import { $, icon, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";

const KINDS = {
  clip_burst: { word: "Clip burst", icon: "scissors", tone: "clip" },
  spike: { word: "Spike", icon: "zap", tone: "clip" },
  nonfinite: { word: "Non-finite", icon: "triangle-alert", tone: "bad" },
  threshold: { word: "Threshold set", icon: "sliders-horizontal", tone: "info" },
  gap: { word: "Gap", icon: "unplug", tone: "muted" },
  status: { word: "Status", icon: "radio", tone: "muted" },
};
const MOST = 300;

export class Events {
  #events = new Map();
  #hidden = new Set();
  #gaps = [];
  #asked = false;

  /** `jump(first, last)` shows those steps. */
  constructor(jump) {
    this.jump = jump;
    $("event-filters")?.addEventListener("click", ({ target }) => {
      const chip = target.closest(".filter-chip");
      if (!chip) return;
      const kind = chip.dataset.kind;
      if (!this.#hidden.delete(kind)) this.#hidden.add(kind);
      chip.setAttribute("aria-pressed", String(!this.#hidden.has(kind)));
      this.render();
    });
    this.timer = setInterval(() => this.#times(), 5000);
  }

  /** What is declared missing: [{first, last, open, title}]; open: up to wherever the run goes on. */
  get gaps() {
    return this.#gaps;
  }

  /** New events, or old ones that grew: they keep their id. */
  add(events) {
    for (const event of events) this.#events.set(event.id, event);
    this.#gaps = [...this.#events.values()].filter(({ kind }) => kind === "gap").map(({ first_step, last_step, count, text }) => {
      const span = last_step > first_step ? `Steps ${numbers.count(first_step)} to ${numbers.count(last_step)}` : `Step ${numbers.count(first_step)}`;
      if (count === 0) return { first: first_step, last: last_step, open: true, title: `From step ${numbers.count(first_step)} on: ${text}` };
      return { first: first_step, last: last_step, open: false, title: `${span} missing: ${text}` };
    });
    if (this.#events.size > MOST * 1.5) {
      const oldest = [...this.#events.keys()].sort((a, b) => a - b);
      for (const id of oldest.slice(0, this.#events.size - MOST)) this.#events.delete(id);
    }
    if (this.#asked) return;
    this.#asked = true;
    setTimeout(() => {
      this.#asked = false;
      this.render();
    }, 250);
  }

  render() {
    const list = $("event-list");
    if (!list) return;
    const counts = {};
    for (const event of this.#events.values()) counts[event.kind] = (counts[event.kind] ?? 0) + 1;
    for (const chip of document.querySelectorAll(".filter-chip")) {
      const kind = chip.dataset.kind;
      show(chip, Boolean(counts[kind]));
      say(chip.querySelector(".count"), numbers.count(counts[kind] ?? 0));
    }
    const shown = [...this.#events.values()]
      .filter((event) => !this.#hidden.has(event.kind))
      .sort((a, b) => b.last_step - a.last_step || b.id - a.id)
      .slice(0, 60);
    if (!shown.length) {
      const text = this.#events.size ? "All kinds of events are filtered out." : "Nothing unusual so far: no clipped step, no spike, no gap.";
      list.replaceChildren(make("p", { class: "quiet" }, text));
      return;
    }
    const focused = document.activeElement?.dataset?.event;
    const head = make("div", { class: "event head", role: "row" },
      ...["Step", "Event", "Detail", "Peak norm", "Threshold", "Norm ÷ threshold", "When"].map((title) =>
        make("span", { role: "columnheader" }, title)));
    const table = make("div", { role: "table", "aria-label": "Events, newest first" }, head, ...shown.map((event) => this.#row(event)));
    list.replaceChildren(table);
    if (focused) list.querySelector(`[data-event="${CSS.escape(focused)}"]`)?.focus();
    this.#times();
  }

  #row(event) {
    const kind = KINDS[event.kind] ?? { word: event.kind, icon: "info", tone: "muted" };
    const span = event.last_step > event.first_step && event.kind === "gap"
      ? `${numbers.count(event.first_step)}–${numbers.count(event.last_step)}` : numbers.count(event.peak_step ?? event.first_step);
    const many = event.count > 1 ? ` ×${numbers.count(event.count)}` : "";
    const ratio = event.peak_norm && event.threshold && event.kind !== "threshold" ? event.peak_norm / event.threshold : null;
    const bar = make("div", { class: kind.tone });
    // From 1 to 100 times the threshold, logarithmically.
    bar.style.width = ratio > 1 ? `${Math.min(100, Math.max(4, Math.log10(Math.max(1, ratio)) * 50))}%` : "0";
    const go = () => this.jump(event.first_step, event.last_step);
    const cell = (name, ...content) => make("span", { role: "cell", class: name }, ...content);
    return make("div", { class: "event", role: "row", onclick: go },
      cell("e-step num", make("button", {
        type: "button", class: "jump", "data-event": event.id, title: "Show this step on the charts",
        onclick: (click) => { click.stopPropagation(); go(); },
      }, span)),
      cell(`e-kind ${kind.tone}-text`, icon(kind.icon), `${kind.word}${many}`),
      cell("e-detail", event.parameter && event.kind !== "threshold"
        ? make("span", { class: "mono", title: event.text }, event.parameter) : make("span", { title: event.text }, event.text)),
      cell("e-peak num", event.peak_norm === null || event.kind === "threshold" ? "–" : numbers.norm(event.peak_norm)),
      cell("e-threshold num", numbers.threshold(event.threshold)),
      cell("e-ratio", ratio ? make("span", { class: "num" }, `${ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(2)} ×`) : make("span", { class: "num" }, "–"),
        ratio ? make("div", { class: "bar" }, bar) : null),
      cell("e-when faint", make("time", { datetime: event.at, title: new Date(event.at).toLocaleString() }, "")));
  }

  #times() {
    const now = Date.now();
    for (const time of $("event-list")?.querySelectorAll("time") ?? []) {
      say(time, numbers.ago(Date.parse(time.getAttribute("datetime")), now));
    }
  }
}

