// How large the newest measured update of each layer was beside its weights. About a thousandth is
// usual; far more shakes a layer apart, far less leaves it where it is.

import { getSeries } from "./api.js";
import { $, attribute, make, say, show } from "./dom.js";
import { shortName } from "./layers.js";
import * as numbers from "./numbers.js";

const EVERY = 10_000;
const MOST = 400;
/** The axis, and the band on it in which nothing is odd (logarithms to base 10). */
const [LOW, HIGH] = [-6, 0];
const BAND = [-4, -2];

/** What a ratio says, in a word. Pure. */
export function verdict(ratio) {
  const log = Math.log10(ratio);
  if (log > BAND[1]) return "large";
  return log < BAND[0] ? "small" : "";
}

export class Ratios {
  #asked = -Infinity;

  constructor(id, stream) {
    this.id = id;
    this.stream = stream;
  }

  /** Asks for them now and then, while somebody may see them. */
  async refresh(layers) {
    if (!$("ratio-list") || performance.now() - this.#asked < EVERY || !layers.length) return;
    this.#asked = performance.now();
    const { optimizer, matrix } = this.stream;
    if (!this.stream.measured("update_ratio")) {
      show("ratio-none", true);
      return;
    }
    const columns = layers.slice(0, MOST).map((name) => `update_ratio/${name}`);
    let series;
    try {
      series = await getSeries(this.id, columns, { first: Math.max(0, (matrix.lastStep ?? 0) - 20_000), points: 400, stream: optimizer });
    } catch {
      return; // at the next turn again
    }
    const found = [];
    for (const name of layers.slice(0, MOST)) {
      const column = series.columns[`update_ratio/${name}`];
      const last = column ? column.mean.findLastIndex((value) => Number.isFinite(value)) : -1;
      if (last >= 0) found.push({ name, ratio: column.mean[last], step: column.step[last] });
    }
    show("ratio-none", !found.length);
    this.#render(found.sort((a, b) => b.ratio - a.ratio));
  }

  #render(found) {
    const list = $("ratio-list");
    say("ratio-of", found.length ? `step ${numbers.count(Math.max(...found.map(({ step }) => step)))}` : "");
    const at = (log) => (100 * (Math.min(Math.max(log, LOW), HIGH) - LOW)) / (HIGH - LOW);
    list.replaceChildren(...found.map(({ name, ratio }) => {
      const dot = make("span", { class: `ratio-dot ${verdict(ratio)}` });
      const band = make("span", { class: "ratio-band" });
      dot.style.left = `${at(Math.log10(ratio))}%`;
      band.style.cssText = `left:${at(BAND[0])}%;width:${at(BAND[1]) - at(BAND[0])}%`;
      const word = verdict(ratio);
      const row = make("div", { class: "ratio", role: "row" },
        make("span", { class: "mono name", role: "cell", title: name }, make("bdi", {}, shortName(name))),
        make("span", { class: "ratio-axis", role: "cell", "aria-hidden": "true" }, band, dot),
        make("span", { class: "num", role: "cell" }, ratio.toExponential(1)),
        make("span", { class: `small ${word ? "clip-text" : "faint"}`, role: "cell" }, word || "usual"));
      return row;
    }));
    attribute(list, "aria-label", "Update to weight ratio of each layer, largest first");
  }
}
