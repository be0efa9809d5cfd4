"""Control: what remote users may change, and the one place where a change meets training.

Law: a change is taken whole or not at all, only at a step boundary, only within the limits that the
training script set. The limits live here because the trainer trusts no server.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from .wire import (
    MAX_LR_FACTOR,
    Applied,
    Change,
    Delivered,
    Document,
    Limit,
    Limits,
    Rejected,
    Reverted,
    RevertIf,
    Rule,
)

_Key: TypeAlias = "tuple[str | None, str | None]"
"""The stream and the pattern that a rule is for."""
_Values: TypeAlias = "dict[_Key, dict[str, float]]"
_Answer: TypeAlias = Applied | Rejected | Reverted

_SPAN: Final = 100.0
"""By default a value may move between 1/100 and 100 times the coded one."""


@dataclass(frozen=True)
class Control:
    """What remote users may change about a run.

    min, max: the range of the threshold; each defaults to 1/100 and 100 times the coded value.
    factor: the largest ratio of one change, up or down; None for any.
    every_steps: the least number of steps between two changes.
    strategies: the other named values of the strategies may be changed as well, each between 1/100
    and 100 times its coded value and within what its strategy takes.
    stop: the run may be asked to end, see ``Run.should_stop``.
    lr: the learning rates may be multiplied by 1/100 to 100; only with optimizers that do not step
    inside backward.
    read_only: nothing may be changed; see :meth:`none`.

    Raises TypeError or ValueError for values that make no range.
    """

    min: float | None = None
    max: float | None = None
    factor: float | None = None
    every_steps: int = 0
    read_only: bool = False
    strategies: bool = False
    stop: bool = False
    lr: bool = False

    def __post_init__(self) -> None:
        for name in ("min", "max", "factor"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Control {name} must be a number, not {type(value).__name__}")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Control {name} must be finite and above 0, not {value!r}")
        for name in ("read_only", "strategies", "stop", "lr"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"Control {name} must be True or False, not {type(value).__name__}")
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

    def limits(self, *, lr: bool = False) -> Limits:
        """What holds for every change of the run; ``lr``: whether it has learning rates that can
        be scaled."""
        if self.read_only:
            return Limits(why_not="the training script made this run read-only")
        factor = None if self.factor is None else float(self.factor)
        return Limits(factor, self.every_steps, lr=self.lr and lr, stop=self.stop)

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

    def others(self, name: str, coded: float, takes: Takes) -> dict[str, Limit]:
        """The range of another value, called ``name``, of which the strategy takes ``takes``.

        Empty for a value of 0 or below: no range can be measured by it.
        """
        if coded <= 0:
            return {}
        low, high = float(f"{coded / _SPAN:.12g}"), float(f"{coded * _SPAN:.12g}")
        # Of an open range, an end well inside; the coded value is within reach in any case.
        least = takes.low if takes.low_in else takes.low + 0.01 * (coded - takes.low)
        most = takes.high
        if not takes.high_in and most != math.inf:
            most -= 0.01 * (most - coded)
        low, high = max(low, least), min(high, most)
        if takes.whole:
            low, high = math.ceil(low), math.floor(high)
        return {name: Limit(float(min(low, coded)), float(max(high, coded)), takes.whole)}


class Takes(Protocol):
    """What a named value may be, as its strategy says."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def low_in(self) -> bool: ...
    @property
    def high_in(self) -> bool: ...
    @property
    def whole(self) -> bool: ...


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


class _Document(NamedTuple):
    """All that is set from outside, as a version has it."""

    version: int
    values: _Values
    lr_factor: float


class Verdict(Struct, frozen=True, tag="verdict", tag_field="type"):
    """What the rows say of a version on trial: ``why`` to take it back, None when it has stood."""

    version: int
    why: str | None = None


Order: TypeAlias = Change | Verdict
"""What a step boundary acts upon, besides what follows from counting steps."""


class Trial(NamedTuple):
    """A version that gives way by itself, to the document ``before`` it.

    stream: whose steps are counted. first, until: its first step, and the first one without it
    (None while that is open).
    """

    version: int
    stream: str | None
    first: int
    until: int | None
    revert_if: RevertIf | None
    before: _Document


