// Where the charts' data come from: the newest steps are in memory, everything else is asked of the
// server's rollups, at the width of the screen.

import { getHeatmap, getSeries } from "./api.js";
import { SCALARS } from "./stream.js";
import * as views from "./views.js";

/** Milliseconds after which a picture of everything is asked for again while the run grows. */
const REFETCH = 3000;
const POINTS = 1000;

export class Source {
  #fetched = null;
  #fetching = false;

  /** `changed()` is called when something new can be drawn. */
  constructor(id, stream, changed) {
    this.id = id;
    this.stream = stream;
    this.changed = changed;
  }

  /** What is at hand is no longer what is wanted. */
  forget() {
    this.#fetched = null;
  }

  /**
   * {chart, map} of steps `low`…`high`, with lines for the layers `rows` and lanes for the scalars
   * `lanes`; what was drawn last until that is here, null before. `growing`: `high` is the newest step.
   */
  view(low, high, rows, lanes, growing) {
    const { matrix, run } = this.stream;
    const first = run?.first_step ?? 0;
    if (low >= matrix.firstStep || matrix.firstStep <= first) {
      return { chart: views.fromMatrix(matrix, low, high, rows, lanes), map: views.mapFromMatrix(matrix, low, high) };
    }
    this.#fetch(low, high, rows, lanes, growing);
    return this.#fetched?.view ?? null;
  }

  async #fetch(low, high, rows, lanes, growing) {
    const key = [rows.join(), lanes.join("\n"), growing ? "all" : `${low}-${high}`].join("|");
    const known = this.#fetched?.key === key ? this.#fetched : null;
    const recent = known && performance.now() - known.at < REFETCH;
    if (this.#fetching || (known && (!growing || recent || known.high === high))) return;
    this.#fetching = true;
    let view = this.#fetched?.view ?? null;
    try {
      const { names } = this.stream;
      const layers = rows.map((row) => names[row]);
      const range = { first: low, last: high, points: POINTS, stream: this.stream.optimizer };
      const columns = [...new Set([...SCALARS, ...lanes, ...layers.map((name) => `norm/${name}`)])];
      const [series, picture] = await Promise.all([
        getSeries(this.id, columns, range), names.length ? getHeatmap(this.id, range) : null,
      ]);
      view = {
        chart: { ...views.fromSeries(series, layers, lanes), low, high },
        map: picture ? views.mapFromPicture(picture, low, high) : null,
      };
    } catch {
      // What is shown stays; it is asked for again when the view or the run moves on.
    }
    this.#fetched = { key, at: performance.now(), high, view };
    this.#fetching = false;
    this.changed();
  }
}
