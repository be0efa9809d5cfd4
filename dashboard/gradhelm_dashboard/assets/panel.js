// The threshold panel: what is in force, what is proposed, what became of it. It shows the record
// that the server keeps of a change, never a hope.

import { getHistory, putControl } from "./api.js";
import { $, attribute, icon, make, say, setProps, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { countClipped } from "./whatif.js";

const WAITING = { pending: "Sent, waiting for the trainer", delivered: "Delivered, takes hold at the next step" };

export class Panel {
  control = null;
  run = null;
  proposed = null;
  busy = false;
  #sent = null;
  #slider = 0;
  #message = null;
  #limits = "";
  #shownVersion = null;
  #match = undefined;

  /**
   * `stream`: the optimizer whose rules are shown, null for the run's first.
   * `on`: {norms() → last 500 norms, clipped() → how many of them were, proposed(value | null)}.
   */
  constructor(id, stream, on) {
    this.id = id;
    this.stream = stream;
    this.on = on;
    this.refreshHistory();
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

  get name() {
    return this.rule?.threshold_name ?? null;
  }

  /** The value in force, as the trainer reported it. */
  get applied() {
    return this.rule?.applied?.[this.name] ?? this.run?.threshold ?? this.rule?.coded?.[this.name] ?? null;
  }

  /** Another rule is to be steered. */
  choose(match) {
    this.#match = match;
    this.reset();
  }

  /** The choice of the rule, where there are several. */
  #choices() {
    const { rules } = this;
    const place = $("threshold-rule");
    show("threshold-rule-field", rules.length > 1);
    const key = JSON.stringify(rules.map((rule) => [rule.match, rule.strategy]));
    if (place && place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...rules.map((rule, i) => make("option", { value: String(i) }, `${rule.match ?? "all parameters"} (${rule.strategy})`)));
      place.onchange = () => this.choose(this.rules[Number(place.value)].match);
    }
    if (place && rules.length > 1) place.value = String(rules.indexOf(this.rule));
  }

  setRun(run) {
    this.run = run;
    this.render();
  }

  setControl(control) {
    const before = this.control;
    if (before && control.version < before.version) return;
    this.control = control;
    if (this.#sent && control.status === "applied" && control.version >= this.#sent.version && !this.#sent.took) {
      this.#sent.took = performance.now() - this.#sent.at;
    }
    const changed = !before || before.version !== control.version || before.status !== control.status;
    if (changed) {
      if (!this.#mine(control) && before && this.#edited(before)) {
        // Somebody else's change must not overwrite what is being typed.
        this.#message ??= null;
      } else if (control.version !== this.#shownVersion) {
        this.reset();
      }
      this.#shownVersion = control.version;
      if (control.status !== "pending" && this.#mine(control)) this.#message = null;
      this.refreshHistory();
    }
    this.render();
  }

  #mine(control) {
    return this.#sent !== null && control.version === this.#sent.version;
  }

  #edited(control) {
    const value = ruleIn(control, this.rule)?.desired?.[this.name];
    return this.proposed !== null && value !== undefined && this.proposed !== value;
  }

  /** The slider or the input moved. */
  changed(id, value) {
    if (id === "threshold-slider") {
      if (typeof value !== "number" || Math.abs(value - this.#slider) < 1e-9) return;
      this.#slider = value;
      this.#propose(numbers.fromSlider(value), "slider");
    } else if (id === "threshold-input" && value !== undefined && value !== null) {
      const number = value === "" ? null : Number(value);
      if (number === this.proposed || Number.isNaN(number)) return;
      this.#propose(number, "input");
    }
  }

  #propose(value, source) {
    this.proposed = value;
    this.#message = null;
    if (source !== "input") setProps("threshold-input", { value: value ?? "", step: stepOf(value) });
    else setProps("threshold-input", { step: stepOf(value) });
    if (source !== "slider" && value > 0) {
      this.#slider = Math.round(numbers.toSlider(value) * 100) / 100;
      setProps("threshold-slider", { value: this.#slider });
    }
    this.on.proposed(this.#differs() && this.#isDrawn() ? value : null);
    this.render();
  }

  /** Whether the value stands in the chart as the threshold: a percentile, say, does not. */
  #isDrawn() {
    return ["max_norm", "clip_value"].includes(this.name) && this.rule.match === null;
  }

  #differs() {
    return this.proposed !== null && this.proposed > 0 && Math.fround(this.proposed) !== Math.fround(this.applied ?? NaN);
  }

  /** Back to what was asked for last. */
  reset() {
    this.#message = null;
    const desired = this.control?.status === "rejected" ? undefined : this.rule?.desired?.[this.name];
    this.#propose(tidy(desired ?? this.applied), "reset");
  }

  async apply() {
    const field = $("threshold-input");
    const typed = field?.tagName === "INPUT" ? field.value : field?.querySelector("input")?.value;
    // The field itself, and not what has come through from it: Enter may be faster.
    const value = typed === undefined || typed === "" ? null : Number(typed);
    if (this.#why() !== null || this.busy) return;
    const limit = this.rule.limits?.[this.name];
    if (value === null || Number.isNaN(value)) return this.#tell("bad", "Type a number first.");
    if (limit && (value < limit.min || value > limit.max)) {
      return this.#tell("bad", `The trainer accepts ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}.`);
    }
    const desired = this.rule.desired?.[this.name];
    if (value === desired && this.control.status !== "rejected") {
      return this.#tell("info", `${numbers.threshold(value)} is what the run has already.`);
    }
    this.proposed = value;
    this.busy = true;
    this.#message = null;
    const at = performance.now();
    this.render();
    try {
      const reason = (window.gradhelmControls.get("threshold-reason") ?? $("threshold-reason")?.value ?? "").trim().slice(0, 500);
      const answer = await putControl(this.id, this.control.version, this.rule, { [this.name]: value }, reason);
      this.#sent = { version: answer.version, at, took: null };
      setProps("threshold-reason", { value: "" });
      this.busy = false;
      // The socket may have told of its fate before this answer came.
      if (this.control.version < answer.version) this.setControl(answer);
      else this.setControl({ ...this.control });
    } catch (error) {
      this.busy = false;
      this.#refused(error, value);
    }
    this.render();
  }

  #refused(error, value) {
    if (error.status === 412 && error.details.current) {
      const current = error.details.current;
      this.#shownVersion = current.version;
      this.control = current;
      this.proposed = value;
      const now = numbers.threshold(this.rule?.desired?.[this.name]);
      this.#tell("bad", `Somebody set it to ${now} meanwhile. Apply again to replace that by ${numbers.threshold(value)}.`);
      this.refreshHistory();
    } else if (error.status === 422) {
      const limit = error.details.limits?.[this.name];
      const range = limit ? ` Accepted: ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}.` : "";
      this.#tell("bad", `${error.message}${range}`);
    } else {
      this.#tell("bad", error.message);
    }
  }

  #tell(tone, text) {
    this.#message = { tone, text };
    this.render();
  }

  /** Why nothing can be changed, null if it can. */
  #why() {
    const { control, run } = this;
    if (!control || !run) return "";
    if (["finished", "failed", "stopped"].includes(run.status)) {
      return `This run has ${{ finished: "finished", failed: "failed", stopped: "been stopped" }[run.status]}; its threshold can no longer move.`;
    }
    if (!this.name) {
      return sentence(control.why_read_only) ?? "This run has no threshold of its own that could be moved.";
    }
    if (control.read_only) return sentence(control.why_read_only) ?? "The trainer does not let the threshold be moved.";
    return null;
  }

  render() {
    if (!$("threshold-card") || !this.control) return;
    const why = this.#why();
    this.#choices();
    const closed = $("threshold-closed");
    show(closed, why !== null && why !== "");
    if (why && closed.dataset.text !== why) {
      closed.dataset.text = why;
      closed.replaceChildren(icon("lock"), make("span", {}, why));
    }
    show("threshold-form", why === null);
    $("threshold-card").classList.toggle("is-closed", why !== null);
    say("threshold-kind", this.name ?? "");
    show("threshold-kind", this.name !== null);
    say("threshold-applied", numbers.threshold(this.applied));
    const differs = this.#differs();
    say("threshold-proposed", numbers.threshold(this.proposed));
    $("threshold-proposed").classList.toggle("active", differs);
    $("threshold-proposed").parentElement.hidden = why !== null;
    $("threshold-card").querySelector(".from-to > .icon").hidden = why !== null;
    this.#setLimits();
    const apply = $("threshold-apply");
    const idle = !differs || this.busy;
    apply.classList.toggle("idle", idle);
    attribute(apply, "aria-disabled", idle ? "true" : "false");
    attribute("threshold-reset", "aria-disabled", this.#edited(this.control) ? "false" : "true");
    $("threshold-reset").classList.toggle("idle", !this.#edited(this.control));
    if (why === null) this.whatIf();
    this.#status();
  }

  #setLimits() {
    const limit = this.rule?.limits?.[this.name];
    const key = JSON.stringify([limit, this.control.factor]);
    if (!limit || key === this.#limits || !window.dash_clientside?.set_props) return;
    this.#limits = key;
    const low = Math.log10(limit.min > 0 ? limit.min : limit.max / 1e4);
    const high = Math.log10(limit.max);
    const marks = [];
    const decades = [];
    for (let e = Math.ceil(low - 1e-9); e <= high + 1e-9; e++) decades.push(e);
    const every = Math.ceil(decades.length / 5);
    for (const e of decades) if ((e - decades[0]) % every === 0) marks.push({ value: e, label: numbers.tick(Number(`1e${e}`)) });
    setProps("threshold-slider", { min: round(low), max: round(high), marks });
    const factor = this.control.factor ? `, at most × ${this.control.factor} at a time` : "";
    setProps("threshold-input", {
      label: `Exact value, ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}${factor}`,
    });
  }

  /** The sentence and the bars under the slider; called as new steps come in, too. */
  whatIf() {
    const place = $("whatif");
    if (!place) return;
    // The norms at hand are those of all parameters together.
    const norms = this.name === "max_norm" && this.rule.match === null ? this.on.norms() : [];
    show(place, norms.length > 0);
    if (!norms.length) return;
    const now = this.on.clipped();
    const of = norms.length;
    const differs = this.#differs();
    const then = differs ? countClipped(norms, this.proposed) : now;
    const key = [differs ? this.proposed : null, then, now, of, this.applied].join();
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const steps = of === 1 ? "step" : `${of} steps`;
    const bold = (text) => make("b", {}, String(text));
    if (differs) {
      $("whatif-text").replaceChildren(
        bold(numbers.threshold(this.proposed)), " would have clipped ", bold(then), ` of the last ${steps}, instead of `, bold(now), ".",
      );
    } else {
      $("whatif-text").replaceChildren("Move the slider to see how another threshold would have treated the recent steps.");
    }
    const bar = (value, clipped, tone) => {
      const fill = make("div", { class: tone });
      fill.style.width = `${(100 * clipped) / of}%`;
      return make("div", { class: "whatif-bar" },
        make("span", { class: "muted" }, `At ${numbers.threshold(value)}`),
        make("div", { class: "bar" }, fill),
        make("span", { class: "num" }, numbers.percent(clipped / of)));
    };
    const bars = [bar(this.applied, now, "clip")];
    if (differs) bars.push(bar(this.proposed, then, "accent"));
    $("whatif-bars").replaceChildren(...bars);
  }

  #status() {
    const place = $("threshold-status");
    if (!place) return;
    const { status, applied, version, why } = this.control;
    const mine = this.#mine(this.control) || (this.#sent && version > this.#sent.version);
    let tone = "";
    let text = "";
    let symbol = "info";
    let step = null;
    if (this.busy) [tone, text, symbol] = ["wait", "Sending…", "clock"];
    else if (this.#message) [tone, text, symbol] = [this.#message.tone, this.#message.text, this.#message.tone === "bad" ? "triangle-alert" : "info"];
    else if (WAITING[status] && version > 0) [tone, text, symbol] = ["wait", WAITING[status], "clock"];
    else if (status === "rejected") [tone, text, symbol] = ["bad", `Refused by the trainer: ${why ?? "no reason given"}`, "circle-x"];
    else if (status === "applied" && applied && version > 0) {
      step = applied.step;
      const took = mine && this.#sent?.took ? `, ${numbers.span(this.#sent.took)}` : "";
      [tone, text, symbol] = ["ok", `Applied at step ${numbers.count(step)}${this.#ofWhom()}${took}`, "circle-check"];
    } else if (version > 0 && status !== "applied") [tone, text] = ["info", `Last change: ${status}`];
    const key = [tone, text].join();
    attribute(place, "data-step", step === null ? null : String(step));
    attribute(place, "data-status", status);
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    place.className = tone;
    if (text) place.replaceChildren(icon(symbol), make("span", {}, text));
    else place.replaceChildren();
  }

  /** Whose step a change took hold at, where that is not plain. */
  #ofWhom() {
    const { stream } = this.control;
    return stream === this.stream || stream === undefined ? "" : ` of ${stream ?? this.run?.streams?.[0]?.name}`;
  }

  async refreshHistory() {
    let versions;
    try {
      versions = await getHistory(this.id);
    } catch {
      return;
    }
    const place = $("threshold-history");
    if (!place) return;
    const value = (values) => numbers.threshold(Object.values(values ?? {})[0]);
    place.replaceChildren(...versions.slice(0, 6).map((entry) =>
      make("div", { class: `history ${entry.status}`, title: entry.why ?? null },
        make("span", { class: "num faint" }, entry.step === null || entry.step === undefined ? entry.status : numbers.count(entry.step)),
        make("span", { class: "change" }, `${value(entry.from)} → `, make("b", {}, value(entry.to)),
          entry.match || entry.stream ? make("span", { class: "mono faint" }, ` ${[entry.stream, entry.match].filter(Boolean).join(" ")}`) : null),
        make("span", { class: "faint author" }, entry.author ?? ""),
        entry.reason || (entry.status === "rejected" && entry.why)
          ? make("span", { class: "reason faint" }, entry.status === "rejected" ? entry.why : entry.reason) : null)));
  }
}

const ruleIn = (control, like) => control.rules?.find((rule) => rule.match === like?.match && rule.stream === like?.stream);
const round = (value) => Math.round(value * 100) / 100;
const tidy = (value) => (typeof value === "number" ? Number(value.toPrecision(6)) : null);

function sentence(text) {
  if (!text) return null;
  const full = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(full) ? full : `${full}.`;
}

/** One press of the arrow moves the second figure: about a hundredth to a tenth. */
function stepOf(value) {
  return value > 0 ? Number(`1e${Math.floor(Math.log10(value)) - 1}`) : 0.01;
}
