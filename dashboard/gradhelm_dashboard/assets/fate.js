// The life of the newest change: the record that the server keeps of it, never a hope.

import { conditionWords } from "./conditions.js";
import { $, attribute, icon, make } from "./dom.js";
import * as numbers from "./numbers.js";

const WAITING = { pending: "Sent, waiting for the trainer", delivered: "Delivered, takes hold at the next step" };
const steps = (count) => `${numbers.count(count)} ${count === 1 ? "step" : "steps"}`;

/**
 * What to say of it: {tone, text, symbol, step, rest}; `rest` is how long it is there to stay. Pure.
 * `busy`: it is being sent; `message`: {tone, text} that comes before all; `took`: milliseconds from
 * here to the trainer and back; `last`: the newest step; `whose`: " of disc", where steps are another optimizer's.
 */
export function fate(control, { busy = false, message = null, took = null, last = null, whose = "" } = {}) {
  const { status, applied, version, why, not_before_step: from } = control;
  const said = (tone, text, symbol = "info", more = {}) => ({ tone, text, symbol, step: null, rest: "", ...more });
  if (busy) return said("wait", "Sending…", "clock");
  if (message) return said(message.tone, message.text, message.tone === "bad" ? "triangle-alert" : "info");
  if (version === 0) return said("", "");
  if (WAITING[status]) {
    if (from !== null && from !== undefined && last !== null && from > last + 1) {
      const where = status === "delivered" ? "Waits in the trainer" : "Sent, to wait in the trainer";
      return said("wait", `${where} until step ${numbers.count(from)}: ${steps(from - last)} to go`, "clock");
    }
    return said("wait", WAITING[status], "clock");
  }
  if (status === "reverted") return said("info", `Taken back by the trainer: ${why ?? "no reason given"}`);
  if (status === "rejected") return said("bad", `Refused by the trainer: ${why ?? "no reason given"}`, "circle-x");
  if (status !== "applied") return said("info", `Last change: ${status}`);
  if (!applied || applied.step === null) return said("", "");
  const time = took === null ? "" : `, ${numbers.span(took)}`;
  return said("ok", `Applied at step ${numbers.count(applied.step)}${whose}${time}`, "circle-check", { step: applied.step, rest: stay(control, last) });
}

/** How long a change that is in force stays so, "" for good. Pure. */
export function stay({ applied, revert_if: trial, version }, last) {
  const words = [];
  if (applied.until !== null && applied.until !== undefined) {
    const left = last === null ? null : Math.max(0, applied.until - 1 - last);
    words.push(`In force until step ${numbers.count(applied.until)}${left === null ? "" : `: ${steps(left)} left`}.`);
  }
  if (trial && applied.version === version) {
    const left = applied.step + trial.within - 1 - (last ?? applied.step);
    if (left > 0) words.push(`On trial for ${steps(left)} more: ${conditionWords({ revert_if: trial })}.`);
    else words.push("It has stood its trial.");
  }
  return words.join(" ");
}

export function renderFate(control, known) {
  const place = $("threshold-status");
  if (!place) return;
  const { tone, text, symbol, step, rest } = fate(control, known);
  attribute(place, "data-step", step === null ? null : String(step));
  attribute(place, "data-status", control.status);
  // The countdown is beside the status and not in it: a reader would hear it with every step.
  const beside = $("threshold-rest");
  if (beside.textContent !== rest) beside.textContent = rest;
  const counts = text.replace(/: [\d,]+ steps? to go$/, "");
  if (place.dataset.key === `${tone},${counts}`) {
    const words = place.querySelector("span:last-child");
    if (words && words.textContent !== text) words.textContent = text;
    return;
  }
  place.dataset.key = `${tone},${counts}`;
  place.className = tone;
  if (text) place.replaceChildren(icon(symbol), make("span", {}, text));
  else place.replaceChildren();
}
