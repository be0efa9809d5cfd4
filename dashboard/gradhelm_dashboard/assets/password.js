// A password of one's own: set for the first time, or changed.

import { setPassword } from "./api.js";
import { make, say, show } from "./dom.js";

export const FEWEST = 12;

/** What is wrong with a password before it is sent: words, or null. Pure. */
export function wrong(password) {
  const { length } = [...password];
  if (length >= FEWEST) return null;
  return length ? `At least ${FEWEST} characters; these are ${length}.` : `At least ${FEWEST} characters.`;
}

/** A field for a new password, with what shows it: {field, label, element, hint}. */
export function newPassword({ id, title, hint }) {
  const field = make("input", { class: "field", id, type: "password", autocomplete: "new-password", "aria-describedby": `${id}-hint` });
  const shown = make("input", { type: "checkbox", onchange: () => (field.type = shown.checked ? "text" : "password") });
  return {
    field,
    element: make("div", { class: "form-row" },
      make("label", { for: id, class: "menu-title" }, title), field,
      make("p", { class: "hint", id: `${id}-hint` }, hint),
      make("label", { class: "check" }, shown, "Show it")),
    hide() {
      shown.checked = false;
      field.type = "password";
    },
  };
}

export class Password {
  #busy = false;

  /** `user`: as GET server tells; `changed()` is called when it is. */
  constructor(place, user, changed) {
    this.user = user;
    this.changed = changed;
    this.old = make("input", { class: "field", id: "password-old", type: "password", autocomplete: "current-password" });
    this.oldRow = make("div", { class: "form-row" }, make("label", { for: "password-old", class: "menu-title" }, "Current password"), this.old);
    this.fresh = newPassword({ id: "password-new", title: "New password", hint: `At least ${FEWEST} characters; a few words in a row are easy to remember and hard to guess.` });
    this.told = make("p", { class: "told", role: "status" });
    this.wrong = make("p", { class: "told bad-text", role: "alert", id: "password-wrong" });
    this.title = make("h3", {});
    this.why = make("p", { class: "muted" });
    this.button = make("button", { type: "submit", class: "button primary" });
    place.replaceChildren(this.title, this.why, make("form", { id: "password-form", novalidate: true, onsubmit: (event) => this.#submit(event) },
      // For password managers, which ask whose it is.
      make("input", { type: "text", autocomplete: "username", value: user.name, hidden: true, readonly: true, "aria-label": "Name" }),
      this.oldRow, this.fresh.element, this.wrong, this.told,
      make("div", { class: "form-actions" }, this.button)));
    this.#render();
  }

  #render() {
    const { password } = this.user;
    say(this.title, password ? "Change the password" : "Set a password");
    say(this.why, password
      ? "Your other sessions are ended by that; this one goes on."
      : "With one you can come back without a new link.");
    say(this.button, password ? "Change the password" : "Set the password");
    show(this.oldRow, password);
  }

  #tell(wrongs, told = "", at = null) {
    say(this.wrong, wrongs);
    say(this.told, told);
    for (const field of [this.old, this.fresh.field]) field.toggleAttribute("aria-invalid", field === at);
    at?.focus();
  }

  #refused(error) {
    if (error.code !== "bad_credentials") return this.#tell(error.message ?? String(error));
    if (this.user.password) return this.#tell("That is not your current password.", "", this.old);
    // Who came in by a link is asked for it once some minutes have passed.
    this.user.password = true;
    this.#render();
    return this.#tell("It is a while since you came in by a link: type your current password, too.", "", this.old);
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#busy) return;
    const { password: has } = this.user;
    const bad = wrong(this.fresh.field.value);
    if (has && !this.old.value) return this.#tell("Type your current password, too.", "", this.old);
    if (bad) return this.#tell(bad, "", this.fresh.field);
    this.#busy = true;
    this.#tell("");
    try {
      await setPassword({ new: this.fresh.field.value, ...(has ? { old: this.old.value } : {}) });
      this.user.password = true;
      this.old.value = this.fresh.field.value = "";
      this.fresh.hide();
      this.#tell("", has ? "The password is changed. Your other sessions are ended." : "The password is set. You can sign in with your name and it.");
      this.#render();
      this.changed();
    } catch (error) {
      this.#refused(error);
    } finally {
      this.#busy = false;
    }
  }
}
