// Under which conditions a change is in force: for some steps, from a step on, until it proves bad.

import { $, attribute, make, say } from "./dom.js";
import * as numbers from "./numbers.js";

const steps = (count) => `${numbers.count(count)} ${count === 1 ? "step" : "steps"}`;
const share = (value) => Number((value * 100).toFixed(3));

/** Conditions as the server has them, in words; "" for a change that is simply there to stay. Pure. */
export function conditionWords({ not_before_step: from, ttl_steps: ttl, revert_if: trial }) {
  const words = [];
  if (from !== null && from !== undefined) words.push(`from step ${numbers.count(from)} on`);
  if (ttl) words.push(`for ${steps(ttl)}`);
  if (trial) {
    const causes = [];
    if (trial.nonfinite) causes.push("the loss or a norm is not finite");
    if (trial.clip_fraction) causes.push(`the clip fraction leaves ${share(trial.clip_fraction[0])} to ${share(trial.clip_fraction[1])} %`);
    words.push(`taken back if ${causes.join(" or ")} within ${steps(trial.within)}`);
  }
  return words.join(", ");
}

const WHOLE = /^\d{1,15}$/;
const empty = (text) => text.trim() === "";

/**
 * What was typed, as the server takes it: {body}, or {wrong: {field, text}}. Pure.
 * `typed`: {ttl, from, within, low, high} as text, {nonfinite} as true or false. `last`: the run's newest step.
 */
export function readConditions(typed, last) {
  const wrong = (field, text) => ({ wrong: { field, text } });
  const body = {};
  const number = (text) => (WHOLE.test(text.trim()) ? Number(text.trim()) : NaN);
  if (!empty(typed.ttl)) {
    body.ttl_steps = number(typed.ttl);
    if (!(body.ttl_steps >= 1)) return wrong("ttl", "For how many steps? A whole number from 1.");
  }
  if (!empty(typed.from)) {
    body.not_before_step = number(typed.from);
    if (Number.isNaN(body.not_before_step)) return wrong("from", "Not before which step? A whole number.");
    if (last !== null && body.not_before_step <= last) return wrong("from", `Step ${numbers.count(body.not_before_step)} is over: the run is at ${numbers.count(last)}.`);
  }
  const band = !empty(typed.low) || !empty(typed.high);
  if (!band && !typed.nonfinite) {
    return empty(typed.within) ? { body } : wrong("within", "Say what takes it back: what is not finite, or a clip fraction.");
  }
  const trial = { within: number(typed.within) };
  if (!(trial.within >= 1)) return wrong("within", "Within how many steps? A whole number from 1.");
  if (body.ttl_steps && trial.within > body.ttl_steps) return wrong("within", `It is in force for ${steps(body.ttl_steps)}: at most so many.`);
  if (typed.nonfinite) trial.nonfinite = true;
  if (band) {
    const [low, high] = [empty(typed.low) ? 0 : Number(typed.low), empty(typed.high) ? 100 : Number(typed.high)];
    if (!(low >= 0 && low <= 100)) return wrong("low", "The clip fraction is from 0 to 100 %.");
    if (!(high >= 0 && high <= 100)) return wrong("high", "The clip fraction is from 0 to 100 %.");
    if (low > high) return wrong("high", "The second share is the larger one.");
    trial.clip_fraction = [low / 100, high / 100];
  }
  body.revert_if = trial;
  return { body };
}

const FIELDS = { ttl: "condition-ttl", from: "condition-from", within: "condition-within", low: "condition-low", high: "condition-high" };

/** The disclosure in which they are typed. */
export class Conditions {
  /** `on`: {lastStep(), apply(), changed()}. */
  constructor(on) {
    this.on = on;
    const place = $("threshold-more");
    place.replaceChildren(this.#make());
    place.addEventListener("input", () => {
      this.render();
      on.changed();
    });
    place.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
      event.preventDefault();
      on.apply();
    });
  }

  #make() {
    const field = (id, label, attributes = {}) => make("input", { id, type: "text", inputmode: "numeric", class: "field", autocomplete: "off", "aria-label": label, "aria-describedby": "condition-wrong", ...attributes });
    return make("details", { id: "condition-menu" },
      make("summary", {}, "More", make("span", { id: "condition-words", class: "faint" })),
      make("div", { class: "conditions" },
        make("div", { class: "condition" }, "For", field("condition-ttl", "For so many steps, then back"), "steps, then back"),
        make("div", { class: "condition" }, "Not before step", field("condition-from", "Not before this step")),
        make("fieldset", {},
          make("legend", {}, "Take it back by itself"),
          make("label", { class: "condition" }, make("input", { id: "condition-nonfinite", type: "checkbox" }), "if the loss or a norm is not finite"),
          make("div", { class: "condition" }, "if clip fraction leaves", field("condition-low", "Lowest clip fraction, percent", { placeholder: "0", inputmode: "decimal" }), "to", field("condition-high", "Highest clip fraction, percent", { placeholder: "100", inputmode: "decimal" }), "%"),
          make("div", { class: "condition" }, "within", field("condition-within", "Within so many steps"), "steps")),
        make("p", { id: "condition-wrong", class: "bad-text small", role: "alert" })));
  }

  #typed() {
    const typed = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, $(id).value]));
    return { ...typed, nonfinite: $("condition-nonfinite").checked };
  }

  /** Whether anything is typed at all. */
  get any() {
    return Object.values(this.#typed()).some((one) => one === true || (typeof one === "string" && !empty(one)));
  }

  /** What is to be sent along, null when it cannot be; then it says why. */
  body() {
    const { body, wrong } = readConditions(this.#typed(), this.on.lastStep());
    if (!wrong) return body;
    $("condition-menu").open = true;
    this.#complain(wrong);
    $(FIELDS[wrong.field]).focus();
    return null;
  }

  clear() {
    for (const id of Object.values(FIELDS)) $(id).value = "";
    $("condition-nonfinite").checked = false;
    this.render();
  }

  render() {
    const { body, wrong } = readConditions(this.#typed(), this.on.lastStep());
    say("condition-words", wrong ? " · not complete" : conditionWords(body) && ` · ${conditionWords(body)}`);
    this.#complain(null);
  }

  #complain(wrong) {
    for (const [name, id] of Object.entries(FIELDS)) attribute(id, "aria-invalid", wrong?.field === name ? "true" : null);
    say("condition-wrong", wrong?.text ?? "");
  }
}
