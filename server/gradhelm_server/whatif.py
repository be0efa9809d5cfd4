"""What other thresholds would have done to recorded norms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradhelm import wire


class WhatIf:
    """Counts over norms that are seen a few at a time.

    As torch does: a step whose norm is infinite is clipped, with the coefficient 0; one whose norm
    is NaN is a step without a coefficient, and ``numbers`` counts the others. ``clipped`` and
    ``total`` (the sum of coefficients) are in the order of the thresholds; ``actual`` is what was
    clipped, for the caller to count.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = thresholds
        self.steps = 0
        self.numbers = 0
        self.actual = 0
        self.clipped = [0] * len(thresholds)
        self.total = [0.0] * len(thresholds)

    def see(self, norms: wire.FloatArray) -> None:
        there = numbers = norms
        if bool(np.isnan(norms).any()):
            there = norms[~wire.missing(norms)]
            numbers = there[~np.isnan(there)]
        self.steps += len(there)
        self.numbers += len(numbers)
        inverse = inverses(numbers)
        for at, threshold in enumerate(self.thresholds):
            coefficient = coefficients(inverse, threshold)
            self.clipped[at] += int(np.count_nonzero(coefficient < 1))
            self.total[at] += float(coefficient.sum(dtype=np.float64))


def inverses(norms: wire.FloatArray) -> wire.FloatArray:
    """1 / (norm + 1e-6), in float32 as torch computes it."""
    found: wire.FloatArray = norms + np.float32(1e-6)
    return np.divide(np.float32(1.0), found, out=found)


def coefficients(inverse: wire.FloatArray, max_norm: float) -> wire.FloatArray:
    """torch's clip coefficient min(1, max_norm / (norm + 1e-6)) of each norm, to the last bit.

    ``float / tensor`` is in torch the float32 reciprocal times the number, so it is here.
    """
    found: wire.FloatArray = inverse * np.float32(max_norm)
    return np.minimum(found, np.float32(1.0), out=found)
