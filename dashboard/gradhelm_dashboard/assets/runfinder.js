// A field that finds runs by name, and a list under it to pick from.

import { getRuns } from "./api.js";
import { STATUS, icon, make, show } from "./dom.js";
import * as numbers from "./numbers.js";

const WAIT = 200;
const MOST = 8;

export class RunFinder {
  #found = [];
  #at = -1;
  #timer = 0;
  #asked = 0;

  /** `on`: {pick(run), taken() → Set of ids}. */
  constructor(place, on) {
    this.on = on;
    this.input = make("input", {
      class: "field", id: "find-run", type: "search", role: "combobox", placeholder: "Add a run", autocomplete: "off",
      "aria-label": "Add a run by its name", "aria-expanded": "false", "aria-controls": "find-list", "aria-autocomplete": "list",
      oninput: () => this.#later(), onfocus: () => this.#later(0), onkeydown: (event) => this.#key(event),
      onblur: () => this.#open(false),
    });
    this.list = make("ul", { id: "find-list", class: "found", role: "listbox", "aria-label": "Runs found", hidden: true });
    // A press in the list must not take the focus from the field before it counts.
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    place.replaceChildren(make("div", { class: "finder" }, icon("search"), this.input, this.list));
  }

  #later(wait = WAIT) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), wait);
  }

  async #ask() {
    const mine = ++this.#asked;
    const taken = this.on.taken();
    try {
      const { runs } = await getRuns({ q: this.input.value.trim(), limit: MOST + taken.size });
      if (mine !== this.#asked) return;
      this.#found = runs.filter((run) => !taken.has(run.id)).slice(0, MOST);
      this.#render(this.#found.length ? "" : this.input.value.trim() ? "No other run is called so." : "There is no other run.");
    } catch (error) {
      if (mine !== this.#asked) return;
      this.#found = [];
      this.#render(error.message ?? String(error));
    }
    this.#open(document.activeElement === this.input);
  }

  #render(words) {
    this.#at = -1;
    this.input.removeAttribute("aria-activedescendant");
    if (words) {
      this.list.replaceChildren(make("li", { class: "muted", role: "option", "aria-disabled": "true" }, words));
      return;
    }
    this.list.replaceChildren(...this.#found.map((run, i) => make("li", { id: `find-${i}`, role: "option", "aria-selected": "false", onclick: () => this.#pick(i) },
      icon(STATUS[run.status]?.icon ?? "info"),
      make("span", { class: "name", title: run.name }, make("bdi", {}, run.name)),
      make("span", { class: "muted" }, make("bdi", {}, run.project ?? "")),
      make("span", { class: "num faint" }, run.last_step === null ? "no step yet" : `${numbers.count(run.steps)} steps`))));
  }

  #open(visible) {
    show(this.list, visible);
    this.input.setAttribute("aria-expanded", String(visible));
  }

  #key(event) {
    const { length } = this.#found;
    if (event.key === "Escape" && !this.list.hidden) this.#open(false);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (this.list.hidden) {
        this.#later(0);
      } else if (length) {
        const by = event.key === "ArrowDown" ? 1 : -1;
        this.#select(this.#at < 0 ? (by > 0 ? 0 : length - 1) : (this.#at + by + length) % length);
      }
    } else if (event.key === "Enter" && length && !this.list.hidden) this.#pick(Math.max(0, this.#at));
    else return;
    event.preventDefault();
  }

  #select(at) {
    this.#at = at;
    [...this.list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
    this.input.setAttribute("aria-activedescendant", `find-${at}`);
    this.list.children[at].scrollIntoView({ block: "nearest" });
  }

  #pick(at) {
    const run = this.#found[at];
    if (!run) return;
    this.input.value = "";
    this.#open(false);
    this.on.pick(run);
    // Whoever adds one may add another.
    this.input.focus();
    this.#open(false);
  }
}
