// What one looks at on a run's page: which steps, how they are drawn, which layers and lanes. It
// lives in the address, so that a link shows the same to somebody else. Pure.

export const CHOICES = {
  window: ["1000", "500", "2000", "all"],
  scale: ["log", "linear"],
  map: ["absolute", "relative"],
};
/** Lines and lanes that an address may ask for; more could not be told apart. */
export const MOST_LAYERS = 24;
export const MOST_LANES = 6;
const SMOOTHEST = 0.99;

export class Look {
  /** A chosen part {low, high}; null follows the newest steps. */
  range = null;
  window = CHOICES.window[0];
  scale = CHOICES.scale[0];
  map = CHOICES.map[0];
  /** The weight of the past in the smoothed lines, 0 for none. */
  smooth = 0;
  /** Scalars with a lane of their own under the chart. */
  lanes = [];
  /** The layers with a line, by name; null: a handful that the page picks. */
  layers = null;

  /** What an address asks for; what it cannot mean is left as it is by itself. */
  static read(search) {
    const look = new Look();
    const given = new URLSearchParams(search);
    for (const [name, choices] of Object.entries(CHOICES)) if (choices.includes(given.get(name))) look[name] = given.get(name);
    const steps = /^(\d{1,16})-(\d{1,16})$/.exec(given.get("steps") ?? "");
    if (steps && Number(steps[1]) < Number(steps[2])) look.range = { low: Number(steps[1]), high: Number(steps[2]) };
    const smooth = Number(given.get("smooth"));
    if (smooth > 0) look.smooth = Math.min(smooth, SMOOTHEST);
    look.lanes = [...new Set(given.getAll("lane"))].filter(Boolean).slice(0, MOST_LANES);
    if (given.has("layer")) look.layers = [...new Set(given.getAll("layer"))].filter(Boolean).slice(0, MOST_LAYERS);
    return look;
  }

  /** The address's query that shows this; `search` is what is there now, and what is not ours in it stays. */
  write(search) {
    const told = new URLSearchParams(search);
    for (const name of [...Object.keys(CHOICES), "steps", "smooth", "lane", "layer"]) told.delete(name);
    for (const [name, choices] of Object.entries(CHOICES)) if (this[name] !== choices[0]) told.set(name, this[name]);
    if (this.range) told.set("steps", `${this.range.low}-${this.range.high}`);
    if (this.smooth) told.set("smooth", String(this.smooth));
    for (const name of this.lanes) told.append("lane", name);
    if (this.layers) for (const name of this.layers.length ? this.layers.slice(0, MOST_LAYERS) : [""]) told.append("layer", name);
    const text = told.toString();
    return text && `?${text}`;
  }
}
