// The dialog in which somebody is added, or gets other roles.

import { addUser, changeUser } from "./api.js";
import { make, say, show } from "./dom.js";
import { Grants } from "./grants.js";
import { newPassword, wrong } from "./password.js";
import { ALL } from "./rights.js";

export class PersonDialog {
  #busy = false;
  #user = null;

  /** `on`: {added(user), changed(user)}, called once the server has it. */
  constructor(on) {
    this.on = on;
    this.title = make("h2", { id: "person-title" });
    this.name = make("input", { class: "field", id: "person-name", maxlength: 100, autocomplete: "off", dir: "auto" });
    this.grants = new Grants();
    this.password = newPassword({ id: "person-password", title: "Password", hint: "May stay empty: then you get a link to hand on, by which they come in and set their own." });
    this.added = make("div", {}, make("label", { for: "person-name", class: "menu-title" }, "Name"), this.name);
    this.wrong = make("p", { class: "told bad-text", role: "alert" });
    this.save = make("button", { type: "submit", class: "button primary" });
    this.dialog = make("dialog", { id: "person-dialog", class: "editor", "aria-labelledby": "person-title" },
      make("form", { method: "dialog", novalidate: true, onsubmit: (event) => this.#submit(event) },
        this.title, this.added, this.grants.element, this.password.element, this.wrong,
        make("div", { class: "dialog-actions" },
          make("button", { type: "button", class: "button", onclick: () => this.dialog.close() }, "Cancel"), this.save)));
    document.body.append(this.dialog);
  }

  /** `user`: who gets other roles; null to add somebody. */
  open(user = null) {
    this.#user = user;
    say(this.title, user ? `Roles of ${user.name}` : "Add somebody");
    say(this.save, user ? "Save" : "Add");
    show(this.added, !user);
    show(this.password.element, !user);
    this.name.value = this.password.field.value = "";
    this.password.hide();
    this.grants.set(user?.grants ?? { [ALL]: "viewer" });
    this.#tell("");
    this.dialog.showModal();
    if (!user) this.name.focus();
  }

  #tell(text, at = null) {
    say(this.wrong, text);
    for (const field of [this.name, this.password.field]) field.toggleAttribute("aria-invalid", field === at);
    at?.focus();
  }

  /** What is sent; nothing, after saying what is missing. */
  #values() {
    const name = this.name.value.trim();
    if (!this.#user && !name) return this.#tell("They need a name to sign in with.", this.name);
    const { grants, wrong: why, at } = this.grants.read();
    if (why) {
      this.#tell(why);
      return this.grants.focus(at);
    }
    if (this.#user) return { grants };
    const password = this.password.field.value;
    const bad = password ? wrong(password) : null;
    if (bad) return this.#tell(bad, this.password.field);
    return { name, grants, ...(password ? { password } : {}) };
  }

  async #submit(event) {
    event.preventDefault();
    const values = this.#busy ? null : this.#values();
    if (!values) return;
    this.#busy = true;
    this.#tell("");
    try {
      const user = this.#user ? await changeUser(this.#user.id, values) : await addUser(values);
      this.dialog.close();
      if (this.#user) this.on.changed(user);
      else this.on.added(user);
    } catch (error) {
      this.#tell(error.message ?? String(error));
    } finally {
      this.#busy = false;
    }
  }
}
