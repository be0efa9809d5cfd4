// Somebody else was quicker: both values, and a choice between them.

import { $, icon, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";

export class Conflict {
  /**
   * Shows it. `theirs`, `mine`: what each side wants, in words; `keep()`, `replace()`: what the
   * buttons do; `mineAction`: the word on the second one.
   */
  open({ theirs, mine, keep, replace, mineAction = "Apply mine" }) {
    const choose = (act) => () => {
      this.close();
      act();
    };
    const side = (name, value, by) => make("div", {}, make("div", { class: "figure-label" }, name), make("div", { class: "conflict-value" }, value), by);
    $("threshold-conflict").replaceChildren(
      make("h3", {}, icon("triangle-alert"), "Changed meanwhile"),
      make("div", { class: "conflict-sides" }, side("Theirs", theirs, make("div", { id: "conflict-by", class: "faint small" })), side("Mine", mine, make("div", { class: "faint small" }, "not sent"))),
      make("div", { class: "actions two" },
        make("button", { type: "button", class: "button small", onclick: choose(keep) }, "Keep theirs"),
        make("button", { type: "button", class: "button small primary", onclick: choose(replace) }, mineAction)));
    show("threshold-conflict", true);
  }

  /** Whose change it is, once the history is here. */
  tell(entry) {
    if (entry && !$("threshold-conflict").hidden) say("conflict-by", `${entry.author}, ${numbers.ago(Date.parse(entry.at), Date.now())}${entry.reason ? `: “${entry.reason}”` : ""}`);
  }

  close() {
    show("threshold-conflict", false);
  }
}
