// Where a run was steered: what is marked on its charts, with who did it and why. Pure.

import * as numbers from "./numbers.js";

/** "max_norm 1.00 → 0.50": what a version changed. */
export function described({ from, to, lr_factor, stop, match }) {
  const words = Object.entries(to ?? {}).filter(([name, value]) => from?.[name] !== value)
    .map(([name, value]) => `${name} ${numbers.threshold(from?.[name])} → ${numbers.threshold(value)}`);
  if (lr_factor !== undefined && lr_factor !== null && lr_factor !== 1) words.push(`learning rate × ${lr_factor}`);
  if (stop) words.push("asked to stop");
  return (words.join(", ") || "no value") + (match ? ` for ${match}` : "");
}

/**
 * What to mark: versions of the control history that took hold or ended at a step of `stream` (null:
 * the run's first), and the `jumps` of the threshold [{step, from, to}] that none of them explains.
 */
export function marks(versions, jumps, stream) {
  const found = [];
  for (const version of versions) {
    if ((version.stream ?? null) !== stream) continue;
    for (const { status, step, why } of version.events ?? []) {
      if (step === null || step === undefined) continue;
      const at = `Step ${numbers.count(step)}: `;
      if (status === "applied") {
        const reason = version.reason ? `: ${version.reason}` : "";
        found.push({ step, tone: "info", title: `${at}${described(version)}, by ${version.author || "somebody"}${reason}` });
      } else if (status === "reverted") {
        found.push({ step, tone: "clip", title: `${at}${described(version)} taken back${why ? `: ${why}` : ""}` });
      }
    }
  }
  const known = new Set(found.map(({ step }) => step));
  for (const { step, from, to } of jumps) {
    if (known.has(step)) continue;
    const change = `${numbers.threshold(from)} → ${numbers.threshold(to)}`;
    found.push({ step, tone: "faint", title: `Step ${numbers.count(step)}: threshold ${change}, by the training script` });
  }
  return found.sort((a, b) => a.step - b.step);
}
