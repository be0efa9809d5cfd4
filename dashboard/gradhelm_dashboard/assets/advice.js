// The server's advice: what is wrong with the gradients, and thresholds to try, each with its reason.
// Asked for when it is opened.

import { getAdvice } from "./api.js";
import { $, attribute, icon, make } from "./dom.js";
import * as numbers from "./numbers.js";

/** Milliseconds after which what is shown is old. */
const OLD = 60_000;
const GROUPS = { statistic: "By this run's norms", customary: "What is customary elsewhere" };

export class Advice {
  #asked = -Infinity;
  #of = null;
  #buttons = [];

  /** `on`: {propose(value), rule(), closed()}. */
  constructor(id, stream, on) {
    Object.assign(this, { id, stream, on });
    $("threshold-advice").replaceChildren(make("details", { id: "advice-menu", ontoggle: () => this.#opened() },
      make("summary", {}, "Advice"),
      make("div", { id: "advice-list", "aria-live": "polite" })));
  }

  #opened() {
    if ($("advice-menu").open && performance.now() - this.#asked > OLD) this.#ask();
  }

  async #ask() {
    this.#asked = performance.now();
    const match = this.#of = this.on.rule()?.match ?? null;
    const place = $("advice-list");
    if (!place.childElementCount) place.replaceChildren(make("p", { class: "hint" }, "Looking at the recorded norms…"));
    let advice;
    try {
      advice = await getAdvice(this.id, { stream: this.stream, match });
    } catch (error) {
      this.#asked = -Infinity;
      const again = error.status === 422 ? null : make("button", { type: "button", class: "button small", onclick: () => this.#ask() }, "Try again");
      place.replaceChildren(make("p", { class: "hint" }, `${error.message[0].toUpperCase()}${error.message.slice(1)}`), ...(again ? [again] : []));
      return;
    }
    if (match === this.#of) this.#show(advice);
  }

  #show({ suggestions, steps, note, warnings, limits }) {
    this.#buttons = [];
    const parts = [];
    if (warnings.length) parts.push(make("ul", { class: "findings" }, ...warnings.map((one) => this.#finding(one, limits))));
    const head = note ?? `Of the newest ${numbers.count(steps)} steps. The figure on the right is what each would have clipped of them.`;
    parts.push(make("p", { class: "hint" }, head));
    for (const [kind, title] of Object.entries(GROUPS)) {
      const some = suggestions.filter((one) => one.kind === kind);
      if (!some.length) continue;
      const list = make("ul", { class: "advices" }, ...some.map((one) => this.#item(one)));
      // What others do is looked at when one's own norms say too little.
      parts.push(kind === "statistic" ? list : make("details", { open: some.length === suggestions.length }, make("summary", {}, `${title} (${some.length})`), list));
    }
    $("advice-list").replaceChildren(...parts);
    this.render();
  }

  #finding({ kind, text, help, source, max_norm: value }, limits) {
    // A note, not a warning: a threshold that is never reached does its duty.
    const sign = kind === "never_clips" ? "info" : "triangle-alert";
    const proposal = value === null || limits === null ? null
      : this.#use(value, "instead of the threshold now", value >= limits.min && value <= limits.max, "Propose ");
    return make("li", { class: "finding" }, icon(sign),
      make("div", {}, make("p", {}, text), make("p", { class: "muted" }, help, " ", make("span", { class: "faint" }, source, ".")), proposal));
  }

  #use(value, what, allowed, verb = "") {
    const text = numbers.threshold(value);
    const button = make("button", { type: "button", class: "button small use", "aria-label": `Propose ${text}, ${what}`, onclick: () => !this.on.closed() && allowed && this.on.propose(value) }, verb, text);
    this.#buttons.push({ button, allowed });
    return button;
  }

  #item({ name, value, reason, source, clip_fraction: share, allowed, note }) {
    return make("li", { class: "advice" },
      make("span", { class: "advice-name" }, name),
      make("span", { class: "num faint", title: "Clip fraction that it would have had" }, share === null ? "–" : numbers.percent(share)),
      this.#use(value, name, allowed),
      make("p", { class: "muted" }, reason, " ", make("span", { class: "faint" }, source, "."),
        note ? make("span", { class: "advice-note" }, icon("triangle-alert"), note) : null));
  }

  render() {
    const { on } = this;
    const match = on.rule()?.match ?? null;
    if (match !== this.#of && this.#asked > -Infinity) {
      this.#asked = -Infinity;
      this.#buttons = [];
      $("advice-list").replaceChildren();
      this.#opened();
    }
    const closed = on.closed();
    for (const { button, allowed } of this.#buttons) {
      const idle = closed || !allowed;
      attribute(button, "aria-disabled", idle ? "true" : "false");
      button.classList.toggle("idle", idle);
    }
  }
}
