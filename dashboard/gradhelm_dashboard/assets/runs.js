// The table of runs, asked for every two seconds; rows change in place.

import { deleteRun, getRuns, getServer, restoreRun } from "./api.js";
import { copyFrom } from "./copying.js";
import { $, STATUS, attribute, connection, icon, make, say, setProps, show } from "./dom.js";
import { Editor } from "./editor.js";
import { Filters } from "./filters.js";
import { singleKeys } from "./keys.js";
import * as numbers from "./numbers.js";
import { maySteer, whyNot } from "./rights.js";
import { RowMenu } from "./rowmenu.js";
import { toast } from "./toast.js";

const EVERY = 2000;
/** Runs that the table holds; older ones are found by searching. */
const MOST = 500;
/** How many runs can be compared. */
const [FEWEST, LARGEST] = [2, 8];

// The grid's cells are made by a plain script; this is how they write numbers.
window.gradhelmNumbers = numbers;

export function startRuns() {
  document.title = "Runs · gradhelm";
  connection("connecting", "Connecting…");
  say("attach-server", `GRADHELM_SERVER=${location.origin}`);
  $("attach-copy")?.addEventListener("click", ({ currentTarget }) => copyFrom($("attach-code"), currentTarget.lastChild));
  return new RunsPage();
}

class RunsPage {
  filters = Filters.read(location.search);
  grid = null;
  rows = new Map();
  /** Who looks at it, as the server tells; null while that is not known. */
  user = null;
  /** Runs that could be shown and were not fetched. */
  more = 0;
  /** When this page changed something itself; what was asked for before that is out of date. */
  #changedAt = 0;
  #timer = 0;
  #polling = false;
  #told = new Map();
  #takeBack = null;

  constructor() {
    this.editor = new Editor({ saved: (run) => this.saved(run), known: () => this.filters.choices([...this.rows.values()]).tag.map(({ value }) => value) });
    this.menu = new RowMenu();
    this.chosen = makeChooser("project", "Project", (value) => this.choose("project", value));
    this.tagged = makeChooser("tag", "Tag", (value) => this.choose("tag", value));
    $("runs-choosers").replaceChildren(this.chosen.label, this.tagged.label);
    this.#bulk();
    $("runs-clear").addEventListener("click", () => this.clear());
    addEventListener("gradhelm:control", ({ detail: { id, value } }) => {
      if (id === "runs-search") this.choose("words", value ?? "");
      if (id === "runs-status") this.choose("status", !value || value === "all" ? null : value);
    });
    addEventListener("gradhelm:menu", ({ detail: { id, at } }) => this.openMenu(this.rows.get(id), at));
    addEventListener("resize", () => this.columns());
    document.addEventListener("keydown", (event) => {
      if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || !this.#takeBack) return;
      if (event.target.closest?.("input, textarea, [contenteditable]")) return;
      event.preventDefault();
      this.#takeBack();
    });
    singleKeys({ "/": () => $("runs-search").focus() });
    this.poll();
  }

  // -- what there is ------------------------------------------------------------------------

