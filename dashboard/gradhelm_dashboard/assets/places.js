// In which project: a field for it, and the projects that are known.

import { getRuns } from "./api.js";
import { make } from "./dom.js";
import { ALL } from "./rights.js";

const LIST = "known-projects";

/** Tells the fields of the projects that runs are in, and that grants and tokens name. */
export async function knowProjects(more = []) {
  const known = new Set(more);
  try {
    for (const { project } of (await getRuns({ limit: 100 })).runs) known.add(project);
  } catch {
    // They can be typed all the same.
  }
  known.delete(ALL);
  const list = document.getElementById(LIST) ?? document.body.appendChild(make("datalist", { id: LIST }));
  list.replaceChildren(...[...known].sort().map((value) => make("option", { value })));
}

/**
 * A field for a project. `choices`: those there are, null for any, which is typed; empty is all of
 * them. Its `project` is "*" for all.
 */
export function projectField(choices, value = ALL, attributes = {}) {
  const field = choices
    ? make("select", { class: "field", ...attributes }, ...choices.map((project) => make("option", { value: project, selected: project === value }, project === ALL ? "All projects" : project)))
    : make("input", { class: "field", list: LIST, maxlength: 200, autocomplete: "off", placeholder: "All projects", dir: "auto", value: value === ALL ? "" : value, ...attributes });
  Object.defineProperty(field, "project", { get: () => field.value.trim() || ALL });
  return field;
}
