// The threshold panel: joins what is in force, what is proposed, and what became of it.

import { getHistory, getServer, putControl } from "./api.js";
import { Advice } from "./advice.js";
import { Conditions } from "./conditions.js";
import { Conflict } from "./conflict.js";
import { Curve } from "./curve.js";
import { $, icon, make, say, show } from "./dom.js";
import { Effect } from "./effect.js";
import { renderFate } from "./fate.js";
import { Form } from "./form.js";
import { Levers } from "./levers.js";
import * as numbers from "./numbers.js";
import { RuleNorms } from "./rulenorms.js";
import { Steering } from "./steering.js";
import { Versions } from "./versions.js";
import { WayBack } from "./wayback.js";

export class Panel {
  /** The control history, newest first. */
  versions = [];
  proposed = null;
  busy = false;
  #sent = null;
  #message = null;
  #shownVersion = null;

  /**
   * `stream`: the optimizer whose rules are shown, null for the run's first.
   * `on`: {norms() → last 500 norms, clipped() → how many of them were, lastStep(), scalars(),
   * proposed(value | null), steered() when there are other versions}.
   */
  constructor(id, stream, on) {
    this.id = id;
    this.on = on;
    this.steering = new Steering(stream);
    const again = () => this.tick();
    const propose = (value, source) => this.propose(value, source);
    const send = (body) => this.#send(body);
    this.norms = new RuleNorms(id, stream, { norms: on.norms, clipped: on.clipped, again });
    this.form = new Form(propose);
    this.curve = new Curve(id, stream, { propose: (value) => propose(value, "curve"), again });
    this.conditions = new Conditions({ lastStep: on.lastStep, apply: () => this.apply(), changed: () => this.render() });
    this.advice = new Advice(id, stream, { propose: (value) => propose(value, "advice"), rule: () => this.rule, closed: () => this.steering.why !== null });
    this.levers = new Levers({ send, reason: () => this.form.reason, tell: (tone, text) => this.#tell(tone, text) });
    this.wayBack = new WayBack({ send });
    this.effect = new Effect(id, stream, { lastStep: on.lastStep, scalars: on.scalars });
    this.history = new Versions();
    this.conflict = new Conflict();
    this.refreshHistory();
    getServer().then(({ user }) => {
      this.steering.user = user;
      this.render();
    }, () => null); // a change that is not allowed is refused with its reason anyhow
  }

  get control() {
    return this.steering.control;
  }

  get rules() {
    return this.steering.rules;
  }

  get rule() {
    return this.steering.rule;
  }

  get applied() {
    return this.steering.applied;
  }

  get name() {
    return this.steering.name;
  }

  setRun(run) {
    this.steering.run = run;
    this.render();
  }

  setControl(control) {
    const before = this.control;
    if (before && control.version < before.version) return;
    const edited = before !== null && this.#edited();
    this.steering.control = control;
    if (this.#sent && control.status === "applied" && control.version >= this.#sent.version && !this.#sent.took) {
      this.#sent.took = performance.now() - this.#sent.at;
    }
    const changed = !before || before.version !== control.version || before.status !== control.status;
    if (changed) {
      // Somebody else's change must not overwrite what is being typed.
      const fresh = control.version !== this.#shownVersion;
      if (fresh ? this.#mine() || !edited : control.status === "reverted" && !edited) this.reset();
      this.#shownVersion = control.version;
      if (control.status !== "pending" && this.#mine()) this.#message = null;
      this.refreshHistory();
    }
    this.render();
  }

  #mine() {
    return this.#sent !== null && this.control.version === this.#sent.version;
  }

  /** Whether something is typed that is not what was asked for. */
  #edited() {
    const { target } = this.steering;
    return target !== null && (this.proposed === null || Math.fround(this.proposed) !== Math.fround(target));
  }

  get #forSomeSteps() {
    return Number.isInteger(this.control.applied.until);
  }

  #differs() {
    return this.proposed !== null && this.proposed > 0 && Math.fround(this.proposed) !== Math.fround(this.applied ?? NaN);
  }

  /** Another rule is to be steered. */
  choose(match) {
    this.steering.choose(match);
    this.reset();
    this.tick();
  }

  propose(value, source) {
    this.proposed = source === "curve" || source === "advice" ? this.#inside(value) : value;
    this.#message = null;
    this.form.set(this.proposed, source);
    this.on.proposed(this.#differs() && this.steering.isDrawn ? this.proposed : null);
    this.render();
  }

  #inside(value) {
    const { limit } = this.steering;
    return limit ? Math.min(limit.max, Math.max(limit.min, value)) : value;
  }

  /** Back to what was asked for last. */
  reset() {
    this.conflict.close();
    this.propose(tidy(this.steering.target), "reset");
  }

  apply() {
    const value = this.form.typed;
    if (this.steering.why !== null || this.busy) return;
    const { limit } = this.steering;
    if (value === null) return this.#tell("bad", "Type a number first.");
    if (Number.isNaN(value)) return this.#tell("bad", "That is not a number. Write it like 0.5 or 5e-4.");
    if (limit && (value < limit.min || value > limit.max)) {
      return this.#tell("bad", `The trainer accepts ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}.`);
    }
    const conditions = this.conditions.body();
    if (conditions === null) return;
    // With conditions it is another change, although the value is the same.
    if (value === this.steering.target && !Object.keys(conditions).length && !this.#forSomeSteps) {
      return this.#tell("info", `${numbers.threshold(value)} is what the run has already.`);
    }
    this.proposed = value;
    const { match, stream } = this.rule;
    return this.#send({ [this.name]: value, match, stream, reason: this.form.reason, ...conditions });
  }

