// The newest norms of the parameters that one rule is for. The stream has those of all parameters
// together; of a rule they are asked for while it is looked at.

import { getSeries } from "./api.js";

const EVERY = 2000;
const NONE = { norms: [], clipped: 0 };

export class RuleNorms {
  #match = null;
  #asked = -Infinity;
  #found = NONE;

  /** `on`: {norms() → the last 500 of all parameters, clipped() → how many of them were, again()}. */
  constructor(id, stream, on) {
    Object.assign(this, { id, stream, on });
  }

  /** {norms, clipped}: the last norms that `rule` clips by, and how many of these steps it clipped. */
  of(rule) {
    if (rule.match === null) return { norms: this.on.norms(), clipped: this.on.clipped() };
    if (rule.match !== this.#match) {
      this.#match = rule.match;
      this.#found = NONE;
      this.#asked = -Infinity;
    }
    if (performance.now() - this.#asked > EVERY) {
      this.#asked = performance.now();
      this.#ask(rule.match);
    }
    return this.#found;
  }

  async #ask(match) {
    const [norm, clipped] = ["global_norm", "clipped"].map((name) => `rule/${match}/${name}`);
    let series;
    try {
      series = await getSeries(this.id, [norm, clipped], { first: -500, points: 512, stream: this.stream });
    } catch {
      return; // at the next turn again
    }
    // Of buckets nothing exact could be said.
    if (match !== this.#match || series.stride !== 1) return;
    const clips = series.columns[clipped]?.mean ?? [];
    this.#found = { norms: series.columns[norm]?.mean ?? [], clipped: clips.reduce((sum, one) => sum + (one > 0 ? 1 : 0), 0) };
    this.on.again();
  }
}
