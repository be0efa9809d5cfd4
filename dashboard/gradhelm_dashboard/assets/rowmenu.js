// What can be done with one row of a table: a menu at the button that was pressed.

import { icon, make } from "./dom.js";

export class RowMenu {
  #menu = null;

  /** Opens it at the element `at`; `entries`: [{symbol, text, key, act}]. Closed, `back()` gets the focus. */
  open(at, entries, back) {
    this.#menu ??= this.#make();
    const menu = this.#menu;
    this.back = back;
    this.at = at;
    menu.replaceChildren(...entries.map(({ symbol, text, key, tone, act }) => make("button", {
      type: "button", role: "menuitem", class: tone ?? "", onclick: () => {
        this.back = null;
        menu.hidePopover();
        act();
      },
    }, icon(symbol), text, key ? make("kbd", { "aria-hidden": "true" }, key) : null)));
    menu.showPopover();
    const box = this.box = at.getBoundingClientRect();
    const [width, height] = [menu.offsetWidth, menu.offsetHeight];
    menu.style.left = `${Math.max(8, Math.min(box.right - width, innerWidth - width - 8))}px`;
    menu.style.top = `${box.bottom + 4 + height > innerHeight ? Math.max(8, box.top - height - 4) : box.bottom + 4}px`;
    menu.firstChild?.focus();
  }

  #make() {
    const menu = make("div", { class: "menu row-entries", role: "menu", popover: "auto", id: "row-menu" });
    menu.addEventListener("toggle", ({ newState }) => {
      if (newState === "closed") this.back?.();
    });
    menu.addEventListener("keydown", (event) => {
      const all = [...menu.children];
      const at = all.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      all.at(to % all.length).focus();
    });
    // It would stay where its row no longer is. (What was scrolled before it opened is told late.)
    const moved = () => this.at.getBoundingClientRect().top !== this.box.top;
    addEventListener("scroll", () => menu.matches(":popover-open") && moved() && menu.hidePopover(), { passive: true });
    document.body.append(menu);
    return menu;
  }
}