class Steering:
    """The slot in which a change waits for the step boundary, and the answers on their way out.

    :meth:`receive`, :meth:`judged` and :meth:`answers` belong to the sender thread, :meth:`take` to
    the training thread; they share single attributes, assigned whole.

    version, lr_factor: of the document in force. trial: set while that one is temporary or has to
    stand a trial. stopped: whether the run was asked to end.
    """

    def __init__(self, levers: Sequence[Lever], limits: Limits) -> None:
        self.limits = limits
        self.version = 0
        self.lr_factor = 1.0
        self.stopped = False
        self.trial: Trial | None = None
        self._levers = {(lever.stream, lever.match): lever for lever in levers}
        self._coded = {key: lever.strategy.parameters for key, lever in self._levers.items()}
        self._slot: Change | None = None
        self._verdict: Verdict | None = None
        self._decided = 0
        self._changed_at: dict[_Key, int] = {}
        self._answers: deque[_Answer] = deque()
        # What was said of the newest decision, and of what became of it since.
        self._told: tuple[_Answer, ...] = ()
        # In a distributed job: asked at each boundary, with what waits here, what all ranks act upon
        # now.
        self.agree: Callable[[Order | None], Order | None] | None = None

    def in_force(self) -> dict[str, Any]:
        """What has to be the same on all ranks of a job: all that is set from outside."""
        values = {_named(key): lever.strategy.parameters for key, lever in self._levers.items()}
        more = {"lr_factor": self.lr_factor, "stop": self.stopped}
        return {"version": self.version, **more, **values}

    @property
    def waiting(self) -> bool:
        """Whether there is something to act upon at the next step boundary."""
        return self._order() is not None

    def receive(self, change: Change) -> Delivered | _Answer | None:
        """A change from the server: the newest waits; one decided before gets its answer again."""
        if change.version <= self._decided:
            told = reversed(self._told)
            return next((answer for answer in told if answer.version == change.version), None)
        slot = self._slot
        if slot is None or slot.version <= change.version:
            self._slot = change
        return Delivered(change.version)

    def judged(self, verdict: Verdict) -> None:
        """What the rows say of the version on trial; the next step boundary acts upon it."""
        self._verdict = verdict

    def answers(self) -> deque[_Answer]:
        """Answers that were not yet sent, oldest first; the sender removes what it has sent."""
        return self._answers

    def repeat(self) -> None:
        """A new connection: the newest answers go out again, for the old one may have lost them."""
        self._answers.extend(answer for answer in self._told if answer not in self._answers)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """While what is temporary is set aside: a checkpoint must not outlive it."""
        trial, now = self.trial, self._values()
        if trial is not None:
            self._move(trial.before.values)
        try:
            yield
        finally:
            if trial is not None:
                self._move(now)

    def take(self, stream: str | None = None) -> None:
        """A step boundary of ``stream``: what is due takes hold, or is refused."""
        trial = self.trial
        if trial is not None and trial.until is not None and self._at(trial.stream) >= trial.until:
            self._revert(trial, _over(trial))
        order = self._order()
        if self.agree is not None:
            order = self.agree(order)
        if order is None:
            return
        if isinstance(order, Verdict):
            self._heed(order)
        elif order.version > self._decided:
            self._decide(order, stream)

    def _order(self) -> Order | None:
        """What is due now. A change comes before what is said of the version that it replaces."""
        # The slot is never emptied: emptying it could throw away a newer change put there since.
        change = self._slot
        if change is not None and change.version > self._decided and self._due(change):
            return change
        verdict, trial = self._verdict, self.trial
        if verdict is None or trial is None or trial.revert_if is None:
            return None
        return verdict if verdict.version == trial.version else None

    def _due(self, change: Change) -> bool:
        first = change.not_before
        return first is None or not self._has(change.stream) or self._at(change.stream) >= first

    def _heed(self, verdict: Verdict) -> None:
        """Does what ``verdict`` says, if it is of the version that is still on trial."""
        trial = self.trial
        if trial is None or trial.version != verdict.version:
            return
        if verdict.why is not None:
            self._revert(trial, verdict.why)
        elif trial.until is None:
            self.trial = None
        else:
            self.trial = trial._replace(revert_if=None)

    def _decide(self, change: Change, boundary: str | None) -> None:
        """Takes ``change`` up, or refuses it; ``boundary`` is the stream whose step begins."""
        start = self._values()
        told: list[_Answer] = []
        until = change.until
        conditions = (change.ttl_steps, until, change.revert_if)
        temporary = any(condition is not None for condition in conditions)
        timed = temporary or change.not_before is not None
        stream = change.stream if timed else boundary
        known = self._has(stream)
        if change.back is not None:
            # In a life of the trainer before this one, it took hold above this document.
            told += self._restore(change.back, stream if known else boundary)
        before = self._document()
        wanted, why = self._judge(change.rules, before.values)
        why = self._why_no_lr(change.lr_factor) if why is None else why
        why = self._why_no_stop(change, temporary) if why is None else why
        why = why if known else f"this run has no optimizer {stream!r}"
        step = self._at(stream if known else boundary)
        if until is None and change.ttl_steps is not None:
            until = step + change.ttl_steps
        over = until is not None and step >= until
        if why is None and not over:
            why = self._move(wanted)
        moved = self._note_moves(start)
        if why is not None:
            told.append(Rejected(change.version, step, why[:1000]))
        elif over:
            trial = Trial(change.version, stream, step, until, None, before)
            told.append(Reverted(change.version, step, _over(trial), self._rules(), stream))
        else:
            if moved and not timed:
                stream = moved[0][0]
                step = self._at(stream)
            told.append(self._begin(change, before, step, stream, until))
        self._told = tuple(told)
        self._answers += told
        self._decided = change.version

    def _begin(
        self, change: Change, before: _Document, step: int, stream: str | None, until: int | None
    ) -> Applied:
        """``change`` is in force from here on, in place of ``before``: for good or for a time."""
        temporary = until is not None or change.revert_if is not None
        # What is temporary itself is nothing to go back to.
        before = before if self.trial is None else self.trial.before
        self.trial = (
            Trial(change.version, stream, step, until, change.revert_if, before)
            if temporary
            else None
        )
        self.lr_factor = change.lr_factor
        self.stopped = self.stopped or change.stop
        self.version = change.version
        back = before.version if temporary else None
        return Applied(change.version, step, self._rules(), stream, back)

    def _revert(self, trial: Trial, why: str) -> None:
        """Goes back to the document before the version on trial."""
        before = self._values()
        refused = self._move(trial.before.values)
        if refused is not None:
            raise RuntimeError(f"version {trial.version} cannot be taken back: {refused}")
        step = self._at(trial.stream)
        answer = Reverted(trial.version, step, why[:1000], self._rules(), trial.stream)
        self._note_moves(before)
        self.lr_factor = trial.before.lr_factor
        self.version = trial.before.version
        self._told = (*self._told, answer)
        self._answers.append(answer)
        self.trial = None  # last: what goes wrong above is tried again at the next boundary

    def _restore(self, back: Document, stream: str | None) -> list[_Answer]:
        """Puts the document in force that a life before this one had; says so, or why not."""
        if back.version <= self.version:
            return []
        wanted, why = self._judge(back.rules, self._values())
        why = self._why_no_lr(back.lr_factor) if why is None else why
        why = self._move(wanted) if why is None else why
        step = self._at(stream)
        if why is not None:
            return [Rejected(back.version, step, why[:1000])]
        self.lr_factor = back.lr_factor
        self.version = back.version
        return [Applied(back.version, step, self._rules(), stream)]

    def _note_moves(self, before: _Values) -> list[_Key]:
        """What is no longer as ``before``; the next change of it has to keep its distance."""
        moved = [key for key, values in self._values().items() if values != before[key]]
        self._changed_at |= {key: self._levers[key].next_step() for key in moved}
        return moved

    def _values(self) -> _Values:
        return {key: lever.strategy.parameters for key, lever in self._levers.items()}

    def _document(self) -> _Document:
        return _Document(self.version, self._values(), self.lr_factor)

    def _rules(self) -> tuple[Rule, ...]:
        return tuple(
            Rule(lever.strategy.parameters, lever.match, lever.stream)
            for lever in self._levers.values()
        )

    def _has(self, stream: str | None) -> bool:
        return any(lever.stream == stream for lever in self._levers.values())

    def _at(self, stream: str | None) -> int:
        """The number of the next step of ``stream``."""
        return next(v.next_step() for v in self._levers.values() if v.stream == stream)

    def _move(self, wanted: _Values) -> str | None:
        """Sets what is wanted, all or nothing; returns why it could not be."""
        before = self._values()
        moved = [key for key in before if wanted[key] != before[key]]
        for key in moved:
            try:
                self._levers[key].strategy.reset(wanted[key])
            except (ValueError, TypeError) as error:
                for done in moved[: moved.index(key)]:
                    self._levers[done].strategy.reset(before[done])
                return str(error)
        return None

    def _judge(self, rules: tuple[Rule, ...], in_force: _Values) -> tuple[_Values, str | None]:
        """The values that ``rules`` ask for, and why they are refused (None when they are not).

        The document is whole: a value that it does not name goes back to the coded one.
        """
        if self.limits.why_not is not None:
            return in_force, self.limits.why_not
        wanted = {key: dict(values) for key, values in self._coded.items()}
        for rule in rules:
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
        if limit.whole and value != int(value):
            return f"{name} must be a whole number, not {value!r}"
        return None if now is None else self._why_too_far(name, value, now)

    def _why_too_far(self, name: str, value: float, now: float) -> str | None:
        factor = self.limits.factor
        # Nothing is a multiple of 0: a value that is 0, or is to be, may go anywhere in its range.
        if factor is None or not (value and now) or max(value / now, now / value) <= factor:
            return None
        return f"{name} {value!r} is more than a factor {factor!r} from {now!r}"

    def _why_no_lr(self, factor: float) -> str | None:
        if factor == self.lr_factor:
            return None
        if not self.limits.lr:
            return "the learning rate may not be changed from outside"
        if not 1 / MAX_LR_FACTOR <= factor <= MAX_LR_FACTOR:  # NaN is neither
            return f"lr_factor {factor!r} is outside {1 / MAX_LR_FACTOR!r}..{MAX_LR_FACTOR!r}"
        return self._why_too_far("lr_factor", factor, self.lr_factor)

    def _why_no_stop(self, change: Change, temporary: bool) -> str | None:
        if not change.stop:
            return None
        if not self.limits.stop:
            return "the run may not be stopped from outside"
        return "a stop cannot be temporary" if temporary else None


def _over(trial: Trial) -> str:
    assert trial.until is not None
    return f"its time was over at step {trial.until}"


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
