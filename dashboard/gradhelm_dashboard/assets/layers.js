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

/** A name without what all deep layers have in common: "transformer.h.11.mlp.fc.weight" → "11.mlp.fc.weight". */
export function shortName(name) {
  const parts = name.split(".");
  const at = parts.findIndex((part) => /^\d+$/.test(part));
  return at > 0 ? parts.slice(at).join(".") : name;
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

/** Mean squares of each layer's norms over the newest steps; one step alone would make a list jump about. */
export function recentSquares(matrix, steps = 20) {
  const squares = new Float64Array(matrix.rows);
  for (let i = Math.max(0, matrix.length - steps); i < matrix.length; i++) {
    const norms = matrix.normsOf(i);
    for (let j = 0; j < norms.length; j++) if (Number.isFinite(norms[j])) squares[j] += norms[j] * norms[j];
  }
  return squares;
}

/**
 * A test of names from what somebody typed: a part of the name, or /a regular expression/. `wrong`
 * says what is wrong with the expression; then nothing matches.
 */
export function matcher(text) {
  const wanted = text.trim();
  const expression = /^\/(.+?)\/?$/.exec(wanted);
  if (!expression) {
    const part = wanted.toLowerCase();
    return { match: (name) => name.toLowerCase().includes(part), wrong: null };
  }
  try {
    const regular = new RegExp(expression[1], "i");
    return { match: (name) => regular.test(name), wrong: null };
  } catch (error) {
    return { match: () => false, wrong: error.message.replace(/^Invalid regular expression: /, "") };
  }
}

/**
 * The layers in the order of a list: by "share" of the squared norm, "name", or "depth" (as they
 * were declared); `grouped` by kind of module, of which the largest in this order comes first.
 */
export function ranked(names, squares, sort, grouped) {
  const rows = names.map((_, row) => row);
  if (sort === "share") rows.sort((a, b) => (squares[b] ?? 0) - (squares[a] ?? 0) || a - b);
  if (sort === "name") rows.sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true }));
  if (!grouped) return rows.map((row) => ({ row }));
  const kinds = new Map();
  for (const row of rows) {
    const kind = parse(names[row]).kind ?? "";
    if (!kinds.has(kind)) kinds.set(kind, []);
    kinds.get(kind).push({ row, kind });
  }
  return [...kinds.values()].flat();
}
