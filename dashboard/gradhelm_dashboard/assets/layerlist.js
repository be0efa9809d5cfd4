// All layers: which of them hold most of the gradient, how each has been doing, and which have a line
// on the chart.

import { $, attribute, make, say, show } from "./dom.js";
import { arrange, matcher, ranked, recentSquares, shortName } from "./layers.js";
import * as numbers from "./numbers.js";
import { sparkPath, thinned } from "./spark.js";

const SHOWN = 40;
const SPARK = [64, 18];
/** Milliseconds between two looks at the sparklines: they cost more than the numbers. */
const CALM = 1000;

export class LayerList {
  #rows = new Map();
  #shown = SHOWN;
  #sparked = 0;
  #kindsOf = null;

  /** `on`: {names(), matrix(), drawn() → Set, toggle(row), choose(rows, label)}. */
  constructor(on) {
    this.on = on;
    $("layer-tools")?.replaceChildren(...this.#tools());
    $("layer-more")?.addEventListener("click", () => {
      this.#shown += 4 * SHOWN;
      this.render();
    });
  }

  #tools() {
    const again = () => this.#again();
    const choice = (attributes, choices) => make("select", { class: "field", onchange: again, ...attributes },
      ...choices.map(([value, text]) => make("option", { value }, text)));
    return [
      make("input", { type: "search", id: "layer-search", class: "field", placeholder: "Find layers, or /regex/", "aria-label": "Find layers by a part of the name, or by /regular expression/", "aria-describedby": "layer-wrong", oninput: again }),
      make("div", { id: "layer-wrong", class: "bad-text small", role: "status" }),
      make("div", { class: "choices" },
        choice({ id: "layer-sort", "aria-label": "Order of the layers" }, [["share", "Largest share"], ["depth", "As declared"], ["name", "By name"]]),
        choice({ id: "layer-group", "aria-label": "Groups of the layers" }, [["", "One list"], ["kind", "By module"]])),
      make("div", { id: "layer-kinds", class: "kinds", role: "group", "aria-label": "Draw all layers of a kind" }),
    ];
  }

  /** Another choice: the list from its top. */
  #again() {
    this.#shown = SHOWN;
    this.#sparked = 0;
    this.render();
  }

  render() {
    const list = $("layer-list");
    const names = this.on.names();
    const matrix = this.on.matrix();
    show("layers-card", names.length > 0);
    if (!list || !names.length) return;
    this.#kinds(names);
    const { match, wrong } = matcher($("layer-search").value);
    say("layer-wrong", wrong ?? "");
    attribute("layer-search", "aria-invalid", wrong ? "true" : null);
    const squares = recentSquares(matrix);
    const total = squares.reduce((a, b) => a + b, 0);
    const found = ranked(names, squares, $("layer-sort").value, $("layer-group").value === "kind").filter(({ row }) => match(names[row]));
    const drawn = this.on.drawn();
    const part = found.slice(0, this.#shown);
    const spark = performance.now() - this.#sparked > CALM;
    if (spark) this.#sparked = performance.now();
    let group = null;
    const items = [];
    for (const { row, kind } of part) {
      if (kind !== undefined && kind !== group) {
        group = kind;
        items.push(this.#head(kind));
      }
      const item = this.#item(row, names[row]);
      attribute(item.root, "aria-pressed", String(drawn.has(row)));
      say(item.share, total > 0 ? numbers.percent(squares[row] / total) : "–");
      const norm = matrix.length ? matrix.norms[(matrix.length - 1) * matrix.rows + row] : undefined;
      attribute(item.root, "title", `${names[row]}${Number.isFinite(norm) ? `, norm ${numbers.norm(norm)}` : ""}`);
      if (spark || !item.line.getAttribute("d")) item.line.setAttribute("d", sparkPath(history(matrix, row), ...SPARK));
      items.push(item.root);
    }
    // The nodes that stay are left alone, or a focused one would lose it.
    items.forEach((item, i) => list.children[i] !== item && list.insertBefore(item, list.children[i] ?? null));
    while (list.childElementCount > items.length) list.lastChild.remove();
    say("layer-count", wrong ? "" : found.length === names.length ? numbers.count(names.length) : `${numbers.count(found.length)} of ${numbers.count(names.length)}`);
    show("layer-more", found.length > part.length);
    say("layer-more", `Show ${numbers.count(Math.min(4 * SHOWN, found.length - part.length))} more`);
    show("layer-nothing", !found.length && !wrong);
  }

  #kinds(names) {
    if (this.#kindsOf === names) return;
    this.#kindsOf = names;
    const kinds = arrange(names).groups.filter(({ label }) => label);
    const none = make("button", { type: "button", class: "kind", onclick: () => this.on.choose([], "") }, "No lines");
    $("layer-kinds").replaceChildren(none, ...kinds.slice(0, 24).map(({ label, rows }) =>
      make("button", { type: "button", class: "kind", title: `Draw ${label}`, onclick: () => this.on.choose(rows, label) }, label)));
  }

  #head(kind) {
    const key = `head ${kind}`;
    if (!this.#rows.has(key)) this.#rows.set(key, make("h3", { class: "layer-kind" }, kind || "other"));
    return this.#rows.get(key);
  }

  #item(row, name) {
    const known = this.#rows.get(row);
    if (known?.name === name) return known;
    const share = make("span", { class: "num share" });
    const space = "http://www.w3.org/2000/svg";
    const spark = document.createElementNS(space, "svg");
    const line = document.createElementNS(space, "path");
    spark.setAttribute("viewBox", `0 0 ${SPARK.join(" ")}`);
    spark.setAttribute("class", "spark-small");
    spark.setAttribute("aria-hidden", "true");
    spark.append(line);
    const root = make("button", { type: "button", class: "hot", onclick: () => this.on.toggle(row) },
      make("span", { class: "pin", "aria-hidden": "true" }), make("span", { class: "mono name" }, make("bdi", {}, shortName(name))),
      spark, share);
    const item = { name, root, share, line };
    this.#rows.set(row, item);
    return item;
  }
}

/** A layer's norms at the newest steps, on a logarithmic scale. */
function history(matrix, row) {
  const values = [];
  for (let i = Math.max(0, matrix.length - 500); i < matrix.length; i++) {
    const value = matrix.norms[i * matrix.rows + row];
    values.push(value > 0 ? Math.log10(value) : NaN);
  }
  return thinned(values, SPARK[0]);
}
