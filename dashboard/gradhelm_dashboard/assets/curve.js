// The share of steps that each threshold would have clipped, as a curve over the slider. Pressing or
// dragging it proposes; the slider below it does the same for keys.

import { getWhatIf } from "./api.js";
import { $, attribute, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { countsClipped, ladder } from "./whatif.js";

/** Milliseconds between two looks: at the norms at hand, at the whole run. */
const CALM = 1000;
const WHOLE = 20_000;

/** The first threshold of a falling curve at which at most `share` is clipped, null if there is none. Pure. */
export function reaches(thresholds, shares, share) {
  const at = shares.findIndex((one) => one <= share);
  return at < 0 ? null : thresholds[at];
}

/** The share at any threshold, read off the curve between its points. Pure. */
export function shareAt(thresholds, shares, value) {
  if (!(value > 0) || !thresholds.length || value < thresholds[0] || value > thresholds.at(-1)) return null;
  const next = thresholds.findIndex((one) => one >= value);
  if (thresholds[next] === value) return shares[next];
  const [low, high] = [Math.log(thresholds[next - 1]), Math.log(thresholds[next])];
  return shares[next - 1] + ((shares[next] - shares[next - 1]) * (Math.log(value) - low)) / (high - low);
}

/** The curve for those who do not see it. Pure. */
export function curveWords(thresholds, shares, steps, applied, proposed) {
  const words = [`What thresholds from ${numbers.threshold(thresholds[0])} to ${numbers.threshold(thresholds.at(-1))} would have clipped of ${numbers.count(steps)} ${steps === 1 ? "step" : "steps"}.`];
  const at = (name, value) => {
    const share = shareAt(thresholds, shares, value);
    if (share !== null) words.push(`${name}, ${numbers.threshold(value)}: ${numbers.percent(share)}.`);
  };
  at("Applied", applied);
  if (proposed !== null) at("Proposed", proposed);
  for (const [share, name] of [[0.5, "half"], [0.1, "a tenth"], [0, "none"]]) {
    const value = reaches(thresholds, shares, share);
    if (value !== null) words.push(`At ${numbers.threshold(value)} ${share ? `at most ${name}` : name}.`);
  }
  return words.join(" ");
}

export class Curve {
  #whole = false;
  #asked = -Infinity;
  #key = "";
  #found = null;
  #failed = false;

  /** `on`: {propose(value), again()}; `id`, `stream`: whose whole run is asked about. */
  constructor(id, stream, on) {
    Object.assign(this, { id, stream, on });
    $("threshold-curve").replaceChildren(this.#make());
    const plot = $("curve-plot");
    plot.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.open) return;
      event.preventDefault();
      plot.setPointerCapture(event.pointerId);
      this.#press(event);
    });
    plot.addEventListener("pointermove", (event) => plot.hasPointerCapture(event.pointerId) && this.#press(event));
  }

  #make() {
    const scope = (whole, text) => make("button", {
      type: "button", class: "kind", "data-whole": String(whole), "aria-pressed": String(whole === this.#whole),
      onclick: () => this.#choose(whole),
    }, text);
    const mark = (kind) => make("div", { class: `curve-mark ${kind}`, hidden: true }, make("i"), make("span", {}, kind));
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const name of ["area", "line"]) {
      const path = document.createElementNS(space, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    return make("div", { class: "curve" },
      make("div", { class: "curve-head" },
        make("span", { class: "figure-label" }, "Clip fraction"),
        make("div", { class: "curve-scope", role: "group", "aria-label": "Steps that the curve is of" }, scope(false, "Recent"), scope(true, "Whole run"))),
      make("div", { id: "curve-plot", role: "img", "aria-label": "" },
        make("span", { class: "curve-tick", "aria-hidden": "true" }, "100 %"), make("span", { class: "curve-tick half", "aria-hidden": "true" }, "50 %"),
        svg, mark("applied"), mark("proposed")),
      make("div", { id: "curve-note", class: "faint small" }));
  }

  #choose(whole) {
    if (whole === this.#whole) return;
    this.#whole = whole;
    this.#asked = -Infinity;
    this.#found = null;
    for (const button of $("threshold-curve").querySelectorAll("button")) attribute(button, "aria-pressed", String((button.dataset.whole === "true") === whole));
    this.on.again();
  }

  #press({ clientX }) {
    const { left, width } = $("curve-plot").getBoundingClientRect();
    const { low, high } = this.extent;
    const part = Math.min(1, Math.max(0, (clientX - left) / width));
    const value = numbers.fromSlider(low + part * (high - low));
    this.on.propose(Math.min(10 ** high, Math.max(10 ** low, value)));
  }

  /**
   * `norms`: those at hand, of the rule; `extent`: {low, high} of the scale, as logarithms;
   * `open`: whether somebody may propose. Without norms or limits there is no curve.
   */
  render({ norms, extent, applied, proposed, open, rule }) {
    const place = $("threshold-curve");
    show(place, norms.length > 0 && extent !== null);
    if (place.hidden) return;
    Object.assign(this, { extent, open });
    place.firstElementChild.classList.toggle("is-open", open);
    const now = performance.now();
    const key = JSON.stringify([extent, rule.match]);
    if (key !== this.#key) {
      this.#key = key;
      this.#asked = -Infinity;
      this.#found = null;
    }
    if (now - this.#asked > (this.#whole ? WHOLE : CALM)) {
      this.#asked = now;
      const thresholds = ladder(10 ** extent.low, 10 ** extent.high);
      if (this.#whole) this.#ask(thresholds, rule.match, key);
      else this.#found = { thresholds, steps: norms.length, shares: countsClipped(norms, thresholds).map((count) => count / norms.length) };
      this.#line();
    }
    this.#mark("applied", applied, proposed);
    this.#mark("proposed", proposed, applied);
    const { thresholds, shares, steps } = this.#found ?? {};
    attribute("curve-plot", "aria-label", steps ? curveWords(thresholds, shares, steps, applied, proposed) : "No curve yet");
    say("curve-note", this.#words(steps));
  }

  #words(steps) {
    if (this.#whole && this.#failed) return "The server did not answer; it is asked again.";
    if (!this.#found) return "Loading…";
    const of = steps === 1 ? "the only step" : this.#whole ? `all ${numbers.count(steps)} steps` : `the last ${numbers.count(steps)} steps`;
    return `Of ${of}.${this.open ? " Press or drag to propose." : ""}`;
  }

  async #ask(thresholds, match, key) {
    try {
      const { results, steps } = await getWhatIf(this.id, { max_norm: thresholds.join(","), stream: this.stream, match });
      if (!this.#whole || key !== this.#key) return;
      this.#failed = false;
      this.#found = { thresholds, steps, shares: results.map((result) => result.clip_fraction ?? 0) };
    } catch {
      this.#failed = true;
      this.#asked = performance.now() - WHOLE + 3000;
    }
    this.#line();
    this.on.again();
  }

  #line() {
    const [area, line] = $("curve-plot").querySelectorAll("path");
    const { thresholds, shares } = this.#found ?? { thresholds: [], shares: [] };
    const points = shares.map((share, i) => `${((100 * i) / (thresholds.length - 1)).toFixed(2)},${(100 * (1 - share)).toFixed(2)}`);
    line.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    area.setAttribute("d", points.length ? `M0,100L${points.join("L")}L100,100Z` : "");
  }

  #mark(kind, value, other) {
    const mark = $("curve-plot").querySelector(`.curve-mark.${kind}`);
    const { low, high } = this.extent;
    const place = (one) => (one > 0 ? (Math.log10(one) - low) / (high - low) : -1);
    const part = place(value);
    show(mark, part >= -1e-6 && part <= 1 + 1e-6);
    if (mark.hidden) return;
    mark.style.left = `${100 * part}%`;
    // The words of two marks point away from each other, as long as there is room.
    const left = other > 0 ? part < place(other) : part > 0.5;
    mark.classList.toggle("right", left ? part > 0.25 : part > 0.75);
    const share = this.#found ? shareAt(this.#found.thresholds, this.#found.shares, value) : null;
    show(mark.firstElementChild, share !== null);
    if (share !== null) mark.firstElementChild.style.top = `${100 * (1 - share)}%`;
  }
}
