// What of a run can be steered, and what is in force: the control document, seen for one optimizer
// and one of its rules. Pure.

import { whyNot } from "./rights.js";

const ENDED = { finished: "finished", failed: "failed", stopped: "been stopped" };
const GONE = ["rejected", "reverted", "expired"];
/** Strategies that clip by torch's rule, so that a clip fraction follows from recorded norms. */
const BY_NORM = ["GlobalNorm", "Observe"];

export class Steering {
  control = null;
  run = null;
  /** Who looks at it, {name, role, grants}; null while that is not known. */
  user = null;
  #match = undefined;

  /** `stream`: the optimizer whose rules are meant, null for the run's first. */
  constructor(stream) {
    this.stream = stream;
  }

  /** The rules of the optimizer that is shown: one for all parameters, or one for each pattern. */
  get rules() {
    return (this.control?.rules ?? []).filter((rule) => rule.stream === this.stream);
  }

  /** The one that is being steered. */
  get rule() {
    const { rules } = this;
    return rules.find((rule) => rule.match === this.#match) ?? rules.find((rule) => rule.threshold_name) ?? rules[0] ?? null;
  }

  choose(match) {
    this.#match = match;
  }

  get name() {
    return this.rule?.threshold_name ?? null;
  }

  /** The value in force, as the trainer reported it. */
  get applied() {
    return this.rule?.applied?.[this.name] ?? this.run?.threshold ?? this.rule?.coded?.[this.name] ?? null;
  }

  /** The value that was asked for last, undefined when the trainer refused it or took it back. */
  get desired() {
    return GONE.includes(this.control?.status) ? undefined : this.rule?.desired?.[this.name];
  }

  /** What the run has, or is about to have. */
  get target() {
    return this.desired ?? this.applied;
  }

  get limit() {
    return this.rule?.limits?.[this.name] ?? null;
  }

  /** Whether norms say what another threshold would have clipped. */
  get byNorm() {
    return this.rule !== null && BY_NORM.includes(this.rule.strategy) && (this.name ?? "max_norm") === "max_norm";
  }

  /** Whether the value stands in the chart as the threshold: a percentile, say, does not. */
  get isDrawn() {
    return ["max_norm", "clip_value"].includes(this.name) && this.rule.match === null;
  }

  /** Why nothing of the run can be changed by this person, null if something can, "" if that is not known yet. */
  get closed() {
    const { control, run, user } = this;
    if (!control || !run) return "";
    if (ENDED[run.status]) return `This run has ${ENDED[run.status]}; its threshold can no longer move.`;
    if (control.read_only) return sentence(control.why_read_only) ?? "The trainer does not let the threshold be moved.";
    return whyNot(user, run.project);
  }

  /** Why this threshold cannot be moved; null, "" as for `closed`. */
  get why() {
    if (this.closed !== null) return this.closed;
    return this.name ? null : sentence(this.control.why_read_only) ?? "This run has no threshold of its own that could be moved.";
  }

  /** Where logarithmic scales of the threshold begin and end, null without limits. */
  get extent() {
    const { limit } = this;
    if (!limit) return null;
    return { low: Math.log10(limit.min > 0 ? limit.min : limit.max / 1e4), high: Math.log10(limit.max) };
  }

  /** How a rule is called beside others: "disc", "h.*", "disc h.*"; "" for the only one. */
  static called({ match, stream }) {
    return [stream, match].filter(Boolean).join(" ");
  }
}

export function sentence(text) {
  if (!text) return null;
  const full = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(full) ? full : `${full}.`;
}

/** What moved between two sets of values: [{name, from, to}], in the second one's order. */
export function moves(from, to) {
  const names = new Set([...Object.keys(to ?? {}), ...Object.keys(from ?? {})]);
  return [...names].map((name) => ({ name, from: from?.[name] ?? null, to: to?.[name] ?? null })).filter((move) => move.from !== move.to);
}
