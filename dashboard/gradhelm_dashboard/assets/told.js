// How a part of the settings says when something happened, and that it could not be loaded.

import { icon, make } from "./dom.js";

/** A time, said by `say(milliseconds)`, with the date itself for those who point at it; `never` where there is none. */
export function moment(at, say, never = "never") {
  if (!at) return make("span", { class: "faint" }, never);
  const then = new Date(at);
  return make("time", { datetime: at, title: then.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) }, say(then.getTime()));
}

/** Instead of what should be in `place`: why it is not there, and a button that tries again. */
export function failed(place, error, again) {
  place.replaceChildren(make("div", { class: "banner bad", role: "alert" }, icon("unplug"),
    make("span", {}, error.message ?? String(error)),
    make("button", { type: "button", class: "button small", onclick: again }, "Try again")));
}

/** Where there is nothing yet. */
export const nothing = (...words) => make("p", { class: "quiet" }, ...words);
