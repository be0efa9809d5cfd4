// What is shown once and never again: a new token, or a link by which somebody comes in.

import { copyFrom } from "./copying.js";
import { icon, make, show } from "./dom.js";

/** Text in a box with a button that copies it. */
function copyBox(label, text) {
  const code = make("code", {}, text);
  const word = make("span", {}, "Copy");
  return make("div", { class: "snippet" },
    make("pre", { tabindex: "0", role: "region", "aria-label": label }, code),
    make("button", { type: "button", class: "button small", "aria-label": `Copy: ${label}`, onclick: () => copyFrom(code, word) }, icon("copy"), word));
}

/**
 * Shows it in `place`, until somebody says that he has it; `done()` is called then.
 * `boxes`: [{label, text}], the secret itself being the first.
 */
export function showOnce(place, { title, warning, boxes, done }) {
  const heading = make("h3", { tabindex: "-1" }, title);
  place.replaceChildren(
    heading,
    make("p", { class: "once-warning" }, icon("triangle-alert"), make("span", {}, warning)),
    ...boxes.flatMap(({ label, text }) => [make("p", { class: "menu-title" }, label), copyBox(label, text)]),
    make("div", { class: "dialog-actions" }, make("button", {
      type: "button", class: "button", onclick: () => {
        show(place, false);
        place.replaceChildren();
        done();
      },
    }, "I have it")));
  show(place, true);
  place.scrollIntoView({ block: "nearest" });
  heading.focus({ preventScroll: true });
}
