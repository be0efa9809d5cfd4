// The way back from the last change, whoever made it: to the document before it, or to none at all.

import { confirmed } from "./confirmed.js";
import { $, attribute, say, show } from "./dom.js";
import * as numbers from "./numbers.js";
import { Steering, moves } from "./steering.js";

/**
 * Where the way back leads: {kind, to, moves, entry}; null when there is none. Pure.
 * "withdraw": a change waits, and what is in force is made the newest document; "undo": the newest
 * version before the one in force whose document is another. `moves`: [{rule, name, from, to}].
 */
export function wayBack(control, versions) {
  if (!control) return null;
  const waits = control.version > 0 && ["pending", "delivered"].includes(control.status);
  const newest = versions.find((entry) => entry.version === control.version);
  if (waits) return newest ? { kind: "withdraw", to: control.applied.version, moves: [], entry: newest } : null;
  const now = { rules: control.rules.map(({ match, stream, applied }) => ({ match, stream, values: applied })), lr_factor: control.applied.lr_factor };
  const entry = versions.find((one) => one.version === control.applied.version);
  if (!entry) return null;
  const coded = { rules: control.rules.map(({ match, stream, coded: values }) => ({ match, stream, values })), lr_factor: 1 };
  const earlier = versions.filter((one) => one.version < entry.version && one.status === "applied");
  for (const { version, document } of [...earlier, { version: 0, document: coded }]) {
    const found = differences(now, document);
    if (found.length) return { kind: "undo", to: version, moves: found, entry };
  }
  return null;
}

function differences(now, then) {
  const found = [];
  for (const rule of then.rules) {
    const mine = now.rules.find(({ match, stream }) => match === rule.match && stream === rule.stream);
    for (const move of moves(mine?.values, rule.values)) found.push({ rule: Steering.called(rule), ...move });
  }
  if (now.lr_factor !== then.lr_factor) found.push({ rule: "", name: "lr_factor", from: now.lr_factor, to: then.lr_factor });
  return found;
}

/** A change of a value in words: "max_norm of h.* from 0.50 to 1.00". Pure. */
export function moveWords({ rule, name, from, to }) {
  const what = name === "lr_factor" ? "the factor of the learning rates" : name;
  const value = (one) => (one === null ? "none" : numbers.threshold(one));
  return `${what}${rule ? ` of ${rule}` : ""} from ${value(from)} to ${value(to)}`;
}

export class WayBack {
  #way = null;

  /** `on`: {send(body)}. */
  constructor(on) {
    this.on = on;
    $("threshold-undo").addEventListener("click", () => this.#ask());
  }

  render(control, versions, closed) {
    this.#way = closed ? null : wayBack(control, versions);
    const way = this.#way;
    show("threshold-undo", way !== null);
    if (!way) return;
    const one = way.moves.length === 1 ? way.moves[0] : null;
    const back = one ? `back to ${one.name === "lr_factor" ? "× " : ""}${numbers.threshold(one.to)}` : `back to version ${way.to}`;
    say("threshold-undo-words", way.kind === "withdraw" ? "Withdraw the change that waits" : `Undo: ${back}`);
    attribute("threshold-undo", "title", `The last change is ${way.entry.author}'s`);
  }

  async #ask() {
    const way = this.#way;
    if (!way) return;
    const { entry } = way;
    const whose = `${entry.author}'s change${entry.reason ? ` (“${entry.reason}”)` : ""}, version ${entry.version}`;
    const yes = way.kind === "withdraw"
      ? await confirmed("Withdraw the change that waits?", [`${whose}, will not be applied. What is in force stays as it is.`], "Withdraw")
      : await confirmed("Undo the last change?", [
        `${whose}, is taken back: ${way.moves.map(moveWords).join("; ")}, as ${way.to === 0 ? "the training script has it" : `in version ${way.to}`}.`,
        "It takes hold at the next step, and can be undone likewise.",
      ], "Undo");
    if (yes) this.on.send({ roll_back_to: way.to, reason: way.kind === "withdraw" ? `version ${entry.version} withdrawn` : `version ${entry.version} undone` });
  }
}
