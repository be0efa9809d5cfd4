// How the configurations of runs differ. Pure.

const MOST_KEYS = 2000;

/** A configuration as [[key, text]]: what is inside objects gets a dotted key. */
export function flattened(config, prefix = "", found = new Map()) {
  for (const [key, value] of Object.entries(config ?? {})) {
    const name = prefix ? `${prefix}.${key}` : key;
    if (found.size >= MOST_KEYS) break;
    if (value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) flattened(value, name, found);
    else found.set(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return found;
}

/**
 * Rows of a table of differences: [{key, values, differs}] in the order in which the keys come, a
 * value for each of `configs`; undefined where a run has no such key.
 */
export function differences(configs) {
  const flat = configs.map((config) => flattened(config));
  const keys = [...new Set(flat.flatMap((one) => [...one.keys()]))];
  return keys.map((key) => {
    const values = flat.map((one) => one.get(key));
    return { key, values, differs: values.some((value) => value !== values[0]) };
  });
}