  async poll() {
    clearTimeout(this.#timer);
    if (this.#polling) return;
    this.#polling = true;
    const started = performance.now();
    try {
      const all = [];
      let cursor = null;
      let counts = {};
      // Only where not all fit must the server look for the words.
      const q = this.more ? this.filters.words.trim() : "";
      do {
        const page = await getRuns({ limit: 100, sparkline: true, cursor, q });
        all.push(...page.runs);
        counts = page.counts ?? counts;
        cursor = page.next_cursor;
      } while (cursor && all.length < MOST);
      connection("live", `Connected · ${numbers.span(performance.now() - started)}`);
      window.gradhelm.connected = true;
      if (started >= this.#changedAt) await this.update(all, counts, cursor !== null, q);
    } catch (error) {
      window.gradhelm.connected = false;
      connection("closed", "Disconnected");
      this.notice("bad", "unplug", `${error.message ?? error} Trying again; the table may be out of date.`);
    }
    this.#polling = false;
    const wait = started < this.#changedAt ? 0 : Math.max(EVERY - (performance.now() - started), 500);
    this.#timer = setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", () => this.poll(), { once: true }) : this.poll()), wait);
  }

  notice(tone, symbol, text) {
    const place = $("runs-notice");
    if (!place) return;
    show(place, text !== "");
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    place.className = `banner ${tone}`;
    place.replaceChildren(icon(symbol), make("span", {}, text));
  }

  async update(all, counts, cut, q) {
    const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
    if (!q) this.more = cut ? total - all.length : 0;
    this.notice("info", "info", cut
      ? `The newest ${numbers.count(all.length)} of ${numbers.count(total)} runs are here; searching finds the others.` : "");
    const any = all.length > 0 || q !== "";
    show("runs-card", any);
    show("runs-empty", !any);
    if (!q) this.summary(all, counts);
    this.me();
    if (!any) return;
    this.grid ??= await this.ready();
    const ids = new Set(all.map((run) => run.id));
    // Newest first: what is new goes on top of what is there.
    const changed = { add: [], update: [], remove: [], addIndex: 0 };
    for (const run of all) {
      const before = this.rows.get(run.id);
      if (!before) changed.add.push(run);
      else if (JSON.stringify(before) !== JSON.stringify(run)) changed.update.push(run);
      this.rows.set(run.id, run);
    }
    for (const [id, run] of this.rows) {
      if (ids.has(id)) continue;
      this.rows.delete(id);
      changed.remove.push(run);
    }
    this.grid.applyTransaction(changed);
    this.grid.refreshCells({ columns: ["created_at"], force: true });
    this.filter();
    window.gradhelm.drawn++;
    window.gradhelm.runs = this.rows.size;
  }

  /** Who looks at it, and what he may do. */
  async me() {
    try {
      const server = await getServer();
      say("sum-ingest-value", numbers.short(server.points_per_second));
      say("sum-ingest-note", "norms per second");
      this.user = server.user;
    } catch {
      say("sum-ingest-value", "–");
    }
    this.selected();
  }

  summary(all, counts) {
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
  }

  // -- the grid -----------------------------------------------------------------------------

  /** The grid, once it is there, with what Dash has no property for. */
  async ready() {
    const api = await window.dash_ag_grid.getApiAsync("runs-table");
    api.setGridOption("isExternalFilterPresent", () => this.filters.any);
    api.setGridOption("doesExternalFilterPass", ({ data }) => this.filters.matches(data));
    api.addEventListener("cellClicked", (event) => this.clicked(event));
    api.addEventListener("cellKeyDown", (event) => this.key(event));
    api.addEventListener("selectionChanged", () => this.selected());
    const { sort } = this.filters;
    if (sort) api.applyColumnState({ state: [{ colId: sort.by, sort: sort.order }] });
    api.addEventListener("sortChanged", () => {
      const by = api.getColumnState().find((column) => column.sort);
      this.choose("sort", by ? { by: by.colId, order: by.sort } : null);
    });
    this.columns(api);
    return api;
  }

  clicked({ data, column, event, node }) {
    if (event?.defaultPrevented || event?.target?.closest?.("a, button, input")) return;
    const where = column.getColId();
    if (where === "menu") return;
    // Beside the box is meant as on it; a touch is not that exact.
    if (where === "ag-Grid-SelectionColumn") {
      if (!event.target.closest?.(".ag-selection-checkbox")) node.setSelected(!node.isSelected());
      return;
    }
    this.open(data, event);
  }

  open(run, event) {
    const address = `/runs/${encodeURIComponent(run.id)}`;
    if (event?.ctrlKey || event?.metaKey) window.open(address, "_blank", "noopener");
    else location.assign(address);
  }

  key({ data, column, event, node }) {
    const { key } = event;
    if (key === "Enter" && column.getColId() === "menu") {
      const cell = event.target.closest(".ag-cell");
      this.openMenu(data, cell?.querySelector("button") ?? cell);
    } else if (key === "Enter") this.open(data, event);
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (key === "e" && this.may(data)) this.edit(data);
    else if (key === "Delete" && this.may(data)) this.remove(node.isSelected() ? this.selection() : [data]);
    else if (key === "c" && this.selection().length) this.compare();
    else if (key === "x") node.setSelected(!node.isSelected());
    else if (key === "Escape") this.grid.deselectAll();
    else return;
    event.preventDefault();
  }

  /** On a narrow screen the first things to know, without sideways scrolling. */
  columns(api = this.grid) {
    if (!api) return;
    const width = innerWidth;
    api.setColumnsVisible(["sparkline"], width >= 900);
    api.setColumnsVisible(["last_step"], width >= 1000);
    api.setColumnsVisible(["created_at"], width >= 1180);
    api.setColumnsVisible(["threshold"], width >= 1280);
    api.setColumnsVisible(["clip_fraction"], width >= 640);
    api.setColumnsVisible(["nonfinite"], width >= 760);
    const narrow = width < 640;
    api.applyColumnState({
      state: [
        { colId: "status", width: narrow ? 48 : 116 },
        { colId: "global_norm", width: narrow ? 70 : 92 },
        { colId: "menu", width: narrow ? 44 : 52 },
        { colId: "name", flex: 3 },
      ],
    });
  }

  // -- what is shown ------------------------------------------------------------------------

  may(run) {
    return maySteer(this.user, run.project);
  }

  choose(name, value) {
    if (JSON.stringify(this.filters[name]) === JSON.stringify(value)) return;
    this.filters[name] = value;
    clearTimeout(this.telling);
    this.telling = setTimeout(() => {
      history.replaceState(history.state, "", location.pathname + this.filters.write(location.search) + location.hash);
      if (name === "words" && this.more) this.poll();
    }, 200);
    if (name !== "sort") this.filter();
  }

  clear() {
    setProps("runs-search", { value: "" });
    setProps("runs-status", { value: "all" });
    for (const name of ["project", "tag", "status"]) this.choose(name, null);
    this.choose("words", "");
    $("runs-search").focus();
  }

  filter() {
    const all = [...this.rows.values()];
    this.choices(all);
    if (!this.grid) return;
    this.grid.onFilterChanged();
    // What one does not see must not be deleted with what one sees.
    const hidden = this.grid.getSelectedNodes().filter(({ data }) => !this.filters.matches(data));
    if (hidden.length) this.grid.setNodesSelected({ nodes: hidden, newValue: false });
    show("runs-none", !all.some((run) => this.filters.matches(run)));
  }

  choices(all) {
    const { status, project, tag } = this.filters.choices(all);
    const shown = status.reduce((sum, { count }) => sum + count, 0);
    const data = [
      { value: "all", label: `All ${numbers.count(shown)}` },
      ...status.map(({ value, count }) => ({ value, label: `${STATUS[value]?.word ?? value} ${numbers.count(count)}` })),
    ];
    show("runs-status", status.length > 1 || this.filters.status !== null);
    this.#once("status", data, () => setProps("runs-status", { data }));
    this.#once("project", project, () => this.chosen.fill(project, this.filters.project, "All projects"));
    this.#once("tag", [tag, all.length], () => this.tagged.fill(tag, this.filters.tag, "All tags", 1));
  }

  /** Acts only when what it would tell is not what it told last. */
  #once(name, value, act) {
    const key = JSON.stringify([value, this.filters[name]]);
    if (this.#told.get(name) === key) return;
    this.#told.set(name, key);
    act();
  }

  // -- several rows -------------------------------------------------------------------------

  #bulk() {
    this.count = make("span", { class: "num", role: "status" });
    this.compareButton = make("button", { type: "button", class: "button small primary", id: "bulk-compare", "aria-keyshortcuts": "c", onclick: () => this.compare() }, icon("chart-spline"), "Compare");
    this.deleteButton = make("button", { type: "button", class: "button small", id: "bulk-delete", "aria-keyshortcuts": "Delete", onclick: () => this.remove(this.selection()) }, icon("trash-2"), "Delete");
    $("runs-bulk").replaceChildren(this.count, this.compareButton, this.deleteButton,
      make("button", { type: "button", class: "close", "aria-label": "Select none", title: "Select none", onclick: () => this.grid.deselectAll() }, "×"));
  }

  /** The runs that are selected, in the order of the table. */
  selection() {
    const found = [];
    this.grid?.forEachNodeAfterFilterAndSort((node) => node.isSelected() && found.push(node.data));
    return found;
  }

  selected() {
    const { length } = this.selection();
    show("runs-bulk", length > 0);
    say(this.count, `${numbers.count(length)} selected`);
    const few = length < FEWEST || length > LARGEST;
    attribute(this.compareButton, "aria-disabled", few ? "true" : null);
    attribute(this.compareButton, "title", few ? `${FEWEST} to ${LARGEST} runs can be compared` : "Compare (C)");
    this.compareButton.classList.toggle("idle", few);
    // Where somebody may delete some runs and not others, those in the selection say which.
    const not = this.#notMine(this.selection());
    show(this.deleteButton, this.user?.may.includes("control") ?? false);
    attribute(this.deleteButton, "aria-disabled", not ? "true" : null);
    attribute(this.deleteButton, "title", not ? whyNot(this.user, not.project) : null);
    this.deleteButton.classList.toggle("idle", not !== undefined);
  }

  compare() {
    const ids = this.selection().map((run) => run.id);
    if (ids.length < FEWEST || ids.length > LARGEST) {
      toast(`${FEWEST} to ${LARGEST} runs can be compared; ${numbers.count(ids.length)} ${ids.length === 1 ? "is" : "are"} selected.`);
      return;
    }
    location.assign(`/compare?runs=${ids.map(encodeURIComponent).join(",")}`);
  }

  // -- one row ------------------------------------------------------------------------------

  openMenu(run, at) {
    if (!run || !at) return;
    const copy = { symbol: "copy", text: "Copy the run's id", act: () => this.copy(run) };
    const edit = { symbol: "pencil", text: "Name, tags, note…", key: "E", act: () => this.edit(run) };
    const remove = { symbol: "trash-2", text: "Delete", key: "Del", tone: "bad-text", act: () => this.remove([run]) };
    this.menu.open(at, this.may(run) ? [edit, copy, remove] : [copy], () => this.focus(run.id, "menu"));
  }

  async copy(run) {
    try {
      await navigator.clipboard.writeText(run.id);
      toast("The id is copied.");
    } catch {
      toast(`The browser does not let the page copy. The id is ${run.id}`);
    }
    this.focus(run.id, "menu");
  }

  edit(run) {
    this.editor.open(this.rows.get(run.id) ?? run, () => this.focus(run.id, "name"));
  }

  /** Back to the cell one came from. */
  focus(id, column) {
    const node = this.grid?.getRowNode(id);
    if (node && node.rowIndex !== null) this.grid.setFocusedCell(node.rowIndex, column);
  }

  saved(run) {
    this.#changedAt = performance.now();
    const row = { ...this.rows.get(run.id), ...run };
    this.rows.set(run.id, row);
    this.grid.applyTransaction({ update: [row] });
    this.filter();
    toast("Saved.");
  }

  /** The first of the runs that the user may not change; undefined when he may change all. */
  #notMine(runs) {
    return runs.find((run) => !this.may(run));
  }

  async remove(runs) {
    if (!runs.length) return;
    const not = this.#notMine(runs);
    if (not) {
      toast(whyNot(this.user, not.project));
      return;
    }
    const next = this.#beside(runs);
    const done = await this.#each(runs, (run) => deleteRun(run.id), "could not be deleted", "not_found");
    if (!done.length) return;
    for (const run of done) this.rows.delete(run.id);
    this.grid.applyTransaction({ remove: done });
    this.filter();
    this.selected();
    if (next) this.focus(next, "name");
    const what = done.length === 1 ? `“${short(done[0].name)}” is deleted.` : `${numbers.count(done.length)} runs are deleted.`;
    const on = done.some((run) => run.status === "live") ? " The training goes on." : "";
    let used = false;
    const undo = async () => {
      if (used) return;
      used = true;
      gone();
      this.#takeBack = null;
      const back = await this.#each(done, (run) => restoreRun(run.id), "could not be taken back", "not_deleted");
      if (back.length) toast(back.length === 1 ? `“${short(back[0].name)}” is back.` : `${numbers.count(back.length)} runs are back.`);
      await this.poll();
      if (back.length) this.focus(back[0].id, "name");
    };
    const gone = toast(what + on, { text: "Undo", act: undo });
    this.#takeBack = undo;
    this.poll();
  }

  /**
   * Acts on each run; returns those for which it worked, and says of the first for which it did not.
   * `already`: the error's code when somebody else has done it.
   */
  async #each(runs, act, failed, already) {
    const done = [];
    let wrong = null;
    for (const run of runs) {
      try {
        await act(run);
        done.push(run);
      } catch (error) {
        if (error.code === already) done.push(run);
        else wrong ??= `“${short(run.name)}” ${failed}: ${error.message ?? error}`;
      }
    }
    this.#changedAt = performance.now();
    if (wrong) toast(wrong);
    return done;
  }

