// The strip of figures above the charts.

import { $, say, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { sparkline } from "./spark.js";

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

/** Fills the strip of `page`: {run, stream, panel, recent(name)}. */
export function renderFigures({ run, stream, panel, recent }) {
  const { matrix } = stream;
  const step = Math.max(matrix.lastStep ?? -1, run.last_step ?? -1);
  progress(run, step);
  norm(run, matrix, step, recent("global_norm"));
  threshold(run, panel);
  clips(run, recent("clipped"));
  say("fig-nonfinite-value", run.nonfinite === null ? "–" : numbers.count(run.nonfinite ?? 0));
  $("fig-nonfinite-value").classList.toggle("bad-text", run.nonfinite > 0);
  say("fig-nonfinite-note", run.nonfinite === null ? "counted for the first optimizer" : run.nonfinite ? `${numbers.count(run.recent?.nonfinite ?? 0)} in the last ${numbers.count(run.recent?.steps ?? 500)}` : "none this run");
  loss(recent("loss"));
  say("fig-rate-value", run.steps_per_second ? numbers.short(run.steps_per_second) : "–");
  say("fig-rate-note", run.status === "live" ? "steps per second" : "not running");
}

function progress(run, step) {
  say("fig-step-value", step < 0 ? "–" : numbers.count(step));
  say("fig-step-beside", run.total_steps ? `/ ${numbers.count(run.total_steps)}` : "");
  say("fig-step-note", run.total_steps ? "" : step < 0 ? "none yet" : run.skipped ? `${numbers.count(run.skipped)} skipped` : run.first_step ? `since ${numbers.count(run.first_step)}` : "since the start");
  show("fig-step-track", Boolean(run.total_steps));
  if (run.total_steps) $("fig-step-bar").style.width = `${Math.min(100, (100 * (step + 1)) / run.total_steps)}%`;
}

function norm(run, matrix, step, norms) {
  const last = matrix.length - 1;
  const column = matrix.scalars.get("global_norm");
  const known = last >= 0 && column && column.bits[last] !== 0x7fc00bad;
  const value = known ? column.values[last] : run.global_norm;
  say("fig-norm-value", step < 0 ? "–" : !known && run.norm_finite === false ? "non-finite" : numbers.norm(value));
  $("fig-norm-value").classList.toggle("bad-text", known ? !Number.isFinite(value) : run.norm_finite === false && step >= 0);
  const finite = norms.filter(Number.isFinite);
  const usual = finite.length ? mean(finite) : run.recent?.mean_norm;
  say("fig-norm-note", usual === null || usual === undefined ? "" : `mean ${numbers.norm(usual)} over ${numbers.count(norms.length || run.recent?.steps)}`);
  document.title = `${step < 0 ? "–" : numbers.norm(value)} · ${run.name} · gradhelm`;
}

function threshold(run, panel) {
  const { rule, rules } = panel;
  const named = rule ? rule.threshold_name : run.threshold_name;
  const who = rules.length > 1 && rule.match !== null ? rule.match : (rule?.strategy ?? run.strategy ?? "");
  say("fig-threshold-value", named ? numbers.threshold(panel.applied ?? run.threshold) : "none");
  say("fig-threshold-note", named ? `${named}, ${who}` : "observing only");
}

function clips(run, values) {
  const of = values.length || run.recent?.steps || 0;
  const clipped = values.length ? values.filter((v) => v > 0).length : (run.recent?.clipped ?? 0);
  say("fig-clip-value", of ? numbers.percent(clipped / of) : "–");
  $("fig-clip-value").classList.toggle("clip-text", of > 0 && clipped / of >= 0.05);
  say("fig-clip-note", of ? `${numbers.count(clipped)} of ${numbers.count(of)} steps` : "");
}

function loss(values) {
  show("fig-loss", values.length > 0);
  if (!values.length) return;
  const known = values.filter(Number.isFinite);
  const newest = values.at(-1);
  say("fig-loss-value", numbers.norm(newest));
  $("fig-loss-value").classList.toggle("bad-text", !Number.isFinite(newest));
  say("fig-loss-note", known.length ? `mean ${numbers.norm(mean(known))} over ${numbers.count(values.length)}` : "");
  $("fig-loss-beside").replaceChildren(sparkline(values));
}
