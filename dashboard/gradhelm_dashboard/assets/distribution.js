// How the global norms of the steps in view are distributed, with the threshold among them.

import { $, attribute, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { logHistogram, percentile } from "./ranges.js";

const BINS = 48;
const MARKS = [["median", 0.5], ["p90", 0.9], ["p99", 0.99]];

/**
 * Fills the card. `norms`: those in view; `stride`: how many steps each stands for (its mean);
 * `threshold`: in force at the newest of them, or null.
 */
export function renderDistribution(norms, stride, threshold) {
  const place = $("distribution");
  if (!place) return;
  const found = logHistogram(norms, BINS);
  show("distribution-card", found !== null);
  if (!found) return;
  const sorted = norms.filter((value) => Number.isFinite(value) && value > 0).sort((a, b) => a - b);
  const low = Math.min(found.low, threshold > 0 ? Math.max(Math.log10(threshold), found.low - 1) - 0.02 : found.low);
  const high = Math.max(found.high, threshold > 0 ? Math.min(Math.log10(threshold), found.high + 1) + 0.02 : found.high);
  const at = (log) => (100 * (log - low)) / (high - low);
  const most = Math.max(...found.counts);
  const wide = (at(found.high) - at(found.low)) / BINS;
  bars(place, found, (i) => ({ left: at(found.low) + i * wide, wide, tall: (100 * found.counts[i]) / most }), threshold);
  const marks = MARKS.map(([name, share]) => ({ name, value: percentile(sorted, share) }));
  const line = $("distribution-threshold");
  const shown = threshold > 0 && Math.log10(threshold) >= low && Math.log10(threshold) <= high;
  show(line, shown);
  if (shown) line.style.left = `${at(Math.log10(threshold))}%`;
  axis(low, high, at);
  const above = threshold > 0 ? sorted.filter((value) => value > threshold).length / sorted.length : null;
  const words = [
    ...marks.map(({ name, value }) => [name, numbers.norm(value)]),
    ["largest", numbers.norm(sorted.at(-1))],
    ...(above === null ? [] : [["above the threshold", numbers.percent(above)]]),
  ];
  const list = $("distribution-words");
  const key = JSON.stringify(words);
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...words.map(([name, value]) => make("span", {}, `${name} `, make("b", { class: "num" }, value))));
    attribute(place, "aria-label", `Distribution of the global norm: ${words.map((word) => word.join(" ")).join(", ")}`);
  }
  const many = `${numbers.count(norms.length)} ${stride > 1 ? `means of ${numbers.count(stride)} steps` : norms.length === 1 ? "step" : "steps"}`;
  say("distribution-of", found.nonfinite ? `${many}, ${numbers.count(found.nonfinite)} not finite` : many);
}

function bars(place, { low, high, counts }, box, threshold) {
  while (place.childElementCount > counts.length) place.lastChild.remove();
  while (place.childElementCount < counts.length) place.append(make("div"));
  const edge = (i) => 10 ** (low + (i * (high - low)) / counts.length);
  counts.forEach((count, i) => {
    const bar = place.children[i];
    const { left, wide, tall } = box(i);
    bar.style.cssText = `left:${left.toFixed(2)}%;width:${wide.toFixed(2)}%;height:${tall.toFixed(1)}%`;
    attribute(bar, "class", threshold > 0 && edge(i) >= threshold ? "over" : null);
    attribute(bar, "title", count ? `${numbers.norm(edge(i))} to ${numbers.norm(edge(i + 1))}: ${numbers.count(count)}` : null);
  });
}

function axis(low, high, at) {
  const place = $("distribution-axis");
  const ticks = numbers.logTicks(10 ** low, 10 ** high, 6);
  const key = ticks.map((tick) => `${tick} ${at(Math.log10(tick)).toFixed(1)}`).join();
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...ticks.map((tick) => {
    const mark = make("span", {}, numbers.tick(tick));
    mark.style.left = `${at(Math.log10(tick))}%`;
    return mark;
  }));
}
