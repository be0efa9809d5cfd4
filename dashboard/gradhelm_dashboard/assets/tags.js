// Tags as people type them. Pure.

/** The server's limits. */
export const MOST_TAGS = 64;
export const LONGEST = 200;

/** `tags` and what was typed, which may be several with commas between them; each once, in order. */
export function withTyped(tags, typed) {
  const fresh = typed.split(",").map((text) => text.trim().replaceAll("\0", "").slice(0, LONGEST)).filter(Boolean);
  return [...new Set([...tags, ...fresh])].slice(0, MOST_TAGS);
}

/** What of {name, tags, note} is not as `run` has it, to be sent; null when nothing is. */
export function changed(run, { name, tags, note }) {
  const found = {};
  if (name !== run.name) found.name = name;
  if (JSON.stringify(tags) !== JSON.stringify(run.tags ?? [])) found.tags = tags;
  if (note !== (run.note ?? "")) found.note = note;
  return Object.keys(found).length ? found : null;
}
