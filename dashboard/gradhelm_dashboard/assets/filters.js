// Which runs the table shows, and in which order. It lives in the address, so that a link shows the
// same to somebody else. Pure.

export const STATUSES = ["live", "stale", "failed", "finished", "stopped"];
/** Columns that a table may be sorted by. */
export const SORTS = ["status", "name", "last_step", "global_norm", "threshold", "clip_fraction", "nonfinite", "created_at"];
const ORDERS = ["asc", "desc"];

export class Filters {
  /** Words that a run's name, project, id, note or one of its tags must have. */
  words = "";
  /** null: whatever it is. */
  status = null;
  project = null;
  tag = null;
  /** {by, order}; null: newest first. */
  sort = null;

  /** What an address asks for; what it cannot mean is left as it is by itself. */
  static read(search) {
    const filters = new Filters();
    const given = new URLSearchParams(search);
    filters.words = (given.get("q") ?? "").slice(0, 200);
    if (STATUSES.includes(given.get("status"))) filters.status = given.get("status");
    for (const name of ["project", "tag"]) filters[name] = given.get(name) || null;
    const [, by, order] = /^(\w+)\.(\w+)$/.exec(given.get("sort") ?? "") ?? [];
    if (SORTS.includes(by) && ORDERS.includes(order)) filters.sort = { by, order };
    return filters;
  }

  /** The address's query that asks for this; `search` is what is there now, and what is not ours in it stays. */
  write(search) {
    const told = new URLSearchParams(search);
    const mine = {
      q: this.words.trim(), status: this.status, project: this.project, tag: this.tag,
      sort: this.sort && `${this.sort.by}.${this.sort.order}`,
    };
    for (const [name, value] of Object.entries(mine)) {
      if (value) told.set(name, value);
      else told.delete(name);
    }
    const text = told.toString();
    return text && `?${text}`;
  }

  /** Whether anything is left out by these. */
  get any() {
    return Boolean(this.words.trim() || this.status || this.project !== null || this.tag !== null);
  }

  /** Whether a run is shown; `but` names a filter that is not looked at. */
  matches(run, but = "") {
    if (but !== "status" && this.status && run.status !== this.status) return false;
    if (but !== "project" && this.project !== null && run.project !== this.project) return false;
    if (but !== "tag" && this.tag !== null && !(run.tags ?? []).includes(this.tag)) return false;
    const texts = [run.name, run.project, run.id, run.note, ...(run.tags ?? [])].map((text) => String(text ?? "").toLowerCase());
    // Each word somewhere: "gpt lr" finds the run gpt-2 with the tag lr-sweep.
    return this.words.toLowerCase().split(/\s+/).filter(Boolean).every((word) => texts.some((text) => text.includes(word)));
  }

  /**
   * What one may choose of: {status, project, tag}, each a list of {value, count}, where `count` is
   * how many runs that choice would show beside the other filters. What is chosen is always there.
   */
  choices(runs) {
    const count = (name, valuesOf) => {
      const found = new Map();
      for (const run of runs) for (const value of valuesOf(run)) found.set(value, (found.get(value) ?? 0) + (this.matches(run, name) ? 1 : 0));
      if (this[name] !== null && !found.has(this[name])) found.set(this[name], 0);
      return [...found].map(([value, shown]) => ({ value, count: shown }));
    };
    const byName = (a, b) => a.value.localeCompare(b.value, "en", { numeric: true });
    return {
      status: count("status", (run) => [run.status]).sort((a, b) => STATUSES.indexOf(a.value) - STATUSES.indexOf(b.value)),
      project: count("project", (run) => [run.project ?? ""]).sort(byName),
      tag: count("tag", (run) => new Set(run.tags ?? [])).sort(byName),
    };
  }
}
