// The layers that hold most of the gradient: their share of the squared norm.

import { $, attribute, make, say } from "./dom.js";
import * as numbers from "./numbers.js";
import { shares } from "./layers.js";

const LINES = 10;

/** Mean squares over the newest steps; one step alone would make the list jump about. */
export function recentShares(matrix, steps = 20) {
  const squares = new Float64Array(matrix.rows);
  for (let i = Math.max(0, matrix.length - steps); i < matrix.length; i++) {
    const norms = matrix.normsOf(i);
    for (let j = 0; j < norms.length; j++) if (Number.isFinite(norms[j])) squares[j] += norms[j] * norms[j];
  }
  return shares(squares.map(Math.sqrt));
}

/** Fills the list; `drawn` are the layers on the chart, `toggle(index)` changes that. */
export function renderHot(matrix, names, drawn, toggle) {
  const list = $("hot-list");
  if (!list) return;
  const hottest = recentShares(matrix).slice(0, LINES);
  while (list.children.length < hottest.length) {
    const fill = make("div", { class: "accent" });
    const button = make("button", { type: "button", class: "hot" },
      make("span", { class: "mono name" }, make("bdi")), make("span", { class: "bar" }, fill), make("span", { class: "num share" }));
    button.addEventListener("click", () => toggle(Number(button.dataset.row)));
    list.append(button);
  }
  while (list.children.length > hottest.length) list.lastChild.remove();
  const largest = hottest[0]?.share ?? 1;
  hottest.forEach(({ index, share }, i) => {
    const button = list.children[i];
    attribute(button, "data-row", String(index));
    attribute(button, "aria-pressed", String(drawn.has(index)));
    attribute(button, "title", names[index] ?? "");
    say(button.children[0].firstChild, names[index] ?? "");
    button.children[1].firstChild.style.width = `${(100 * share) / largest}%`;
    say(button.children[2], numbers.percent(share));
  });
}
