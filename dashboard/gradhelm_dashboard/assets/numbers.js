// How numbers, times and axes are written. Pure.

const group = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** A step or a count: 49,451. */
export function count(value) {
  return value === null || value === undefined ? "–" : group.format(value);
}

/** A norm, at the length of a glance: 0.84, 12.3, 1,234, 1.2e-4. */
export function norm(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Inf" : "−Inf";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return group.format(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 0.1) return value.toFixed(2);
  return value.toPrecision(2);
}

/** A threshold: to four figures, at least two decimals, without float32's tail. */
export function threshold(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return "∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return String(Number(value.toPrecision(3)));
  const short = Number(value.toPrecision(4));
  const text = String(short);
  const decimals = text.includes(".") ? text.length - text.indexOf(".") - 1 : 0;
  if (size >= 1000) return short.toLocaleString("en-US");
  return decimals < 2 && size < 100 ? short.toFixed(2) : text;
}

/** A share as percent, always with one decimal so that columns of them line up. */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${(share * 100).toFixed(1)} %`;
}

/** A large count in one word: 312 k. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${(value / size).toPrecision(3).replace(/\.?0+$/, "")} ${letter}`;
  }
  return value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1);
}

/** How long ago `then` was; both in milliseconds. */
export function ago(then, now) {
  const seconds = Math.max(0, (now - then) / 1000);
  if (seconds < 3) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 2 * 86400) return "yesterday";
  return `${Math.floor(seconds / 86400)} days ago`;
}

/** How long it is until `then`, in milliseconds as `now`: "in 6 days", "in 3 h", "now". */
export function until(then, now) {
  const seconds = (then - now) / 1000;
  if (seconds < 1) return "now";
  for (const [size, word] of [[86400, "days"], [3600, "h"], [60, "min"]]) if (seconds >= 2 * size) return `in ${Math.round(seconds / size)} ${word}`;
  return `in ${Math.ceil(seconds)} s`;
}

/** A short span: 182 ms, 2.4 s. */
export function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** Microseconds as people say them. */
export function micros(us) {
  if (us === null || us === undefined || !Number.isFinite(us)) return "–";
  return us < 1000 ? `${us < 10 ? us.toFixed(1) : us.toFixed(0)} µs` : `${(us / 1000).toFixed(1)} ms`;
}

/** Ticks of a linear axis: round numbers, at most `most` of them. */
export function linearTicks(low, high, most) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

/** Ticks of a logarithmic axis: decades, and 2 and 5 where there are few decades. */
export function logTicks(low, high, most = 8) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const decades = last - first;
  const within = (v) => v >= low * 0.9999 && v <= high * 1.0001;
  for (const parts of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let e = first; e <= last; e++) {
      for (const part of parts) ticks.push(Number(`${part}e${e}`));
    }
    const kept = ticks.filter(within);
    if (kept.length <= most) return kept.length >= 2 || decades > 1 ? kept : linearTicks(low, high, 4);
  }
  const every = Math.ceil((decades + 1) / most);
  const ticks = [];
  for (let e = first; e <= last; e++) if (e % every === 0) ticks.push(Number(`1e${e}`));
  return ticks.filter(within);
}

/** A tick's label, short enough for a phone's margin: 1e4, 1,000, 1, 0.1, 0.01, then 1e-4. */
export function tick(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e4 || size < 1e-3) return value.toExponential().replace("e+", "e");
  return size >= 1000 ? group.format(value) : String(Number(value.toPrecision(4)));
}

/**
 * The range of a norm axis, in steps large enough that it does not tremble with every new point.
 * Null when nothing finite and positive is there to be shown.
 */
export function axisRange(low, high, logarithmic) {
  if (!(high > 0)) return null;
  if (!logarithmic) {
    const top = linearTicks(0, high * 1.12, 5);
    const step = top.length > 1 ? top[1] - top[0] : high;
    return [0, Math.ceil((high * 1.12) / step) * step];
  }
  const floor = low > 0 ? low : high / 10;
  const down = Math.floor((Math.log10(floor) - 0.08) * 4) / 4;
  const up = Math.ceil((Math.log10(high) + 0.12) * 4) / 4;
  return [10 ** down, 10 ** Math.max(up, down + 0.5)];
}

/** The position of a value on the logarithmic slider, and back to a value people would type. */
export const toSlider = (value) => Math.log10(value);
export function fromSlider(position) {
  return Number((10 ** position).toPrecision(3));
}
