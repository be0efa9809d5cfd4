// The dialog in which a run gets another name, tags and a note.

import { changeRun } from "./api.js";
import { icon, make } from "./dom.js";
import { LONGEST, changed, withTyped } from "./tags.js";

export class Editor {
  #dialog = null;
  #run = null;
  #tags = [];
  #done = null;

  /** `on`: {saved(run), known() → tags that other runs have}. */
  constructor(on) {
    this.on = on;
  }

  /** Shows `run` to be changed; `done()` is called when the dialog closes, however it does. */
  open(run, done) {
    this.#dialog ??= this.#make();
    this.#run = run;
    this.#done = done;
    this.#tags = [...(run.tags ?? [])];
    this.name.value = run.name;
    this.note.value = run.note ?? "";
    this.typed.value = "";
    this.#tell("");
    this.#chips();
    this.known.replaceChildren(...this.on.known().slice(0, 200).map((tag) => make("option", { value: tag })));
    this.#dialog.showModal();
    this.name.select();
  }

  #make() {
    this.name = make("input", { class: "field", id: "edit-name", maxlength: LONGEST, required: true, autocomplete: "off", dir: "auto" });
    this.note = make("textarea", { class: "field", id: "edit-note", rows: 4, maxlength: 10_000, dir: "auto", placeholder: "What was tried, and what came of it" });
    this.typed = make("input", {
      class: "field", id: "edit-tags", autocomplete: "off", list: "edit-known", maxlength: LONGEST, placeholder: "Add a tag", dir: "auto",
      "aria-describedby": "edit-tags-hint",
      onkeydown: (event) => {
        if ((event.key === "Enter" && this.typed.value.trim()) || event.key === ",") {
          event.preventDefault();
          this.#take();
        } else if (event.key === "Backspace" && !this.typed.value && this.#tags.length) {
          this.#tags.pop();
          this.#chips();
        }
      },
      onblur: () => this.#take(),
    });
    this.known = make("datalist", { id: "edit-known" });
    this.chips = make("span", { class: "tags", role: "list", "aria-label": "Tags" });
    this.told = make("p", { class: "told bad-text", role: "alert" });
    this.save = make("button", { type: "submit", class: "button primary" }, "Save");
    const dialog = make("dialog", {
      id: "edit-dialog", class: "editor", "aria-labelledby": "edit-title",
      onclose: () => this.#done?.(),
      onkeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#save(event);
      },
    }, make("form", { method: "dialog", onsubmit: (event) => this.#save(event) },
      make("h2", { id: "edit-title" }, "Name, tags, note"),
      make("label", { for: "edit-name", class: "menu-title" }, "Name"), this.name,
      make("label", { for: "edit-tags", class: "menu-title" }, "Tags"),
      this.chips, this.typed, this.known,
      make("p", { class: "hint", id: "edit-tags-hint" }, "Enter or a comma ends a tag."),
      make("label", { for: "edit-note", class: "menu-title" }, "Note"), this.note,
      this.told,
      make("div", { class: "dialog-actions" },
        make("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel"), this.save)));
    document.body.append(dialog);
    return dialog;
  }

  #take() {
    this.#tags = withTyped(this.#tags, this.typed.value);
    this.typed.value = "";
    this.#chips();
  }

  /** What is there stays the same element: one that is being pressed must not be gone before it counts. */
  #chips() {
    for (const chip of [...this.chips.children]) if (!this.#tags.includes(chip.title)) chip.remove();
    const there = new Set([...this.chips.children].map((chip) => chip.title));
    this.chips.append(...this.#tags.filter((tag) => !there.has(tag)).map((tag) => make("span", { class: "tag removable", role: "listitem", title: tag },
      make("bdi", {}, tag),
      make("button", {
        type: "button", "aria-label": `Remove the tag ${tag}`, title: "Remove",
        onclick: () => {
          this.#tags = this.#tags.filter((other) => other !== tag);
          this.#chips();
          this.typed.focus();
        },
      }, icon("x")))));
  }

  #tell(text) {
    this.told.textContent = text;
  }

  async #save(event) {
    event.preventDefault();
    this.#take();
    const name = this.name.value.trim();
    if (!name) {
      this.#tell("A run needs a name.");
      this.name.focus();
      return;
    }
    const values = changed(this.#run, { name, tags: this.#tags, note: this.note.value });
    if (!values) {
      this.#dialog.close();
      return;
    }
    this.save.disabled = true;
    try {
      const run = await changeRun(this.#run.id, values);
      this.on.saved(run);
      this.#dialog.close();
    } catch (error) {
      this.#tell(error.message ?? String(error));
    } finally {
      this.save.disabled = false;
    }
  }
}
