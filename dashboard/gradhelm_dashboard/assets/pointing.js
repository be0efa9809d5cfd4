// What lies over a plot for hands to point with: places for marks, and the cursor under a finger.

import { make } from "./dom.js";

/** Room for marks over `plot`; a press on a mark is none on the chart. */
export function roomForMarks(plot) {
  const places = make("div", { class: "marks" });
  for (const kind of ["mousedown", "pointerdown"]) places.addEventListener(kind, (event) => event.stopPropagation());
  plot.over.append(places);
  return places;
}

/** A finger moves the cursor; up and down it still scrolls the page. */
export function followFinger(plot) {
  const { over } = plot;
  const follow = (event) => {
    if (event.pointerType === "mouse") return;
    const box = over.getBoundingClientRect();
    plot.setCursor({ left: event.clientX - box.left, top: event.clientY - box.top });
  };
  over.addEventListener("pointerdown", follow);
  over.addEventListener("pointermove", follow);
}