  async #send(body) {
    if (this.busy) return;
    this.busy = true;
    this.#message = null;
    this.conflict.close();
    const at = performance.now();
    this.render();
    try {
      const answer = await putControl(this.id, this.control.version, body);
      this.#sent = { version: answer.version, at, took: null };
      this.form.forgetReason();
      this.conditions.clear();
      this.busy = false;
      // The socket may have told of its fate before this answer came.
      if (this.control.version < answer.version) this.setControl(answer);
      else this.setControl({ ...this.control });
    } catch (error) {
      this.busy = false;
      this.#refused(error, body);
    }
    this.render();
  }

  #refused(error, body) {
    if (error.status === 412 && error.details.current) {
      this.#outdone(error.details.current, body);
    } else if (error.status === 422) {
      const limit = error.details.limits?.[this.name];
      const range = limit ? ` Accepted: ${numbers.threshold(limit.min)} to ${numbers.threshold(limit.max)}.` : "";
      this.#tell("bad", `${error.message}${range}`);
    } else {
      this.#tell("bad", error.message);
    }
  }

  /** Somebody else was quicker than `body`. */
  #outdone(current, body) {
    this.#shownVersion = current.version;
    this.steering.control = current;
    const own = this.name in body;
    const theirs = numbers.threshold(this.rule?.desired?.[this.name]);
    this.#tell("bad", own ? `Somebody set it to ${theirs} meanwhile.` : "Somebody changed the run's control meanwhile.");
    this.conflict.open({
      theirs,
      mine: own ? numbers.threshold(body[this.name]) : said(body),
      mineAction: own ? "Apply mine" : "Send mine again",
      keep: () => this.reset(),
      // What was typed since is what counts.
      replace: () => (own ? this.apply() : this.#send(body)),
    });
    this.refreshHistory();
  }

  #tell(tone, text) {
    this.#message = { tone, text };
    this.render();
  }

  render() {
    if (!$("threshold-card") || !this.control) return;
    const { control, steering } = this;
    const { why } = steering;
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
    say("threshold-proposed", numbers.threshold(this.proposed || null));
    $("threshold-proposed").classList.toggle("active", differs);
    $("threshold-proposed").parentElement.hidden = why !== null;
    $("threshold-card").querySelector(".from-to > .icon").hidden = why !== null;
    this.form.limit(steering.limit, steering.extent, control.factor);
    const edited = this.#edited();
    // What is in force for some steps only can be kept by asking for it once more.
    const keeps = !edited && !this.conditions.any && this.#forSomeSteps;
    say("threshold-apply", keeps ? "Keep for good" : "Apply to run");
    this.form.buttons((edited || keeps || this.conditions.any) && !this.busy, edited);
    this.levers.render(control, steering.closed !== null);
    this.wayBack.render(control, this.versions, steering.closed !== null || this.busy);
    this.advice.render();
    this.tick();
  }

  /** What moves with every step: what would have been clipped, countdowns, the comparison. */
  tick() {
    const { control, steering } = this;
    if (!$("threshold-card") || !control) return;
    const open = steering.why === null;
    const found = steering.byNorm ? this.norms.of(this.rule) : { norms: [], clipped: 0 };
    const proposed = open && this.#differs() ? this.proposed : null;
    this.form.whatIf({ norms: found.norms, now: found.clipped, applied: this.applied, proposed });
    this.curve.render({ norms: found.norms, extent: steering.extent, applied: this.applied, proposed, open, rule: this.rule });
    const mine = this.#mine() || (this.#sent && control.version > this.#sent.version);
    renderFate(control, { busy: this.busy, message: this.#message, took: mine ? this.#sent.took : null, last: this.on.lastStep(), whose: this.#ofWhom() });
    this.effect.render(this.versions);
    this.history.tick();
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

  /** Whose step a change took hold at, where that is not plain. */
  #ofWhom() {
    const { stream } = this.control;
    return stream === this.steering.stream || stream === undefined ? "" : ` of ${stream ?? this.steering.run?.streams?.[0]?.name}`;
  }

  async refreshHistory() {
    let versions;
    try {
      versions = await getHistory(this.id);
    } catch {
      return;
    }
    this.versions = versions;
    this.on.steered();
    this.history.render(versions, this.control?.rules ?? []);
    this.conflict.tell(versions[0]);
    this.render();
  }
}

const tidy = (value) => (typeof value === "number" ? Number(value.toPrecision(6)) : null);

/** A change that is not one of the threshold, in a few words. */
function said({ lr_factor: factor, stop, roll_back_to: version }) {
  if (factor !== undefined) return `learning rates × ${numbers.threshold(factor)}`;
  if (stop !== undefined) return stop ? "stop" : "no stop";
  return version === 0 ? "as coded" : `back to version ${version}`;
}
