// The dialog that asks what a new token is to be for.

import { makeToken } from "./api.js";
import { make, say } from "./dom.js";
import { projectField } from "./places.js";
import { ALL, words } from "./rights.js";

const DAY = 86_400;
const LIVES = [["never", null], ["in 7 days", 7 * DAY], ["in 30 days", 30 * DAY], ["in 90 days", 90 * DAY], ["in a year", 365 * DAY]];
const USUAL = 3;

/** What is asked for by {name, role, project, life}: a token's fields, without those that are empty. Pure. */
export function asked({ name, role, project, life }) {
  return { role, project, ...(name ? { name } : {}), ...(life ? { expires_in: life } : {}) };
}

export class NewToken {
  #busy = false;

  /** `roles`: as makeable() says; `on`: {made({token, name, role})}. */
  constructor(roles, on) {
    this.roles = roles;
    this.on = on;
    this.name = make("input", { class: "field", id: "token-name", maxlength: 200, autocomplete: "off", dir: "auto", placeholder: "What uses it, such as trainer-7" });
    this.role = make("select", { class: "field", id: "token-role", "aria-describedby": "token-role-hint", onchange: () => this.#chosen() },
      ...Object.keys(roles).map((role) => make("option", { value: role, selected: role === "ingest" }, role)));
    this.hint = make("p", { class: "hint", id: "token-role-hint" });
    this.where = make("div", { class: "form-row" });
    this.life = make("select", { class: "field", id: "token-life" }, ...LIVES.map(([title], i) => make("option", { value: String(i), selected: i === USUAL }, title)));
    this.wrong = make("p", { class: "told bad-text", role: "alert" });
    this.dialog = make("dialog", { id: "token-dialog", class: "editor", "aria-labelledby": "token-title" },
      make("form", { method: "dialog", onsubmit: (event) => this.#submit(event) },
        make("h2", { id: "token-title" }, "New token"),
        make("label", { for: "token-name", class: "menu-title" }, "Name"), this.name,
        make("label", { for: "token-role", class: "menu-title" }, "Role"), this.role, this.hint,
        this.where,
        make("label", { for: "token-life", class: "menu-title" }, "Expires"), this.life,
        this.wrong,
        make("div", { class: "dialog-actions" },
          make("button", { type: "button", class: "button", onclick: () => this.dialog.close() }, "Cancel"),
          make("button", { type: "submit", class: "button primary" }, "Create the token"))));
    document.body.append(this.dialog);
  }

  open() {
    this.name.value = "";
    say(this.wrong, "");
    this.#chosen();
    this.dialog.showModal();
    this.name.focus();
  }

  #chosen() {
    const role = this.role.value;
    say(this.hint, `A program with it ${words(role)}.`);
    const before = this.project?.project ?? ALL;
    this.project = projectField(this.roles[role], before, { id: "token-project" });
    this.where.replaceChildren(make("label", { for: "token-project", class: "menu-title" }, "Project"), this.project);
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#busy) return;
    this.#busy = true;
    const [name, role] = [this.name.value.trim(), this.role.value];
    try {
      const { token } = await makeToken(asked({ name, role, project: this.project.project, life: LIVES[Number(this.life.value)][1] }));
      this.dialog.close();
      this.on.made({ token, name, role });
    } catch (error) {
      say(this.wrong, error.message ?? String(error));
    } finally {
      this.#busy = false;
    }
  }
}
