// A line that says what was done, and goes by itself; it may offer to take it back.

import { $, make } from "./dom.js";

const STAYS = 6000;
/** With something to press in it: whoever comes by keyboard needs the time to get there. */
const STAYS_TO_ACT = 15_000;

/** `action`: {text, act}: a button beside the words. Returns what takes the line away. */
export function toast(text, action = null) {
  const place = $("toasts");
  if (!place) return () => null;
  const line = make("div", { class: "toast" }, make("span", {}, text));
  let timer = 0;
  const gone = () => {
    clearTimeout(timer);
    line.remove();
  };
  if (action) {
    line.append(make("button", {
      type: "button", class: "button small", onclick: () => {
        gone();
        action.act();
      },
    }, action.text));
  }
  // As long as somebody is at it, it stays.
  const wait = () => (timer = setTimeout(gone, action ? STAYS_TO_ACT : STAYS));
  line.addEventListener("pointerenter", () => clearTimeout(timer));
  line.addEventListener("pointerleave", wait);
  line.addEventListener("focusin", () => clearTimeout(timer));
  line.addEventListener("focusout", wait);
  place.append(line);
  wait();
  return gone;
}
