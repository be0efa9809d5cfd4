// What somebody may do, as rows that can be changed: a role, and the project that it is for.

import { icon, make } from "./dom.js";
import { projectField } from "./places.js";
import { ALL, PEOPLES, WHOLE, byRole, words } from "./rights.js";

/** {grants} of rows [{project, role}], or {wrong} in words and `at`, the row that it is about. Pure. */
export function collected(rows) {
  const grants = new Map();
  for (const [at, { project, role }] of rows.entries()) {
    if (grants.has(project)) return { at, wrong: project === ALL ? "All projects are named twice." : `The project ${project} is named twice.` };
    grants.set(project, role);
  }
  return grants.size ? { grants: Object.fromEntries(grants) } : { at: 0, wrong: "Somebody without a role could not come in; to keep them out, disable them." };
}

export class Grants {
  #rows = [];
  #made = 0;

  constructor() {
    this.list = make("div", { class: "grants" });
    this.more = make("button", { type: "button", class: "button small", onclick: () => this.#add(ALL, "viewer").project.focus() }, icon("plus"), "Another project");
    this.hint = make("p", { class: "hint" }, ...PEOPLES.flatMap((role, i) => [make("b", {}, role), ` ${words(role)}${i < PEOPLES.length - 1 ? "; " : "."}`]));
    this.element = make("fieldset", {}, make("legend", { class: "menu-title" }, "Roles"), this.list, this.more, this.hint);
  }

  set(grants) {
    for (const row of [...this.#rows]) this.#drop(row);
    for (const { role, projects } of byRole(grants)) for (const project of projects) this.#add(project, role);
  }

  /** As collected() says. */
  read() {
    return collected(this.#rows.map(({ project, role }) => ({ project: project.project, role: role.value })));
  }

  focus(at) {
    this.#rows[at]?.project.focus();
  }

  #add(project, role) {
    const id = `grant-${(this.#made += 1)}`;
    const row = { project: projectField(null, project, { id, "aria-label": "Project; empty for all" }) };
    row.role = make("select", { class: "field", "aria-label": "Role", onchange: () => this.#whole(row) }, ...PEOPLES.map((one) => make("option", { value: one, selected: one === role }, one)));
    row.element = make("div", { class: "grant", role: "group", "aria-label": "A role in a project" }, row.role, "in", row.project,
      make("button", {
        type: "button", class: "close", "aria-label": "Remove this role", title: "Remove", onclick: () => {
          this.#drop(row);
          this.more.focus();
        },
      }, icon("x")));
    this.#rows.push(row);
    this.list.append(row.element);
    this.#whole(row);
    return row;
  }

  #drop(row) {
    this.#rows = this.#rows.filter((one) => one !== row);
    row.element.remove();
  }

  /** An admin is one in all projects. */
  #whole({ project, role }) {
    project.disabled = WHOLE.includes(role.value);
    if (project.disabled) project.value = "";
  }
}
