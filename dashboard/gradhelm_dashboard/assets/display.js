// The menu of how the charts are drawn: smoothing, lanes for scalars, a step to go to.

import { $, make, say, show } from "./dom.js";
import { MOST_LANES } from "./look.js";

/** Drawn anyhow. */
const DRAWN = new Set(["global_norm", "threshold", "clipped", "nonfinite", "skipped"]);
const MOST = 60;

export class Display {
  #key = "";

  /** `on`: {scalars(), look, changed(), go(step)}. */
  constructor(on) {
    this.on = on;
    const menu = this.menu = this.#make();
    $("display-place").replaceChildren(menu);
    const slider = $("smooth-choice");
    slider.value = on.look.smooth;
    slider.addEventListener("input", () => {
      on.look.smooth = Number(slider.value);
      this.render();
      on.changed();
    });
    $("lane-search").addEventListener("input", () => this.render());
    menu.addEventListener("toggle", () => menu.open && this.render());
    document.addEventListener("click", ({ target }) => {
      if (menu.open && !menu.contains(target)) menu.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      event.stopPropagation();
      menu.open = false;
      menu.querySelector("summary").focus();
    });
    $("goto-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const step = Number($("goto-step").value);
      if (!Number.isSafeInteger(step) || step < 0) return;
      menu.open = false;
      on.go(step);
    });
    this.render();
  }

  #make() {
    return make("details", { class: "picker", id: "display-menu" },
      make("summary", {}, "Display"),
      make("div", { class: "picker-body right" },
        make("label", { for: "smooth-choice", class: "menu-title" }, "Smoothing ", make("span", { id: "smooth-value", class: "num faint" })),
        make("input", { type: "range", id: "smooth-choice", min: 0, max: 0.99, step: 0.01 }),
        make("div", { class: "menu-title" }, "Lanes under the chart"),
        make("input", { type: "search", id: "lane-search", class: "field", placeholder: "Find a scalar", "aria-label": "Find a scalar", hidden: true }),
        make("div", { id: "lane-list", class: "layers", role: "group", "aria-label": "Lanes under the chart" }),
        make("p", { id: "lane-none", class: "hint", hidden: true }, "This run tells of no other scalar. ", make("code", {}, "run.log(loss=loss)"), " adds one."),
        make("form", { id: "goto-form", class: "goto" },
          make("label", { for: "goto-step", class: "menu-title" }, "Go to step"),
          make("input", { id: "goto-step", class: "field", inputmode: "numeric", pattern: "[0-9]+", required: true, title: "A whole number" }),
          make("button", { type: "submit", class: "button small" }, "Go"))));
  }

  render() {
    const { look, scalars } = this.on;
    say("smooth-value", look.smooth ? String(look.smooth) : "off");
    const wanted = $("lane-search").value.trim().toLowerCase();
    const names = scalars().filter((name) => !DRAWN.has(name));
    show("lane-search", names.length > 8);
    const found = names.filter((name) => name.toLowerCase().includes(wanted)).slice(0, MOST);
    const list = $("lane-list");
    const key = JSON.stringify(found);
    if (key !== this.#key) {
      this.#key = key;
      show("lane-none", !names.length);
      list.replaceChildren(...found.map((name) => make("label", { class: "mono", title: name },
        make("input", { type: "checkbox", value: name, onchange: () => this.toggle(name) }), name)));
    }
    // Changed in place: a box that is pressed keeps the focus.
    for (const box of list.querySelectorAll("input")) {
      box.checked = look.lanes.includes(box.value);
      box.disabled = !box.checked && look.lanes.length >= MOST_LANES;
    }
  }

  toggle(name) {
    const { look, changed } = this.on;
    look.lanes = look.lanes.includes(name) ? look.lanes.filter((lane) => lane !== name) : [...look.lanes, name];
    this.render();
    changed();
  }
}
