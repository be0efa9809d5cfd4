"""The recorder: what the steps measured, on its way to the sender, and made into rows there.

Law: the training thread only leaves a reference to what the clip has computed already, since a row
written there costs it several times as much: training has emptied the caches. Handing over never
blocks; when the sender is too far behind, the newest step is refused, and counted.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from .clip import Outcome
from .layout import RULE_SCALARS, SCALARS, Layout
from .notice import Notices
from .ring import Batch, Losses, room
from .unread import Arrival
from .wire import MAX_FRAME, MISSING, MISSING_BITS, FloatArray

if TYPE_CHECKING:
    from .judge import Judge

_SAMPLES: Final = 1024
"""Hand-off times that percentiles are taken of: those of the newest steps."""
_NOTHING: Final = float(MISSING)
"""MISSING as a Python float; its bits survive the way back to float32."""
ARRIVAL: Final = 1.0
"""Seconds that the end of a run waits for numbers that are still on a device."""
_LARGEST: Final = float(np.finfo(np.float32).max)


class Entry(NamedTuple):
    """What is told of one step.

    outcome: None of a step that was not clipped, for want of gradients or because a GradScaler
    ``skipped`` it. places: the parameters that had a gradient (None: all); the others stay missing.
    """

    step: int
    time: float
    version: int
    outcome: Outcome | Arrival | None
    places: Sequence[int] | None
    lr: float | None
    threshold: float | None
    skipped: bool


class Recorder:
    """The steps of one stream as rows of ``layout``; ``every`` thins the uneventful ones.

    :meth:`step` and :meth:`without_gradients` belong to the training thread, :meth:`batches` to the
    sender.
    """

    def __init__(self, layout: Layout, every: int, notices: Notices) -> None:
        self.columns = layout.columns
        self.capacity = room(len(layout.columns))
        # As many rows as fit in one frame with their steps and times: little memory beside the wait.
        self._most = max(1, MAX_FRAME // (4 * len(layout.columns) + 16))
        self.losses = Losses()
        # During a trial it is told of each step, also of those that are thinned out.
        self.judge: Judge | None = None
        self._stream = layout.stream
        self._every = every
        self._notices = notices
        self._first = layout.first_norm
        self._counts_elements = layout.counts_elements
        self._parameters = len(layout.targets)
        self._details = layout.details
        self._rules = len(layout.rules)
        self._entries: deque[Entry] = deque()
        self._given_up = False
        self._taken = [0] * _SAMPLES
        self._samples = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def fill(self) -> float:
        """The share of the room that is taken by steps that wait for the sender, 0 to 1."""
        return len(self) / self.capacity

    def step(
        self,
        step: int,
        outcome: Outcome,
        places: Sequence[int] | None,
        lr: float | None,
        version: int,
    ) -> None:
        """Hands over what ``outcome`` says of ``step``."""
        started = time.perf_counter_ns()
        told: Outcome | Arrival = outcome
        if outcome.factor is not None and outcome.coefficient is None:
            told = Arrival(outcome)
        elif not outcome.norms.is_cpu:
            told = _here(outcome)
        self._put(Entry(step, time.time(), version, told, places, lr, outcome.threshold, False))
        self._taken[self._samples % _SAMPLES] = time.perf_counter_ns() - started
        self._samples += 1

    def without_gradients(
        self, step: int, threshold: float | None, lr: float | None, version: int, *, skipped: bool
    ) -> None:
        """Hands over a step that was skipped by a GradScaler, or that had no gradient at all."""
        self._put(Entry(step, time.time(), version, None, None, lr, threshold, skipped))

    def _put(self, entry: Entry) -> None:
        if len(self._entries) >= self.capacity:
            self.losses.refuse(entry.step)
            return
        self.losses.end()
        self._entries.append(entry)

    def end(self) -> None:
        """No more is coming: what has not arrived from a device in a while is given up."""
        patience = time.monotonic() + ARRIVAL
        while not all(map(_arrived, tuple(self._entries))):
            if time.monotonic() >= patience:
                self._given_up = True
                return
            time.sleep(0.001)

    def handoff(self) -> dict[str, float]:
        """Median and 99th percentile of the time a step took, in microseconds (0 before any)."""
        # By hand: numpy's percentile would first import 12 ms worth of modules, with the GIL held.
        taken = sorted(self._taken[: min(self._samples, _SAMPLES)]) or [0]
        return {
            "handoff_p50_us": taken[len(taken) // 2] / 1000,
            "handoff_p99_us": taken[len(taken) * 99 // 100] / 1000,
        }

    # -- for the sender ---------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """Takes what there is now, oldest first: rows of one version, with increasing steps.

        A batch counts as taken when the next one is asked for: a fault in between loses nothing.
        """
        for taken, entries in self._runs(tuple(self._entries)):
            if not entries:
                self._drop(taken)
                continue
            bits = np.full((len(entries), len(self.columns)), MISSING_BITS, np.uint32)
            rows = bits.view(np.float32)
            for row, entry in zip(rows, entries, strict=True):
                try:
                    self._write(row, entry)
                except Exception as error:  # what it did say of the step is told all the same
                    self._notices.fault("recording", error)
            yield Batch(
                entries[0].version,
                np.array([entry.step for entry in entries], np.uint64),
                np.array([entry.time for entry in entries], np.float64),
                rows,
            )
            self._drop(taken)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._entries.popleft()

    def _runs(self, waiting: tuple[Entry, ...]) -> Iterator[tuple[int, list[Entry]]]:
        """Those that ``waiting`` begins with and have arrived, without the uneventful ones, by what
        fits in one batch; with each batch, how many entries are dealt with by it."""
        run: list[Entry] = []
        taken = 0
        for entry in waiting:
            if not _arrived(entry):
                if not self._given_up:
                    break
                self.losses.refuse(entry.step)
                taken += 1
                continue
            if isinstance(entry.outcome, Arrival):
                entry = entry._replace(outcome=entry.outcome.outcome())
            assert not isinstance(entry.outcome, Arrival)
            if self.judge is not None and self.judge.steering.trial is not None:
                self.judge.step(self._stream, entry.step, entry.version, entry.outcome)
            if entry.step % self._every and _uneventful(entry):
                taken += 1
                continue
            if run and (
                entry.version != run[-1].version
                or entry.step <= run[-1].step
                or len(run) == self._most
            ):
                yield taken, run
                run, taken = [], 0
            run.append(entry)
            taken += 1
        if taken:
            yield taken, run

    def _write(self, row: FloatArray, entry: Entry) -> None:
        outcome, places = entry.outcome, entry.places
        assert not isinstance(outcome, Arrival)
        if outcome is None:
            row[SCALARS.index("threshold")] = _single(entry.threshold)
            row[SCALARS.index("clipped")] = 0.0
            row[SCALARS.index("skipped")] = float(entry.skipped)
            row[SCALARS.index("lr")] = _single(entry.lr)
            return
        norm: float = outcome.global_norm.item()
        norms = _numbers(outcome.norms)
        nonfinite = 0 if math.isfinite(norm) else int(np.count_nonzero(~np.isfinite(norms)))
        row[: self._first] = self._scalars(norm, outcome, nonfinite, entry.lr)
        self._spread(row, self._first, norms, places)
        for number, detail in enumerate(self._details, 1):
            values = outcome.coefficients if detail == "coef" else outcome.thresholds
            if values is not None:
                first = self._first + number * self._parameters
                self._spread(row, first, _numbers(values), places)

    def _spread(
        self, row: FloatArray, first: int, values: FloatArray, places: Sequence[int] | None
    ) -> None:
        """Writes ``values`` from the column ``first`` on; parameters added later have none."""
        if places is None:
            row[first : first + self._parameters] = values[: self._parameters]
        else:
            known = [i for i, place in enumerate(places) if place < self._parameters]
            row[[first + places[i] for i in known]] = values[known]

    def _scalars(
        self, norm: float, outcome: Outcome, nonfinite: int, lr: float | None
    ) -> tuple[float, ...]:
        """The scalar columns, in the order of ``layout.SCALARS``."""
        scalars: tuple[float, ...] = (
            _single(norm),
            _single(outcome.post_norm),
            _single(outcome.threshold),
            _single(outcome.coefficient),
            outcome.changed,
            outcome.skipped,
            nonfinite,
            _single(lr),
        )
        if self._counts_elements:
            scalars = (*scalars, _single(outcome.share))
        return (*scalars, *self._of_rules(outcome)) if self._rules else scalars

    def _of_rules(self, outcome: Outcome) -> Iterator[float]:
        """What is told of each rule, in the order of ``layout.RULE_SCALARS``."""
        for part in outcome.parts or (None,) * self._rules:
            if part is None:
                yield from (_NOTHING,) * len(RULE_SCALARS)
            else:
                yield _single(part.global_norm.item())
                yield _single(part.threshold)
                yield _single(part.coefficient)
                yield float(part.changed)


def _arrived(entry: Entry) -> bool:
    return not isinstance(entry.outcome, Arrival) or entry.outcome.here


def _uneventful(entry: Entry) -> bool:
    outcome = entry.outcome
    return (
        isinstance(outcome, Outcome)
        and not (outcome.changed or outcome.skipped)
        and math.isfinite(outcome.global_norm.item())
    )


def _here(outcome: Outcome) -> Outcome:
    """``outcome`` of a strategy that waited for the device anyway, in this process's memory."""
    each = outcome.coefficients, outcome.thresholds
    found = outcome.found_inf
    return outcome._replace(
        norms=outcome.norms.cpu(),
        global_norm=outcome.global_norm.cpu(),
        coefficients=None if each[0] is None else each[0].cpu(),
        thresholds=None if each[1] is None else each[1].cpu(),
        skipped=outcome.skipped or (found is not None and bool(found.item())),
        parts=tuple(None if part is None else _here(part) for part in outcome.parts),
    )


def _numbers(values: torch.Tensor) -> FloatArray:
    """``values`` as float32 in this process's memory."""
    if values.dtype is not torch.float32:
        values = values.float()
    array: FloatArray = values.numpy()
    return array


def _single(value: float | None) -> float:
    """``value`` as a number that float32 has: MISSING for None, Inf for what is too large."""
    if value is None:
        return _NOTHING
    return (
        value
        if -_LARGEST <= value <= _LARGEST or value != value
        else math.copysign(math.inf, value)
    )
