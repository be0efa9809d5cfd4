// How the page looks and listens in this browser.

import { make } from "./dom.js";
import { keysChoice } from "./keys.js";

/** Mantine's own key, which early.js and the header's button go by too. */
const KEY = "mantine-color-scheme-value";
const THEMES = [["auto", "As the system"], ["dark", "Dark"], ["light", "Light"]];

function chosen() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto";
  }
}

/** Mantine listens for other tabs; this one tells it in the same way. */
function choose(value) {
  try {
    localStorage.setItem(KEY, value);
  } catch {
    return; // a browser that keeps nothing
  }
  dispatchEvent(new StorageEvent("storage", { key: KEY, newValue: value, storageArea: localStorage }));
}

export function startAppearance(place) {
  const boxes = THEMES.map(([value]) => make("input", { type: "radio", name: "theme", value, onchange: () => choose(value) }));
  place.replaceChildren(
    make("fieldset", { id: "theme-choice" }, make("legend", { class: "menu-title" }, "Colours"),
      make("div", { class: "choices" }, ...THEMES.map(([, title], i) => make("label", { class: "check" }, boxes[i], title)))),
    make("fieldset", {}, make("legend", { class: "menu-title" }, "Keyboard"), keysChoice(),
      make("p", { class: "hint" }, "Such as P to pause a run's view, or / to find one; ? on a run's page lists them. Turn them off if speech input or hands press them by accident.")));
  const render = () => boxes.forEach((box) => (box.checked = box.value === chosen()));
  // The header's button changes it as well.
  new MutationObserver(render).observe(document.documentElement, { attributeFilter: ["data-mantine-color-scheme"] });
  addEventListener("storage", render);
  render();
}