  /** The run that is below (or else above) those that go. */
  #beside(runs) {
    const going = new Set(runs.map((run) => run.id));
    let [before, after, met] = [null, null, false];
    this.grid.forEachNodeAfterFilterAndSort(({ data }) => {
      if (going.has(data.id)) met = true;
      else if (met) after ??= data.id;
      else before = data.id;
    });
    return after ?? before;
  }
}

const short = (name) => (name.length > 60 ? `${name.slice(0, 59)}…` : name);

/** A choice among values with counts; hidden where there is nothing to choose. */
function makeChooser(name, title, chosen) {
  const select = make("select", { class: "field", id: `runs-${name}`, onchange: () => chosen(select.selectedIndex ? values[select.selectedIndex - 1] : null) });
  const label = make("label", { class: "chooser", hidden: true }, make("span", { class: "unseen" }, title), select);
  let values = [];
  return {
    label,
    fill(choices, value, all, fewest = 2) {
      values = choices.map((choice) => choice.value);
      select.replaceChildren(
        make("option", {}, all),
        ...choices.map((choice) => make("option", {}, `${short(choice.value)} (${numbers.count(choice.count)})`)));
      select.selectedIndex = value === null ? 0 : values.indexOf(value) + 1;
      show(label, choices.length >= fewest || value !== null);
    },
  };
}
