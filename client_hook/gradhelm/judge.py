"""The judge: whether a version that is on trial stands it, as the rows have it.

Law: it looks where rows are made, in the sender thread, at numbers that are in memory already; the
training thread learns of it at a step boundary, as of any change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .control import Steering, Trial, Verdict
from .notice import Notices

if TYPE_CHECKING:
    from .clip import Outcome


class Judge:
    """Watches what is told of the version on trial; called by the sender thread only.

    The window is over when a step after it was taken. Steps that a GradScaler skipped while it
    looked for its scale, and those without gradients, are none of it.
    """

    def __init__(self, steering: Steering, notices: Notices) -> None:
        self.steering = steering
        self._notices = notices
        self._trial: Trial | None = None
        self._given = False
        self._newest = -1
        self._seen = 0
        self._clipped = 0
        self._over_since: float | None = None

    def step(self, stream: str | None, step: int, version: int, outcome: Outcome | None) -> None:
        """A step of ``stream`` was taken under ``version``; of the same step only once."""
        self._safely(self._step, stream, step, version, outcome)

    def loss(self, step: int, version: int, value: float) -> None:
        """The loss was logged, for a step of the run's first optimizer."""
        self._safely(self._loss, step, version, value)

    def look(self, before: float) -> None:
        """All losses told before ``before``, in ``time.monotonic``, are known: decides when due."""
        self._safely(self._look, before)

    def _safely(self, look: Callable[..., None], *seen: object) -> None:
        """A fault of the judge's costs no row."""
        try:
            look(*seen)
        except Exception as error:
            self._notices.fault("judging", error)

    def _step(self, stream: str | None, step: int, version: int, outcome: Outcome | None) -> None:
        trial = self._on_trial()
        if trial is None or trial.stream != stream or step <= self._newest:
            return
        self._newest = step
        if step >= _end(trial):
            self._over_since = self._over_since or time.monotonic()
            return
        if version != trial.version or outcome is None:
            return
        if outcome.skipped and outcome.found_inf is not None:
            return
        self._seen += 1
        self._clipped += outcome.changed
        self._finite(trial, "the global norm", step, outcome.global_norm.item())

    def _loss(self, step: int, version: int, value: float) -> None:
        trial = self._on_trial()
        if trial is None or version != trial.version:
            return
        if trial.stream is not None or step < _end(trial):
            self._finite(trial, "the loss", step, value)

    def _look(self, before: float) -> None:
        trial = self._on_trial()
        if trial is None or self._over_since is None or self._over_since > before:
            return
        assert trial.revert_if is not None
        why, band = None, trial.revert_if.clip_fraction
        if band is not None and self._seen:
            share = self._clipped / self._seen
            if not band[0] <= share <= band[1]:
                why = (
                    f"{share:.3g} of the {self._seen} steps from {trial.first} on were clipped, "
                    f"outside {band[0]:g} to {band[1]:g}"
                )
        self._give(Verdict(trial.version, why))

    def _finite(self, trial: Trial, what: str, step: int, value: float) -> None:
        assert trial.revert_if is not None
        if trial.revert_if.nonfinite and not math.isfinite(value):
            self._give(Verdict(trial.version, f"{what} was {value} at step {step}"))

    def _give(self, verdict: Verdict) -> None:
        self._given = True
        self.steering.judged(verdict)

    def _on_trial(self) -> Trial | None:
        """The trial under way, as long as there is something left to judge."""
        trial = self.steering.trial
        if trial is not self._trial:
            self._trial, self._given, self._over_since = trial, False, None
            self._newest, self._seen, self._clipped = -1, 0, 0
        return None if self._given or trial is None or trial.revert_if is None else trial


def _end(trial: Trial) -> int:
    """The first step after the window that is judged."""
    assert trial.revert_if is not None
    return trial.first + trial.revert_if.within
