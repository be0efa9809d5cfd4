// The form in which a threshold is proposed: a slider on a logarithmic scale and an exact value, which
// follow each other, the reason, and what the proposal would have clipped.
//
// The fields are the browser's own: what is dragged faster than a framework renders comes back from
// its controls as if somebody had typed it.

import { $, attribute, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { countClipped } from "./whatif.js";

/** What was typed as a threshold: null for nothing, NaN for what is no number. Pure. */
export function readThreshold(text) {
  const typed = text.trim();
  return typed === "" ? null : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(typed) ? Number(typed) : NaN;
}

/** One press of an arrow moves the second figure: about a hundredth to a tenth. Pure. */
export function nudged(value, by) {
  if (!(value > 0)) return by > 0 ? 0.01 : 0;
  const step = Number(`1e${Math.floor(Math.log10(value)) - 1}`);
  return Math.max(0, Number((value + by * step).toPrecision(6)));
}

export class Form {
  #limits = "";

  /** `propose(value, source)`: something moved; the source is "slider" or "input". */
  constructor(propose) {
    this.propose = propose;
    this.slider = make("input", {
      type: "range", id: "threshold-slider", min: "-2", max: "2", step: "0.01", "aria-label": "Proposed threshold, logarithmic",
      oninput: () => this.propose(numbers.fromSlider(Number(this.slider.value)), "slider"),
    });
    this.ticks = make("div", { class: "slider-ticks", "aria-hidden": "true" });
    $("threshold-range").replaceChildren(this.slider, this.ticks);
    this.input = make("input", {
      id: "threshold-input", class: "field", inputmode: "decimal", autocomplete: "off", spellcheck: "false",
      oninput: () => this.propose(this.typed, "input"),
      onkeydown: (event) => {
        const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
        if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        this.propose(nudged(this.typed, by), "keys");
      },
    });
    this.label = make("label", { for: "threshold-input" }, "Exact value");
    $("threshold-exact").replaceChildren(this.label, this.input);
    this.why = make("input", { id: "threshold-reason", class: "field", maxlength: "500", autocomplete: "off", placeholder: "Optional, kept in the history" });
    $("threshold-why").replaceChildren(make("label", { for: "threshold-reason" }, "Reason"), this.why);
  }

  /** Shows a value in the controls that it did not come from. */
  set(value, source) {
    if (source !== "input") this.input.value = value ?? "";
    this.input.toggleAttribute("aria-invalid", Number.isNaN(value));
    this.#slide(value, source !== "slider");
  }

  #slide(value, move) {
    if (!(value > 0)) return;
    if (move) this.slider.value = numbers.toSlider(value);
    this.slider.setAttribute("aria-valuetext", numbers.threshold(value));
    const { min, max, value: at } = this.slider;
    this.slider.style.setProperty("--part", (at - min) / (max - min)); // the track behind the thumb
  }

  /** As readThreshold() says. */
  get typed() {
    return readThreshold(this.input.value);
  }

  get reason() {
    return this.why.value.trim();
  }

  forgetReason() {
    this.why.value = "";
  }

  limit(limit, extent, factor) {
    const key = JSON.stringify([limit, factor]);
    if (!limit || key === this.#limits) return;
    this.#limits = key;
    const { low, high } = extent;
    const ticks = [];
    const decades = [];
    for (let e = Math.ceil(low - 1e-9); e <= high + 1e-9; e++) decades.push(e);
    const every = Math.ceil(decades.length / 5);
    for (const e of decades) {
      if ((e - decades[0]) % every) continue;
      const tick = make("span", {}, numbers.tick(Number(`1e${e}`)));
      tick.style.left = `${(100 * (e - low)) / (high - low)}%`;
      ticks.push(tick);
    }
    this.ticks.replaceChildren(...ticks);
    Object.assign(this.slider, { min: low, max: high });
    this.#slide(this.typed, true);
    const most = factor ? `, at most × ${factor} at a time` : "";
    say(this.label, `Exact value, ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}${most}`);
  }

  /** The buttons: whether there is something to apply, and something to put back. */
  buttons(differs, edited) {
    for (const [id, live] of [["threshold-apply", differs], ["threshold-reset", edited]]) {
      $(id).classList.toggle("idle", !live);
      attribute(id, "aria-disabled", live ? "false" : "true");
    }
  }

  /**
   * The sentence and the bars under the slider. `norms`: the newest, of which `now` were clipped;
   * `proposed`: null when it is what is in force.
   */
  whatIf({ norms, now, applied, proposed }) {
    const place = $("whatif");
    show(place, norms.length > 0);
    if (!norms.length) return;
    const of = norms.length;
    const then = proposed === null ? now : countClipped(norms, proposed);
    const key = [proposed, then, now, of, applied].join();
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const steps = of === 1 ? "step" : `${of} steps`;
    const bold = (text) => make("b", {}, String(text));
    if (proposed === null) say("whatif-text", "Move the slider to see how another threshold would have treated the recent steps.");
    else {
      $("whatif-text").replaceChildren(
        bold(numbers.threshold(proposed)), " would have clipped ", bold(then), ` of the last ${steps}, instead of `, bold(now), ".",
      );
    }
    const bar = (value, clipped, tone) => {
      const fill = make("div", { class: tone });
      fill.style.width = `${(100 * clipped) / of}%`;
      return make("div", { class: "whatif-bar" },
        make("span", { class: "muted" }, `At ${numbers.threshold(value)}`),
        make("div", { class: "bar" }, fill),
        make("span", { class: "num" }, numbers.percent(clipped / of)));
    };
    const bars = applied === null ? [] : [bar(applied, now, "clip")];
    if (proposed !== null) bars.push(bar(proposed, then, "accent"));
    $("whatif-bars").replaceChildren(...bars);
  }
}
