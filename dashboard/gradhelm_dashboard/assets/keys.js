// What the keyboard does on a run's page. Single keys can be turned off, for those whose speech
// input or hands press them by accident.

import { $, make } from "./dom.js";

const OFF = "gradhelm-keys-off";

const remembered = (act) => {
  try {
    return act(localStorage);
  } catch {
    return null; // a browser that keeps nothing
  }
};

const on = () => remembered((kept) => kept.getItem(OFF)) !== "1";

/** The choice whether single keys act, for this browser. */
export function keysChoice() {
  const box = make("input", { type: "checkbox", onchange: () => remembered((kept) => (box.checked ? kept.removeItem(OFF) : kept.setItem(OFF, "1"))) });
  box.checked = on();
  return make("label", {}, box, "Single keys act at once");
}

/** `actions`: {key: act}, for keys pressed while nobody types. */
export function singleKeys(actions) {
  const dialog = $("keys-dialog");
  $("keys-choice")?.replaceChildren(keysChoice());
  $("keys-open")?.addEventListener("click", () => dialog?.showModal());
  $("keys-close")?.addEventListener("click", () => dialog?.close());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest?.("input, select, textarea, [contenteditable], dialog")) return;
    if (event.key === "?" && dialog) {
      dialog.showModal();
      return;
    }
    const act = on() ? actions[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** The part of the steps that a key pressed on the chart moves to: {low, high}, or null for other keys. Pure. */
export function moved({ low, high }, key, shift, first, last, cursor) {
  const size = high - low;
  const within = (from, width) => {
    const span = Math.max(10, Math.round(width));
    const start = Math.round(Math.min(Math.max(from, first), Math.max(first, last - span)));
    return { low: start, high: start + span };
  };
  const about = cursor ?? (low + high) / 2;
  if (shift && key === "ArrowLeft") return within(low - size / 4, size);
  if (shift && key === "ArrowRight") return within(low + size / 4, size);
  if (key === "+" || key === "=") return within(about - (about - low) / 2, size / 2);
  if (key === "-") return within(about - (about - low) * 2, Math.min(size * 2, last - first));
  if (key === "Home") return within(first, size);
  return null;
}
