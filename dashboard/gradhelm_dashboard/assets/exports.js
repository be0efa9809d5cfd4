// What is shown, to be taken along: as text to paste, as a CSV file, as a picture.

import { icon, make } from "./dom.js";
import { csv, tsv } from "./table.js";
import { toast } from "./toast.js";

/**
 * A menu for a chart. `on`: {name() → file name without its ending, table() → {head, rows} or null,
 * canvases() → those that make up the picture, title() → what is written over it, theme(); whole?: where
 * all that was recorded is to be had}.
 */
export function exportMenu(on) {
  const entry = (symbol, text, act) => make("button", {
    type: "button", role: "menuitem", onclick: () => {
      menu.open = false;
      act();
    },
  }, icon(symbol), text);
  const withTable = (act) => () => {
    const table = on.table();
    if (table) act(table);
    else toast("There is nothing to be taken yet.");
  };
  const menu = make("details", { class: "export" },
    make("summary", { "aria-label": "Take along", title: "Copy, CSV, PNG" }, icon("download")),
    make("div", { class: "menu", role: "menu" },
      entry("copy", "Copy values", withTable(async (table) => {
        try {
          await navigator.clipboard.writeText(tsv(table));
          toast(`${table.rows.length} rows copied.`);
        } catch {
          toast("The browser does not let the page copy; take the CSV file.");
        }
      })),
      entry("file-text", "CSV file", withTable((table) => save(new Blob([csv(table)], { type: "text/csv" }), `${on.name()}.csv`))),
      entry("image", "PNG picture", () => picture(on)),
      on.whole ? make("a", { role: "menuitem", href: on.whole, download: "", onclick: () => (menu.open = false) }, icon("download"), "Whole run, all columns") : null));
  const close = (event) => {
    if (menu.open && !menu.contains(event.target)) menu.open = false;
  };
  document.addEventListener("click", close);
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.stopPropagation();
    menu.open = false;
    menu.firstChild.focus();
  });
  return menu;
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The canvases one under the other, with a title, on the page's own ground. */
function picture({ canvases, title, theme, name }) {
  const parts = canvases().filter((canvas) => canvas?.width);
  if (!parts.length) return toast("There is nothing to be taken yet.");
  const ratio = devicePixelRatio || 1;
  const [margin, head] = [16 * ratio, 34 * ratio];
  const colours = theme();
  const out = document.createElement("canvas");
  out.width = Math.max(...parts.map(({ width }) => width)) + 2 * margin;
  out.height = parts.reduce((sum, { height }) => sum + height, 0) + head + 2 * margin;
  const ctx = out.getContext("2d");
  ctx.fillStyle = colours.panel;
  ctx.fillRect(0, 0, out.width, out.height);
  ctx.fillStyle = colours.text;
  ctx.font = `600 ${15 * ratio}px ${colours.font}`;
  ctx.textBaseline = "middle";
  ctx.fillText(title(), margin, margin + head / 2, out.width - 2 * margin);
  let top = margin + head;
  for (const part of parts) {
    ctx.drawImage(part, margin, top);
    top += part.height;
  }
  return out.toBlob((blob) => save(blob, `${name()}.png`), "image/png");
}

/** A name that every file system takes. */
export const fileName = (...parts) => parts.filter(Boolean).join("-").replaceAll(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 120) || "gradhelm";
