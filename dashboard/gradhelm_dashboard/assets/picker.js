// The choice of layers that have a line on the chart: whole kinds by one press, single ones by name.

import { make, say } from "./dom.js";
import { arrange } from "./layers.js";

const MOST = 60;

export class Picker {
  #root = null;

  /** `on`: {names(), drawn() → Set, toggle(row), choose(rows, label)}. */
  constructor(on) {
    this.on = on;
  }

  element() {
    if (this.#root) return this.#root;
    this.summary = make("summary", {}, "Layers");
    this.search = make("input", { type: "search", placeholder: "Find a layer", "aria-label": "Find a layer", class: "field" });
    this.kinds = make("div", { class: "kinds", role: "group", "aria-label": "Kinds of modules" });
    this.list = make("div", { class: "layers", role: "group", "aria-label": "Layers" });
    const none = make("button", { type: "button", class: "kind", onclick: () => this.on.choose([], "") }, "None");
    this.none = none;
    this.#root = make("details", { class: "picker" }, this.summary, make("div", { class: "picker-body" }, this.search, this.kinds, this.list));
    this.search.addEventListener("input", () => this.#fill());
    this.#root.addEventListener("toggle", () => this.#root.open && this.#fill());
    document.addEventListener("click", ({ target }) => {
      if (this.#root.open && !this.#root.contains(target)) this.#root.open = false;
    });
    this.#root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#root.open) return;
      event.stopPropagation();
      this.#root.open = false;
      this.summary.focus();
    });
    this.refresh();
    return this.#root;
  }

  refresh() {
    if (!this.#root) return;
    const drawn = this.on.drawn();
    say(this.summary, `Layers (${drawn.size})`);
    for (const box of this.list.querySelectorAll("input")) box.checked = drawn.has(Number(box.value));
  }

  #fill() {
    const names = this.on.names();
    const { groups } = arrange(names);
    const kinds = groups.filter((group) => group.label);
    this.kinds.replaceChildren(this.none, ...kinds.slice(0, 24).map((group) =>
      make("button", { type: "button", class: "kind", onclick: () => this.on.choose(group.rows, group.label) }, group.label)));
    const wanted = this.search.value.trim().toLowerCase();
    const found = names.map((name, row) => ({ name, row })).filter(({ name }) => name.toLowerCase().includes(wanted));
    const drawn = this.on.drawn();
    found.sort((a, b) => Number(drawn.has(b.row)) - Number(drawn.has(a.row)) || a.row - b.row);
    this.list.replaceChildren(...found.slice(0, MOST).map(({ name, row }) => {
      const box = make("input", { type: "checkbox", value: row });
      box.checked = drawn.has(row);
      box.addEventListener("change", () => this.on.toggle(row));
      return make("label", { class: "mono", title: name }, box, name);
    }), found.length > MOST ? make("p", { class: "hint" }, `and ${found.length - MOST} more; type to find them`) : "");
  }
}
