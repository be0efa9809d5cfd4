"""The recorder: what one step measured, written as one row of the ring.

Law: it only copies numbers that the clip has computed already; nothing is measured for its sake.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from .clip import Outcome
from .layout import RULE_SCALARS, SCALARS, Layout
from .ring import Ring
from .wire import MISSING, FloatArray

_SAMPLES: Final = 1024
"""Hand-off times that percentiles are taken of: those of the newest steps."""
_NOTHING: Final = float(MISSING)
"""MISSING as a Python float; its bits survive the way back to float32."""
_LARGEST: Final = float(np.finfo(np.float32).max)


class Recorder:
    """Writes rows of ``layout`` into ``ring``; ``every`` thins the uneventful ones."""

    def __init__(self, layout: Layout, ring: Ring, every: int) -> None:
        self._ring = ring
        self._every = every
        self._first = layout.first_norm
        self._counts_elements = layout.counts_elements
        self._parameters = len(layout.targets)
        self._details = layout.details
        self._rules = len(layout.rules)
        self._pack = struct.Struct(f"{self._first}f").pack_into
        self._taken = np.zeros(_SAMPLES, np.int64)
        self._samples = 0

    def step(
        self,
        step: int,
        outcome: Outcome,
        places: Sequence[int] | None,
        lr: float | None,
        version: int,
    ) -> None:
        """Writes what ``outcome`` says of ``step``.

        ``places`` are the parameters that had a gradient (None: all); the others stay missing.
        """
        started = time.perf_counter_ns()
        norm: float = outcome.global_norm.item()
        finite = math.isfinite(norm)
        if step % self._every and finite and not (outcome.changed or outcome.skipped):
            return
        partial = places is not None
        ring = self._ring
        slot = ring.reserve(step, blank=partial or bool(self._details))
        if slot is None:
            return
        norms = _numbers(outcome.norms)
        nonfinite = 0 if finite else int(np.count_nonzero(~np.isfinite(norms)))
        self._pack(ring.memory, slot * ring.row_bytes, *self._scalars(norm, outcome, nonfinite, lr))
        self._put(slot, self._first, norms, places)
        for number, detail in enumerate(self._details, 1):
            values = outcome.coefficients if detail == "coef" else outcome.thresholds
            if values is not None:
                first = self._first + number * self._parameters
                self._put(slot, first, _numbers(values), places)
        ring.commit(step, time.time(), version)
        self._taken[self._samples % _SAMPLES] = time.perf_counter_ns() - started
        self._samples += 1

    def _put(self, slot: int, first: int, values: FloatArray, places: Sequence[int] | None) -> None:
        """Writes ``values`` from the column ``first`` on; parameters added later have none."""
        row = self._ring.rows[slot]
        if places is None:
            row[first : first + self._parameters] = values[: self._parameters]
        else:
            known = [i for i, place in enumerate(places) if place < self._parameters]
            row[[first + places[i] for i in known]] = values[known]

    def without_gradients(
        self, step: int, threshold: float | None, lr: float | None, version: int, *, skipped: bool
    ) -> None:
        """Writes a step that was skipped by a GradScaler, or that had no gradient at all."""
        ring = self._ring
        slot = ring.reserve(step, blank=True)
        if slot is None:
            return
        scalars = [_NOTHING] * self._first
        scalars[SCALARS.index("threshold")] = _single(threshold)
        scalars[SCALARS.index("clipped")] = 0.0
        scalars[SCALARS.index("skipped")] = float(skipped)
        scalars[SCALARS.index("lr")] = _single(lr)
        self._pack(ring.memory, slot * ring.row_bytes, *scalars)
        ring.commit(step, time.time(), version)

    def handoff(self) -> dict[str, float]:
        """Median and 99th percentile of the time a row took, in microseconds (0 before any)."""
        taken = self._taken[: min(self._samples, _SAMPLES)]
        p50, p99 = np.percentile(taken, [50, 99]) / 1000 if taken.size else (0.0, 0.0)
        return {"handoff_p50_us": float(p50), "handoff_p99_us": float(p99)}

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


def _numbers(values: torch.Tensor) -> FloatArray:
    """``values`` as float32 in this process's memory."""
    if values.dtype is not torch.float32 or values.device.type != "cpu":
        values = values.to("cpu", torch.float32)
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
