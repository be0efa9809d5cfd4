// Making and changing elements. Names and reasons come from strangers: they are text, never markup.

export const $ = (id) => document.getElementById(id);

/** An element: make("span", {class: "x", title: "y"}, "text", child, …). */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const icon = (name) => make("span", { class: `icon icon-${name}`, "aria-hidden": "true" });

/** Sets an element's text if it differs, so that readers and layout are left in peace. */
export function say(id, text) {
  const element = typeof id === "string" ? $(id) : id;
  if (!element) return;
  // The text node that is there already, if it is all there is: another one costs several times that.
  const { firstChild: node } = element;
  if (node?.nodeType === 3 && !node.nextSibling) {
    if (node.data !== text) node.data = text;
  } else if (element.textContent !== text) element.textContent = text;
}

export function show(id, visible) {
  const element = typeof id === "string" ? $(id) : id;
  if (element && element.hidden === visible) element.hidden = !visible;
}

export function attribute(id, name, value) {
  const element = typeof id === "string" ? $(id) : id;
  if (element && element.getAttribute(name) !== value) {
    if (value === null) element.removeAttribute(name);
    else element.setAttribute(name, value);
  }
}

/** Changes properties of one of Dash's controls, once Dash is there. */
export function setProps(id, props) {
  const go = window.dash_clientside?.set_props;
  if (go && $(id)) go(id, props);
}

/** The page's colours as they are now, for what is drawn on a canvas. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["bg", "panel", "text", "muted", "faint", "line", "edge", "accent-text", "clip", "bad", "info", "ok", "proposed"];
  const found = Object.fromEntries(names.map((name) => [name, read(name)]));
  found.theme = document.documentElement.getAttribute("data-mantine-color-scheme") === "light" ? "light" : "dark";
  found.font = read("font");
  found.mono = read("mono");
  return found;
}

export const STATUS = {
  live: { word: "Live", icon: "radio" },
  stale: { word: "Stale", icon: "clock" },
  failed: { word: "Failed", icon: "octagon-x" },
  finished: { word: "Finished", icon: "circle-check" },
  stopped: { word: "Stopped", icon: "circle-stop" },
};

/** What the header says about the connection; anything but "live" is also a word, not a colour. */
export function connection(state, words) {
  const place = $("connection-state");
  if (!place) return;
  attribute(place, "data-state", state);
  say("connection-word", words);
}
