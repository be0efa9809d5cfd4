// What another threshold would have done to steps whose norms are known. Pure.

const EPSILON = Math.fround(1e-6);

/**
 * torch's rule, in its precision: a step is clipped iff max_norm / (norm + 1e-6) < 1 in float32,
 * where a number divided by a tensor is the tensor's reciprocal times the number. An infinite norm is clipped (to nothing); with NaN there is no coefficient below 1.
 */
export function isClipped(maxNorm, globalNorm) {
  const inverse = Math.fround(1 / Math.fround(Math.fround(globalNorm) + EPSILON));
  return Math.fround(inverse * Math.fround(maxNorm)) < 1;
}

/** How many of `norms` would have been clipped at `maxNorm`. */
export function countClipped(norms, maxNorm) {
  let clipped = 0;
  for (const value of norms) if (isClipped(maxNorm, value)) clipped++;
  return clipped;
}

/** `count` thresholds from `min` to `max`, evenly apart on a logarithmic scale. */
export function ladder(min, max, count = 60) {
  const [low, high] = [Math.log10(min), Math.log10(max)];
  return Array.from({ length: count }, (_, i) => (i === 0 ? min : i === count - 1 ? max : 10 ** (low + ((high - low) * i) / (count - 1))));
}

/**
 * The same count for each of many thresholds. A larger norm is clipped whenever a smaller one is,
 * so once they are in order a search for the first one that is will do.
 */
export function countsClipped(norms, thresholds) {
  const ranked = Float32Array.from(norms).filter((value) => !Number.isNaN(value)).sort();
  return thresholds.map((threshold) => {
    let [low, high] = [0, ranked.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isClipped(threshold, ranked[middle])) high = middle;
      else low = middle + 1;
    }
    return ranked.length - low;
  });
}
