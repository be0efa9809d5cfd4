// A table of things that can be acted upon: drawn anew as a whole, with the focus kept where it was.

import { make } from "./dom.js";

/**
 * `columns`: [{title, class}], the class being one of the cells too; a title of "" is for the
 * column of actions. Returns {element, fill(rows)}; a row: {key, class, cells}, a cell being a
 * list of what is in it. The first cell of a row is its header.
 */
export function makeTable({ id, label, columns }) {
  const body = make("tbody");
  const head = columns.map(({ title, class: name }) => (title
    ? make("th", { scope: "col", class: name ?? "" }, title)
    : make("td", { class: name ?? "" }, make("span", { class: "unseen" }, "Actions"))));
  const element = make("table", { id, class: "rows", "aria-label": label }, make("thead", {}, make("tr", {}, ...head)), body);
  return {
    element,
    fill(rows) {
      const here = body.contains(document.activeElement) ? document.activeElement : null;
      const at = here && { key: here.closest("tr").dataset.key, nth: buttons(here.closest("tr")).indexOf(here) };
      body.replaceChildren(...rows.map(({ key, class: name, cells }) => make("tr", { "data-key": key, class: name },
        ...cells.map((content, i) => make(i ? "td" : "th", { scope: i ? null : "row", class: columns[i].class ?? "" }, ...content)))));
      if (at) focusRow(body, at.key, at.nth);
    },
    /** Where one goes on when the row that one was at has something else in it now. */
    focus: (key) => focusRow(body, key, 0),
  };
}

const buttons = (row) => [...row.querySelectorAll("button")];

function focusRow(body, key, nth) {
  const row = [...body.rows].find((one) => one.dataset.key === key);
  const found = row && buttons(row);
  (found?.[nth] ?? found?.[0])?.focus();
}
