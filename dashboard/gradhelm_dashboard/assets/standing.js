// How a run and the connection to it stand: its name and status, the banner, the header's dot.

import { getRun } from "./api.js";
import { $, STATUS, connection, icon, make, say, show } from "./dom.js";
import * as numbers from "./numbers.js";

export class Standing {
  /** Since when the server cannot be reached, in milliseconds; null while it can. */
  #broken = null;

  constructor(id, stream) {
    this.id = id;
    this.stream = stream;
    this.run = null;
  }

  setRun(run) {
    const before = this.run;
    this.run = run;
    say("run-name", run.name);
    say("run-crumb", run.name);
    const { word, icon: symbol } = STATUS[run.status] ?? { word: run.status, icon: "info" };
    const chip = $("run-status");
    if (chip && chip.dataset.status !== run.status) {
      chip.dataset.status = run.status;
      chip.className = `chip ${run.status}`;
      chip.replaceChildren(icon(symbol), word);
    }
    say("run-note", run.note ?? "");
    show("run-note", Boolean(run.note?.trim()));
    const tags = [run.project, run.host, ...(run.tags ?? [])].filter(Boolean);
    const place = $("run-tags");
    if (place && place.dataset.key !== JSON.stringify(tags)) {
      place.dataset.key = JSON.stringify(tags);
      place.replaceChildren(...tags.map((tag, i) => make("span", { class: "tag", title: [`Project ${tag}`, `Host ${tag}`][i] ?? `Tag ${tag}` }, tag)));
    }
    if (before?.status !== run.status) this.setConnection();
    this.banner();
    costs(run.stats ?? {});
  }

  banner() {
    const place = $("run-banner");
    if (!place || !this.run) return;
    const { tone, text, symbol } = this.#told();
    show(place, text !== "");
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    place.className = `banner ${tone}`;
    place.replaceChildren(icon(symbol), make("span", {}, text));
  }

  #told() {
    const { run } = this;
    const heard = run.last_heard_at ? Date.parse(run.last_heard_at) : null;
    const when = heard ? `${new Date(heard).toLocaleTimeString()} (${numbers.ago(heard, Date.now())})` : "never";
    if (this.stream.state !== "open" && this.#broken) {
      const text = `The server cannot be reached. What is shown is from ${new Date(this.#broken).toLocaleTimeString()}; trying again.`;
      return { tone: "bad", symbol: "unplug", text };
    }
    switch (run.status) {
      case "stale":
        return { tone: "warn", symbol: "clock", text: `No signal since ${when}. The trainer may hang, or its connection be lost; a change of the threshold waits for it.` };
      case "failed":
        return { tone: "bad", symbol: "octagon-x", text: `${ended("Failed", run.status_reason)} Last heard at ${when}.` };
      case "stopped":
        return { tone: "info", symbol: "circle-stop", text: `${ended("Stopped", run.status_reason)} Last heard at ${when}.` };
      case "finished":
        return { tone: "info", symbol: "circle-check", text: `Finished ${when}.` };
      default:
        return { tone: "", symbol: "info", text: "" };
    }
  }

  setConnection(word = this.stream.state, attempt = 0) {
    if (!word || !this.run) return;
    window.gradhelm.connected = word === "open";
    if (word === "open") {
      this.#broken = null;
      const live = this.run.status === "live";
      const { latency } = this.stream;
      connection(live ? "live" : "idle", live ? (latency === null ? "Live" : `Live · ${numbers.span(latency)}`) : "Connected");
    } else {
      if (word === "closed" && !this.#broken) {
        this.#broken = Date.now();
        // A socket cannot tell why it was refused; a request can: without a session, off to /login.
        getRun(this.id).catch(() => null);
      }
      connection(this.#broken ? "closed" : "connecting", this.#broken ? "Disconnected, retrying" : "Connecting…");
    }
    if (attempt || word === "open") this.banner();
  }
}

/** What monitoring costs this run, as its trainer measures it. */
function costs(stats) {
  const list = $("cost-list");
  if (!list) return;
  const rows = [];
  const add = (title, value) => rows.push([title, value]);
  if (stats.handoff_p50_us !== undefined) add("Hand-off per step", numbers.micros(stats.handoff_p50_us));
  if (stats.handoff_p99_us !== undefined) add("… slowest of a hundred", numbers.micros(stats.handoff_p99_us));
  if (stats.ring_fill !== undefined) add("Buffer in use", numbers.percent(stats.ring_fill));
  if (stats.unsent !== undefined) add("Waiting to be sent", numbers.count(Math.round(stats.unsent)));
  if (stats.dropped !== undefined) add("Dropped", numbers.count(Math.round(stats.dropped)));
  show("cost-card", rows.length > 0);
  const key = JSON.stringify(rows);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...rows.flatMap(([title, value]) => [make("dt", {}, title), make("dd", { class: "num" }, value)]));
}

function ended(word, reason) {
  const text = reason ? `${word}: ${reason}` : word;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
