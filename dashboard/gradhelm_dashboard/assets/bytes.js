// The two binary forms that the server sends: live frames and series. Pure.

/** "No value here"; every other NaN is one that was measured. Compare as uint32: reading it as a
 * float may lose the pattern. */
export const MISSING = 0x7fc00bad;

function header(buffer) {
  if (buffer.byteLength < 4) throw new RangeError("a message of fewer than 4 bytes");
  const length = new DataView(buffer).getUint32(0, true);
  if (4 + length > buffer.byteLength) throw new RangeError("a header longer than its message");
  const text = new TextDecoder().decode(new Uint8Array(buffer, 4, length));
  return [JSON.parse(text), 4 + length];
}

/**
 * A live frame: header {layout, n, version, sent}, then steps and times as float64 and the values
 * as float32, one row per step. The values come back as bits, so that MISSING survives.
 */
export function readFrame(buffer, width) {
  const [head, at] = header(buffer);
  const n = head.n;
  if (buffer.byteLength !== at + n * 16 + n * width * 4) {
    throw new RangeError(`a frame of ${buffer.byteLength} bytes; ${n} × ${width} values expected`);
  }
  return {
    ...head,
    steps: new Float64Array(buffer, at, n),
    times: new Float64Array(buffer, at + 8 * n, n),
    bits: new Uint32Array(buffer, at + 16 * n, n * width),
  };
}

/** The header alone, to learn which layout a frame has. */
export function frameHeader(buffer) {
  return header(buffer)[0];
}

/**
 * A series: columns as {name: {step, min, mean, max, nonfinite}}. At stride 1 the three are one
 * and the same array, with real NaN and Inf in it; above, non-finite values are only counted.
 */
export function readSeries(buffer) {
  const [head, start] = header(buffer);
  const origin = head.origin ?? head.first;
  const columns = {};
  let at = start;
  const take = (Kind, n) => {
    const part = new Kind(buffer, at, n);
    at += n * 4;
    return part;
  };
  for (const { name, n } of head.columns) {
    const offsets = take(Uint32Array, n);
    const step = Float64Array.from(offsets, (offset) => origin + offset * head.stride);
    if (head.stride === 1) {
      const value = take(Float32Array, n);
      columns[name] = { step, min: value, mean: value, max: value, nonfinite: null };
    } else {
      const [min, mean, max] = [take(Float32Array, n), take(Float32Array, n), take(Float32Array, n)];
      columns[name] = { step, min, mean, max, nonfinite: take(Uint32Array, n) };
    }
  }
  return { first: head.first, last: head.last, stride: head.stride, origin, columns };
}

/** A heatmap answer: its shape is in the response's headers, its bits in the body. */
export function readHeatmap(buffer, headers) {
  const number = (name) => Number(headers.get(`X-Gradhelm-${name}`));
  const [rows, buckets] = [number("Rows"), number("Buckets")];
  const bits = new Uint32Array(buffer);
  if (bits.length !== rows * buckets) throw new RangeError("a heatmap of another shape");
  return { rows, buckets, origin: number("Origin"), stride: number("Stride"), bits };
}
