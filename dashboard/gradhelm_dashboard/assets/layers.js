// What parameter names tell: which kind of module, and how deep. Pure.

/** "transformer.h.11.mlp.fc.weight" → {kind: "mlp.fc", depth: 11}; no number, no kind. */
export function parse(name) {
  const parts = name.split(".");
  const at = parts.findIndex((part) => /^\d+$/.test(part));
  const tail = parts.at(-1);
  if (at < 0) return { kind: null, depth: null };
  const words = parts.slice(at + 1);
  if (words.length > 1 && words.at(-1) === "weight") words.pop();
  const kind = words.length > 1 && tail === "bias"
    ? `${words.slice(0, -1).join(".")} bias`
    : words.join(".");
  return { kind, depth: Number(parts[at]) };
}

/**
 * Rows of the layer map: by kind of module, inside it in order of declaration, which is depth.
 * What stands alone (embeddings, heads) goes together at the top.
 */
export function arrange(names) {
  const kinds = new Map();
  names.forEach((name, index) => {
    const { kind } = parse(name);
    const key = kind ?? "";
    if (!kinds.has(key)) kinds.set(key, []);
    kinds.get(key).push(index);
  });
  const alone = [...(kinds.get("") ?? [])];
  const groups = [];
  for (const [kind, rows] of kinds) {
    if (kind === "") continue;
    if (rows.length === 1) alone.push(rows[0]);
    else groups.push({ label: kind, rows });
  }
  alone.sort((a, b) => a - b);
  if (alone.length) groups.unshift({ label: groups.length ? "other" : "", rows: alone });
  const order = groups.flatMap((group) => group.rows);
  return { order, groups };
}

/** A handful of layers for the chart: spread over the depth of the largest kind. */
export function handful(names, most = 8) {
  const { groups } = arrange(names);
  if (!groups.length) return { label: "", rows: [] };
  const named = groups.filter((group) => group.label && group.label !== "other");
  const pick = (named.length ? named : groups).reduce((a, b) => (b.rows.length > a.rows.length ? b : a));
  return { label: pick.label, rows: spread(pick.rows, most) };
}

/** At most `most` of `rows`, the first and the last among them. */
export function spread(rows, most) {
  if (rows.length <= most) return [...rows];
  return Array.from({ length: most }, (_, i) => rows[Math.round((i * (rows.length - 1)) / (most - 1))]);
}

/** Shares of the squared norm, largest first; null where the step holds no finite norm. */
export function shares(values) {
  let total = 0;
  for (const value of values) if (Number.isFinite(value)) total += value * value;
  if (!(total > 0)) return [];
  return Array.from(values, (value, index) => ({ index, share: (value * value) / total }))
    .filter(({ share }) => Number.isFinite(share))
    .sort((a, b) => b.share - a.share);
}
