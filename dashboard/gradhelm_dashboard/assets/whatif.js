// What another threshold would have done to steps whose norms are known. Pure.

const EPSILON = Math.fround(1e-6);

/**
 * torch's rule, in its precision: a step is clipped iff float32(max_norm / (norm + 1e-6)) < 1.
 * An infinite norm is clipped (to nothing); with NaN there is no coefficient below 1.
 */
export function isClipped(maxNorm, globalNorm) {
  const below = Math.fround(Math.fround(globalNorm) + EPSILON);
  return Math.fround(Math.fround(maxNorm) / below) < 1;
}

/** How many of `norms` would have been clipped at `maxNorm`. */
export function countClipped(norms, maxNorm) {
  let clipped = 0;
  for (const value of norms) if (isClipped(maxNorm, value)) clipped++;
  return clipped;
}
