// What a trainer may allow besides its threshold: a factor for the learning rates, and a stop.

import { confirmed } from "./confirmed.js";
import { $, attribute, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";

export const MOST_FACTOR = 100;

/** What the learning rates may be multiplied by now: at most `factor` times more or less at once. Pure. */
export function factorRange(now, factor) {
  const [low, high] = [1 / MOST_FACTOR, MOST_FACTOR];
  return factor ? { low: Math.max(low, now / factor), high: Math.min(high, now * factor) } : { low, high };
}

export class Levers {
  #control = null;

  /** `on`: {send(body), reason(), tell(tone, text), again()}. */
  constructor(on) {
    this.on = on;
    $("threshold-levers").replaceChildren(
      make("form", { id: "lr-form", class: "lever", hidden: true, onsubmit: (event) => this.#multiply(event) },
        make("h3", {}, "Learning rates"),
        make("p", { class: "hint" }, "Multiplied by ", make("b", { id: "lr-now" }), make("span", { id: "lr-waits" }), ". ", make("span", { id: "lr-range" })),
        make("div", { class: "lever-row" },
          make("input", { id: "lr-factor", class: "field", type: "text", inputmode: "decimal", autocomplete: "off", "aria-label": "Factor of all learning rates" }),
          ...[0.1, 0.5, 1].map((factor) => make("button", { type: "button", class: "kind", "aria-label": `Factor ${factor}`, onclick: () => ($("lr-factor").value = factor) }, `× ${factor}`)),
          make("button", { type: "submit", class: "button small", id: "lr-apply" }, "Apply"))),
      make("div", { id: "stop-lever", class: "lever", hidden: true },
        make("h3", {}, "Stop"),
        make("p", { id: "stop-words", class: "hint" }),
        make("button", { type: "button", class: "button small danger", id: "stop-run", onclick: () => this.#stop() }, "Stop the run…"),
        make("button", { type: "button", class: "button small", id: "stop-back", hidden: true, onclick: () => on.send({ stop: false, reason: on.reason() }) }, "Take the stop back")));
  }

  render(control, closed) {
    this.#control = control;
    const may = control.may ?? {};
    show("lr-form", !closed && may.lr_factor === true);
    show("stop-lever", !closed && may.stop === true);
    const now = control.applied.lr_factor;
    say("lr-now", numbers.threshold(now));
    say("lr-waits", control.lr_factor !== now && ["pending", "delivered"].includes(control.status) ? `, soon by ${numbers.threshold(control.lr_factor)}` : "");
    const { low, high } = factorRange(now, control.factor);
    say("lr-range", `Accepted: ${numbers.threshold(low)} to ${numbers.threshold(high)}.`);
    const asked = control.stop === true;
    const obeyed = control.applied.stop === true;
    say("stop-words", obeyed ? "The trainer was told to stop, and ends by itself." : asked ? "A stop is on its way to the trainer." : "The training script looks at run.should_stop and ends in its own way.");
    show("stop-run", !asked && !obeyed);
    show("stop-back", asked && !obeyed);
  }

  #multiply(event) {
    event.preventDefault();
    const text = $("lr-factor").value.trim();
    const factor = text === "" ? NaN : Number(text);
    const { low, high } = factorRange(this.#control.applied.lr_factor, this.#control.factor);
    // A hair of tolerance: 0.1 × 10 is not 1 in binary.
    const fits = factor >= low * (1 - 1e-9) && factor <= high * (1 + 1e-9);
    attribute("lr-factor", "aria-invalid", fits ? null : "true");
    if (!fits) return this.on.tell("bad", `The factor of the learning rates is from ${numbers.threshold(low)} to ${numbers.threshold(high)}.`);
    $("lr-factor").value = "";
    return this.on.send({ lr_factor: factor, reason: this.on.reason() });
  }

  async #stop() {
    const yes = await confirmed("Stop this run?", [
      "The training job is asked to end at its next look at run.should_stop. It then finishes in its own way, and saves what it saves.",
      "Once it has taken that up, it cannot be taken back; the run can be resumed from a checkpoint.",
    ], "Stop the run", true);
    if (yes) this.on.send({ stop: true, reason: this.on.reason() });
  }
}
