"""Many measurements in three numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class Spread(TypedDict):
    """The median, and the quartiles about it."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    low, median, high = (
        float(v) for v in np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75))
    )
    return {"median": median, "low": low, "high": high}


def tails(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = (float(v) for v in np.quantile(np.asarray(values, float), (0.5, 0.99)))
    return {"p50": p50, "p99": p99, "max": float(max(values)), "n": len(values)}
