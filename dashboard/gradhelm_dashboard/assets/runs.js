// The table of runs, asked for every two seconds; rows change in place.

import { getRuns, getServer } from "./api.js";
import { $, attribute, connection, make, say, setProps, show, icon } from "./dom.js";
import * as numbers from "./numbers.js";

const EVERY = 2000;
const FILTERS = ["live", "stale", "failed", "finished", "stopped"];
const WORDS = { live: "Live", stale: "Stale", failed: "Failed", finished: "Finished", stopped: "Stopped" };

// The grid's cells are made by a plain script; this is how they write numbers.
window.gradhelmNumbers = numbers;

let grid = null;
const rows = new Map();
let search = "";
let status = "all";
let told = "";

export async function startRuns() {
  document.title = "Runs · gradhelm";
  connection("connecting", "Connecting…");
  addEventListener("gradhelm:control", ({ detail }) => {
    if (detail.id === "runs-search") search = (detail.value ?? "").trim().toLowerCase();
    if (detail.id === "runs-status") status = detail.value || "all";
    filter();
  });
  search = (window.gradhelmControls.get("runs-search") ?? "").trim().toLowerCase();
  $("attach-copy")?.addEventListener("click", async ({ currentTarget }) => {
    const button = currentTarget.lastChild;
    try {
      await navigator.clipboard.writeText($("attach-code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy";
      getSelection().selectAllChildren($("attach-code"));
    }
  });
  say("attach-server", `GRADHELM_SERVER=${location.origin}`);
  addEventListener("resize", columns);
  poll();
}

async function poll() {
  const started = performance.now();
  try {
    const all = [];
    let cursor = null;
    let counts = {};
    do {
      const page = await getRuns({ limit: 100, sparkline: true, cursor });
      all.push(...page.runs);
      counts = page.counts ?? counts;
      cursor = page.next_cursor;
    } while (cursor && all.length < 500);
    connection("live", `Connected · ${numbers.span(performance.now() - started)}`);
    window.gradhelm.connected = true;
    show("runs-notice", false);
    await update(all, counts);
  } catch (error) {
    window.gradhelm.connected = false;
    connection("closed", "Disconnected");
    const notice = $("runs-notice");
    if (notice) {
      notice.className = "banner bad";
      notice.replaceChildren(icon("unplug"), make("span", {}, `${error.message ?? error} Trying again; the table may be out of date.`));
      notice.hidden = false;
    }
  }
  const wait = Math.max(EVERY - (performance.now() - started), 500);
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", poll, { once: true }) : poll()), wait);
}

async function update(all, counts) {
  const any = all.length > 0;
  show("runs-card", any);
  show("runs-empty", !any);
  summary(all, counts);
  choices(all);
  if (!any) return;
  grid ??= await ready();
  const ids = new Set(all.map((run) => run.id));
  // Newest first: what is new goes on top of what is there.
  const changed = { add: [], update: [], remove: [], addIndex: 0 };
  for (const run of all) {
    const before = rows.get(run.id);
    if (!before) changed.add.push(run);
    else if (JSON.stringify(before) !== JSON.stringify(run)) changed.update.push(run);
    rows.set(run.id, { ...run });
  }
  for (const [id, run] of rows) {
    if (ids.has(id)) continue;
    rows.delete(id);
    changed.remove.push(run);
  }
  grid.applyTransaction(changed);
  grid.refreshCells({ columns: ["last_heard_at"], force: true });
  filter();
  window.gradhelm.drawn++;
  window.gradhelm.runs = rows.size;
}

/** The grid, once it is there, with what Dash has no property for. */
async function ready() {
  const api = await window.dash_ag_grid.getApiAsync("runs-table");
  api.setGridOption("isExternalFilterPresent", () => search !== "" || status !== "all");
  api.setGridOption("doesExternalFilterPass", ({ data }) => matches(data));
  const open = (event) => {
    if (event.event?.defaultPrevented || event.event?.target?.closest?.("a")) return;
    const address = `/runs/${encodeURIComponent(event.data.id)}`;
    if (event.event?.ctrlKey || event.event?.metaKey) window.open(address, "_blank", "noopener");
    else location.assign(address);
  };
  api.addEventListener("cellClicked", open);
  api.addEventListener("cellKeyDown", (event) => event.event.key === "Enter" && open(event));
  columns(api);
  return api;
}

/** On a narrow screen the first things to know, without sideways scrolling. */
function columns(api) {
  const target = api?.setColumnsVisible ? api : grid;
  if (!target) return;
  const width = innerWidth;
  target.setColumnsVisible(["last_step", "sparkline"], width >= 900);
  target.setColumnsVisible(["steps", "last_heard_at", "threshold"], width >= 1180);
  target.setColumnsVisible(["clip_fraction"], width >= 560);
  const narrow = width < 560;
  target.applyColumnState({
    state: [
      { colId: "status", width: narrow ? 108 : 124 },
      { colId: "global_norm", width: narrow ? 76 : 96 },
      { colId: "name", flex: 3 },
    ],
  });
}

function matches(run) {
  if (status !== "all" && run.status !== status) return false;
  if (!search) return true;
  return [run.name, run.project, run.id, ...(run.tags ?? [])].some((text) => String(text ?? "").toLowerCase().includes(search));
}

function filter() {
  if (!grid) return;
  grid.onFilterChanged();
  show("runs-none", rows.size > 0 && ![...rows.values()].some(matches));
}

function choices(all) {
  const found = Object.fromEntries(FILTERS.map((name) => [name, all.filter((run) => run.status === name).length]));
  const data = [{ value: "all", label: `All ${all.length}` }];
  for (const name of FILTERS) if (found[name] || name === status) data.push({ value: name, label: `${WORDS[name]} ${found[name]}` });
  const key = JSON.stringify(data);
  if (key === told) return;
  told = key;
  setProps("runs-status", { data });
}

async function summary(all, counts) {
  const live = all.filter((run) => run.status === "live");
  const stale = counts.stale ?? 0;
  say("sum-live-value", numbers.count(counts.live ?? live.length));
  say("sum-live-note", stale ? `${stale} stale` : "none stale");
  const steps = live.reduce((sum, run) => sum + (run.recent?.steps ?? 0), 0);
  const clipped = live.reduce((sum, run) => sum + (run.recent?.clipped ?? 0), 0);
  say("sum-clip-value", steps ? numbers.percent(clipped / steps) : "–");
  $("sum-clip-value")?.classList.toggle("clip-text", steps > 0 && clipped / steps >= 0.05);
  say("sum-clip-note", steps ? `${numbers.count(clipped)} of the last ${numbers.count(steps)} steps` : "no live run has steps");
  const bad = all.filter((run) => run.nonfinite > 0 && ["live", "stale", "failed"].includes(run.status));
  say("sum-bad-value", bad.length === 1 ? "1 run" : `${bad.length} runs`);
  $("sum-bad-value")?.classList.toggle("bad-text", bad.length > 0);
  say("sum-bad-note", bad.length ? bad.map((run) => run.name).slice(0, 2).join(", ") : "all norms are finite");
  attribute("sum-bad-note", "title", bad.map((run) => run.name).join(", "));
  try {
    const server = await getServer();
    say("sum-ingest-value", numbers.short(server.points_per_second));
    say("sum-ingest-note", "norms per second");
  } catch {
    say("sum-ingest-value", "–");
  }
}
