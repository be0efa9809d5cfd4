// What is usual among values: the ranges and percentiles that charts are drawn to. Pure.

/** The value below which `share` of `sorted` lies. */
export function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * share) - 1))];
}

/**
 * A lane's y axis, {low, high, logarithmic}: what is finite, but for the hundredth that lies farthest
 * out, with a little room. Logarithmic where `mayBeLog` and the values span more than a decade and a half.
 */
export function laneRange(values, mayBeLog = false) {
  const sorted = values.filter((value) => value !== null && Number.isFinite(value)).sort((a, b) => a - b);
  if (!sorted.length) return { low: 0, high: 1, logarithmic: false };
  const [low, high] = sorted.length < 20 ? [sorted[0], sorted.at(-1)] : [percentile(sorted, 0.005), percentile(sorted, 0.995)];
  if (mayBeLog && sorted[0] > 0 && high > 30 * low) return { low: low / 1.3, high: high * 1.3, logarithmic: true };
  const room = (high - low) * 0.08 || Math.abs(high) * 0.08 || 1;
  return { low: low - room, high: high + room, logarithmic: false };
}

/**
 * Finite positive `values` counted in `bins` of equal ratio between the smallest and the largest:
 * {low, high (logarithms to base 10), counts, total, nonfinite}; null where none is.
 */
export function logHistogram(values, bins) {
  let [low, high, nonfinite] = [Infinity, -Infinity, 0];
  const logs = [];
  for (const value of values) {
    if (!Number.isFinite(value)) nonfinite++;
    else if (value > 0) {
      const log = Math.log10(value);
      logs.push(log);
      if (log < low) low = log;
      if (log > high) high = log;
    }
  }
  if (!logs.length) return null;
  if (high - low < 0.1) [low, high] = [(low + high) / 2 - 0.05, (low + high) / 2 + 0.05];
  const counts = new Array(bins).fill(0);
  for (const log of logs) counts[Math.min(bins - 1, Math.floor(((log - low) / (high - low)) * bins))]++;
  return { low, high, counts, total: logs.length, nonfinite };
}
