// When steps were taken: from a step to the seconds since a run began, and back; and how such spans
// are written. Pure.

/**
 * `times`: {step, elapsed}, some steps of a run and the seconds since its first. A clock that was set
 * back must not make a line run back, so the seconds never decrease here.
 */
export function clock({ step, elapsed }) {
  let last = 0;
  const seconds = elapsed.map((value) => (last = Math.max(last, value)));
  const between = (from, to, at) => {
    if (!from.length) return 0;
    if (from.length === 1 || at <= from[0]) return to[0];
    let [low, high] = [0, from.length - 1];
    if (at >= from[high]) {
      // Beyond what is known it goes on as it went at last.
      const width = from[high] - from[0];
      return to[high] + (width > 0 ? ((at - from[high]) * (to[high] - to[0])) / width : 0);
    }
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (from[middle] <= at) low = middle;
      else high = middle;
    }
    const width = from[high] - from[low];
    return to[low] + (width > 0 ? ((at - from[low]) * (to[high] - to[low])) / width : 0);
  };
  return {
    secondsAt: (at) => between(step, seconds, at),
    stepAt: (at) => between(seconds, step, at),
    known: step.length > 0,
  };
}

const NICE = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

/** Ticks of an axis of seconds: at full minutes, hours and days where it is long. */
export function timeTicks(low, high, most) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, most);
  let step = NICE.find((seconds) => seconds >= rough);
  if (rough < 1) {
    const power = 10 ** Math.floor(Math.log10(rough));
    step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  }
  if (!step) {
    const days = rough / 86_400;
    const power = 10 ** Math.floor(Math.log10(days));
    step = 86_400 * [1, 2, 5, 10].map((n) => n * power).find((n) => n >= days * 0.999);
  }
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** A span of seconds as people say it: 0.5 s, 45 s, 2 min 30 s, 1 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 59.5) return `${seconds < 10 ? Number(seconds.toPrecision(2)) : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  for (const [size, unit, small, smaller] of [[86_400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / small);
    return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
  }
  return "–";
}
