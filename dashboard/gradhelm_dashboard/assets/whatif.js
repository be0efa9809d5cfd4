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
