"""The recorder: what one step measured, written as one row of the ring.

Law: it only copies numbers that the clip has computed already; nothing is measured for its sake.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from .clip import Outcome
from .layout import (
    CLIP_COEF,
    CLIP_SHARE,
    CLIPPED,
    GLOBAL_NORM,
    LR,
    NONFINITE,
    POST_NORM,
    SKIPPED,
    THRESHOLD,
    Layout,
)
from .ring import Ring

_SAMPLES: Final = 1024
"""Hand-off times that percentiles are taken of: those of the newest steps."""


class Recorder:
    """Writes rows of ``layout`` into ``ring``; ``every`` thins the uneventful ones."""

    def __init__(self, layout: Layout, ring: Ring, every: int) -> None:
        self._ring = ring
        self._every = every
        self._first = layout.first_norm
        self._count = len(layout.watched)
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
        if step % self._every and finite and not outcome.changed:
            return
        row = self._ring.reserve(step)
        if row is None:
            return
        values = outcome.norms.to("cpu", torch.float32).numpy()
        with np.errstate(over="ignore"):  # float64 gradients can exceed float32: Inf, as shown
            row[GLOBAL_NORM] = norm
            row[CLIPPED] = outcome.changed
            row[SKIPPED] = 0
            row[NONFINITE] = 0 if finite else np.count_nonzero(~np.isfinite(values))
            if outcome.post_norm is not None:
                row[POST_NORM] = outcome.post_norm
            if outcome.threshold is not None:
                row[THRESHOLD] = outcome.threshold
            if outcome.coefficient is not None:
                row[CLIP_COEF] = outcome.coefficient
            if outcome.share is not None:
                row[CLIP_SHARE] = outcome.share
            if lr is not None:
                row[LR] = lr
        if places is None:
            row[self._first :] = values[: self._count]
        else:
            norms = row[self._first :]
            norms[[place for place in places if place < self._count]] = [
                value for value, place in zip(values, places, strict=True) if place < self._count
            ]
        self._ring.commit(step, time.time(), version)
        self._taken[self._samples % _SAMPLES] = time.perf_counter_ns() - started
        self._samples += 1

    def without_gradients(
        self, step: int, threshold: float | None, lr: float | None, version: int, *, skipped: bool
    ) -> None:
        """Writes a step that was skipped by a GradScaler, or that had no gradient at all."""
        row = self._ring.reserve(step)
        if row is None:
            return
        row[CLIPPED] = 0
        row[SKIPPED] = skipped
        if threshold is not None:
            with np.errstate(over="ignore"):
                row[THRESHOLD] = threshold
        if lr is not None:
            row[LR] = lr
        self._ring.commit(step, time.time(), version)

    def handoff(self) -> dict[str, float]:
        """Median and 99th percentile of the time a row took, in microseconds (0 before any)."""
        taken = self._taken[: min(self._samples, _SAMPLES)]
        p50, p99 = np.percentile(taken, [50, 99]) / 1000 if taken.size else (0.0, 0.0)
        return {"handoff_p50_us": float(p50), "handoff_p99_us": float(p99)}
