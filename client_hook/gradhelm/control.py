"""Control: what remote users may change, and the one place where a change meets training.

Law: a change is taken whole or not at all, only at a step boundary, only within the limits that the
training script set. The limits live here because the trainer trusts no server.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from .wire import Applied, Change, Delivered, Limit, Limits, Rejected, Rule

_SPAN: Final = 100.0
"""By default a value may move between 1/100 and 100 times the coded one."""


@dataclass(frozen=True)
class Control:
    """What remote users may change about a run.

    min, max: the range of the threshold; each defaults to 1/100 and 100 times the coded value.
    factor: the largest ratio of one change, up or down; None for any.
    every_steps: the least number of steps between two changes.
    read_only: nothing may be changed; see :meth:`none`.

    Raises TypeError or ValueError for values that make no range.
    """

    min: float | None = None
    max: float | None = None
    factor: float | None = None
    every_steps: int = 0
    read_only: bool = False

    def __post_init__(self) -> None:
        for name in ("min", "max", "factor"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Control {name} must be a number, not {type(value).__name__}")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Control {name} must be finite and above 0, not {value!r}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"Control min {self.min!r} is above max {self.max!r}")
        if self.factor is not None and self.factor <= 1:
            raise ValueError(f"Control factor must be above 1, not {self.factor!r}")
        if isinstance(self.every_steps, bool) or not isinstance(self.every_steps, int):
            raise TypeError(
                f"Control every_steps must be an int, not {type(self.every_steps).__name__}"
            )
        if self.every_steps < 0:
            raise ValueError(f"Control every_steps must not be negative, not {self.every_steps}")

    @classmethod
    def none(cls) -> Control:
        """Nothing may be changed: the run is read-only."""
        return cls(read_only=True)

    def limits(self, name: str | None, coded: float | None) -> Limits:
        """The limits of the threshold called ``name``, whose value in the script is ``coded``.

        Raises ValueError when ``coded`` is outside the range.
        """
        if self.read_only:
            return Limits(why_not="the training script made this run read-only")
        if name is None:
            return Limits(why_not="the run's strategy has no threshold")
        if coded is None and (self.min is None or self.max is None):
            return Limits(
                why_not="the run only observes: attach with max_norm=... or with "
                "control=Control(min=..., max=...)"
            )
        # 12 digits: 100 * 0.29 is 28.999999999999996 in floats, and 29 should be allowed.
        low = self.min if self.min is not None else float(f"{(coded or 0) / _SPAN:.12g}")
        high = self.max if self.max is not None else float(f"{(coded or 0) * _SPAN:.12g}")
        if coded is not None and not low <= coded <= high:
            raise ValueError(f"control: the coded {name} {coded!r} is outside {low!r}..{high!r}")
        return Limits(
            values={name: Limit(float(low), float(high))},
            factor=None if self.factor is None else float(self.factor),
            every_steps=self.every_steps,
        )


class Steered(Protocol):
    """What can be steered: a strategy, seen from here."""

    @property
    def parameters(self) -> dict[str, float]: ...
    def set(self, **values: float) -> None: ...
    def reset(self, values: Mapping[str, float]) -> None: ...


class Steering:
    """The slot in which a change waits for the step boundary, and the answers on their way out.

    :meth:`receive` and :meth:`answers` belong to the sender thread, :meth:`take` to the training
    thread; they share single attributes, assigned whole.
    """

    def __init__(self, strategy: Steered, limits: Limits) -> None:
        self.limits = limits
        self.version = 0
        self.coded = strategy.parameters
        self._strategy = strategy
        self._slot: Change | None = None
        self._decided = 0
        self._changed_at: int | None = None
        self._answers: deque[Applied | Rejected] = deque()
        self._last: Applied | Rejected | None = None

    @property
    def waiting(self) -> bool:
        """Whether a change waits for the next step boundary."""
        slot = self._slot
        return slot is not None and slot.version > self._decided

    def receive(self, change: Change) -> Delivered | Applied | Rejected | None:
        """A change from the server: the newest waits; one decided before gets its answer again."""
        if change.version <= self._decided:
            last = self._last
            return last if last is not None and last.version == change.version else None
        slot = self._slot
        if slot is None or slot.version <= change.version:
            self._slot = change
        return Delivered(change.version)

    def answers(self) -> deque[Applied | Rejected]:
        """Answers that were not yet sent, oldest first; the sender removes what it has sent."""
        return self._answers

    def repeat(self) -> None:
        """A new connection: the newest answer goes out again, for the old one may have lost it."""
        last = self._last
        if last is not None and last not in self._answers:
            self._answers.append(last)

    def take(self, step: int) -> None:
        """The boundary before ``step``: takes up the waiting change, or refuses it."""
        # The slot is never emptied: emptying it could throw away a newer change put there since.
        change = self._slot
        if change is None or change.version <= self._decided:
            return
        in_force = self._strategy.parameters
        wanted, why = self._judge(change, in_force, step)
        if why is None and wanted != in_force:
            try:
                self._strategy.reset(wanted)
                self._changed_at = step
            except (ValueError, TypeError) as error:
                why = str(error)
        answer: Applied | Rejected
        if why is None:
            self.version = change.version
            answer = Applied(change.version, step, (Rule(self._strategy.parameters),))
        else:
            answer = Rejected(change.version, step, why[:1000])
        self._last = answer
        self._answers.append(answer)
        self._decided = change.version

    def _judge(
        self, change: Change, in_force: dict[str, float], step: int
    ) -> tuple[dict[str, float], str | None]:
        """The values that ``change`` asks for, and why they are refused (None when they are not).

        The document is whole: a value that it does not name goes back to the coded one.
        """
        if self.limits.why_not is not None:
            return in_force, self.limits.why_not
        wanted = dict(self.coded)
        for rule in change.rules:
            if rule.match is not None:
                return in_force, f"this run has no rule for the pattern {rule.match!r}"
            wanted.update(rule.values)
        for name, value in wanted.items():
            why = self._why_not(name, value, in_force.get(name))
            if why is not None:
                return in_force, why
        since = None if self._changed_at is None else step - self._changed_at
        if wanted != in_force and since is not None and since < self.limits.every_steps:
            return in_force, (
                f"only {since} steps after the last change; at least "
                f"{self.limits.every_steps} must lie between"
            )
        return wanted, None

    def _why_not(self, name: str, value: float, now: float | None) -> str | None:
        limit = self.limits.values.get(name)
        if value == now:
            return None
        if limit is None:
            return f"{name} may not be changed from outside"
        if not math.isfinite(value):
            return f"{name} must be a finite number, not {value!r}"
        if not limit.min <= value <= limit.max:
            return f"{name} {value!r} is outside {limit.min!r}..{limit.max!r}"
        factor = self.limits.factor
        if now is not None and factor is not None and max(value / now, now / value) > factor:
            return f"{name} {value!r} is more than a factor {factor!r} from {now!r}"
        return None
