"""Control: what remote users may change, and the one place where a change meets training.

Law: a change is taken whole or not at all, only at a step boundary, only within the limits that the
training script set. The limits live here because the trainer trusts no server.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from .wire import Applied, Change, Delivered, Limit, Limits, Rejected, Rule

_Key: TypeAlias = "tuple[str | None, str | None]"
"""The stream and the pattern that a rule is for."""
_Values: TypeAlias = "dict[_Key, dict[str, float]]"

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

    def limits(self) -> Limits:
        """What holds for every change of the run."""
        if self.read_only:
            return Limits(why_not="the training script made this run read-only")
        factor = None if self.factor is None else float(self.factor)
        return Limits(factor=factor, every_steps=self.every_steps)

    def ranges(
        self, name: str | None, coded: float | None, most: float = math.inf
    ) -> dict[str, Limit]:
        """The range of the threshold called ``name``, whose value in the script is ``coded``.

        most: the largest value that the strategy takes. Empty when there is no threshold, or
        nothing to measure a range by. Raises ValueError when ``coded`` is outside the range.
        """
        if name is None or (coded is None and (self.min is None or self.max is None)):
            return {}
        # 12 digits: 100 * 0.29 is 28.999999999999996 in floats, and 29 should be allowed.
        low = self.min if self.min is not None else float(f"{(coded or 0) / _SPAN:.12g}")
        high = self.max if self.max is not None else float(f"{(coded or 0) * _SPAN:.12g}")
        if coded is not None and not low <= coded <= high:
            raise ValueError(f"control: the coded {name} {coded!r} is outside {low!r}..{high!r}")
        # The coded value itself is always within reach: changes are taken back to it.
        return {name: Limit(float(low), min(float(high), max(most, coded or 0.0)))}


class Steered(Protocol):
    """What can be steered: a strategy, seen from here."""

    @property
    def parameters(self) -> dict[str, float]: ...
    def reset(self, values: Mapping[str, float]) -> None: ...


class Lever(NamedTuple):
    """One strategy that may be steered, and what a rule has to say to mean it.

    limits: the ranges of its values. next_step: the number of its stream's next step.
    """

    strategy: Steered
    limits: dict[str, Limit]
    next_step: Callable[[], int]
    match: str | None = None
    stream: str | None = None


class Steering:
    """The slot in which a change waits for the step boundary, and the answers on their way out.

    :meth:`receive` and :meth:`answers` belong to the sender thread, :meth:`take` to the training
    thread; they share single attributes, assigned whole.
    """

    def __init__(self, levers: Sequence[Lever], limits: Limits) -> None:
        self.limits = limits
        self.version = 0
        self._levers = {(lever.stream, lever.match): lever for lever in levers}
        self._coded = {key: lever.strategy.parameters for key, lever in self._levers.items()}
        self._slot: Change | None = None
        self._decided = 0
        self._changed_at: dict[_Key, int] = {}
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

    def take(self, stream: str | None = None) -> None:
        """A step boundary of ``stream``: takes up the waiting change, or refuses it."""
        # The slot is never emptied: emptying it could throw away a newer change put there since.
        change = self._slot
        if change is None or change.version <= self._decided:
            return
        in_force = {key: lever.strategy.parameters for key, lever in self._levers.items()}
        wanted, why = self._judge(change, in_force)
        moved = [key for key in in_force if why is None and wanted[key] != in_force[key]]
        if moved:
            stream = moved[0][0]
            why = self._move(moved, wanted, in_force)
        step = next(v.next_step() for v in self._levers.values() if v.stream == stream)
        answer: Applied | Rejected
        if why is None:
            self.version = change.version
            rules = tuple(
                Rule(lever.strategy.parameters, lever.match, lever.stream)
                for lever in self._levers.values()
            )
            answer = Applied(change.version, step, rules, stream)
        else:
            answer = Rejected(change.version, step, why[:1000])
        self._last = answer
        self._answers.append(answer)
        self._decided = change.version

    def _move(self, moved: list[_Key], wanted: _Values, in_force: _Values) -> str | None:
        """Sets what is wanted, all or nothing; returns why it could not be."""
        for key in moved:
            try:
                self._levers[key].strategy.reset(wanted[key])
            except (ValueError, TypeError) as error:
                for done in moved[: moved.index(key)]:
                    self._levers[done].strategy.reset(in_force[done])
                return str(error)
        self._changed_at |= {key: self._levers[key].next_step() for key in moved}
        return None

    def _judge(self, change: Change, in_force: _Values) -> tuple[_Values, str | None]:
        """The values that ``change`` asks for, and why they are refused (None when they are not).

        The document is whole: a value that it does not name goes back to the coded one.
        """
        if self.limits.why_not is not None:
            return in_force, self.limits.why_not
        wanted = {key: dict(values) for key, values in self._coded.items()}
        for rule in change.rules:
            key = (rule.stream, rule.match)
            if key not in wanted:
                return in_force, f"this run has no rule for {_named(key)}"
            wanted[key].update(rule.values)
        for key, lever in self._levers.items():
            for name, value in wanted[key].items():
                why = self._why_not(lever, name, value, in_force[key].get(name))
                if why is not None:
                    return in_force, why
            changed_at = self._changed_at.get(key)
            since = None if changed_at is None else lever.next_step() - changed_at
            moves = wanted[key] != in_force[key]
            if moves and since is not None and since < self.limits.every_steps:
                return in_force, (
                    f"only {since} steps after the last change; at least "
                    f"{self.limits.every_steps} must lie between"
                )
        return wanted, None

    def _why_not(self, lever: Lever, name: str, value: float, now: float | None) -> str | None:
        limit = lever.limits.get(name)
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


def _named(key: _Key) -> str:
    stream, match = key
    return " of ".join(
        part
        for part in (
            "all parameters" if match is None else f"the pattern {match!r}",
            "" if stream is None else f"the optimizer {stream!r}",
        )
        if part
    )
