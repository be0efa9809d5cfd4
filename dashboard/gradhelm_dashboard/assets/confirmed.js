// Asks whether something is really meant, in words of what it will lead to.

import { make } from "./dom.js";

/** `lines`: what will happen; `action`: the word on the button that lets it. Resolves to true or false. */
export function confirmed(title, lines, action, dangerous = false) {
  return new Promise((resolve) => {
    const close = (yes) => dialog.close(yes ? "yes" : "");
    const dialog = make("dialog", { class: "confirm", "aria-label": title, onkeydown: (event) => event.stopPropagation() },
      make("h2", {}, title),
      ...lines.map((line) => make("p", {}, line)),
      make("div", { class: "actions" },
        make("button", { type: "button", class: "button", onclick: () => close(false) }, "Cancel"),
        make("button", { type: "button", class: `button ${dangerous ? "danger" : "primary"}`, onclick: () => close(true) }, action)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
