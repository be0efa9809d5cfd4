"""Events out of norms: what is called a spike does not depend on how the steps were cut up."""

from __future__ import annotations

import numpy as np
import pytest

from gradhelm_server.detect import ENOUGH, REFRESH, SPIKE, WINDOW, Detector, Observed, _median


def observed(norms: np.ndarray, first: int) -> Observed:
    steps = np.arange(first, first + len(norms), dtype=np.uint64)
    nothing = np.full(len(norms), np.nan, np.float32)
    layers = np.ones((len(norms), 1), np.float32)
    return Observed(steps, norms, nothing, nothing, nothing, layers, ["layer"])


def spiked(norms: np.ndarray, sizes: list[int]) -> set[int]:
    """The first steps of the spikes that are found when the norms come in pieces of these sizes."""
    detector, found, at = Detector(), set(), 0
    while at < len(norms):
        size = sizes[at % len(sizes)]
        events = detector.look(observed(norms[at : at + size], at))
        found |= {event.first_step for event in events if event.kind == "spike"}
        at += size
    return found


def by_hand(norms: np.ndarray) -> set[int]:
    """Step by step: at least SPIKE times the median of the last WINDOW, taken every REFRESH."""
    history: list[float] = []
    usual, last, found = np.inf, -100, set()
    for step, norm in enumerate(norms):
        if not np.isfinite(norm):
            continue
        if norm > 0 and norm >= SPIKE * usual:
            if step - last > 9:  # else it is the same event
                found.add(step)
            last = step
        history.append(norm)
        if len(history) >= ENOUGH and len(history) % REFRESH == 0:
            usual = float(np.median(np.array(history[-WINDOW:], np.float32)))
    return found


@pytest.mark.parametrize("sizes", [[1], [10], [64], [3, 17, 200]])
def test_spikes_are_the_same_however_the_steps_come(sizes: list[int]) -> None:
    random = np.random.default_rng(11)
    norms = random.lognormal(sigma=0.5, size=3_000).astype(np.float32)
    norms[random.integers(0, 3_000, 60)] *= 20
    norms[random.integers(0, 3_000, 40)] = np.nan
    norms[1_500:1_700] = 0.0
    assert len(by_hand(norms)) > 20
    assert spiked(norms, sizes) == by_hand(norms)


def test_the_median_is_numpys() -> None:
    random = np.random.default_rng(3)
    for size in [*range(1, 20), 127, 128]:
        values = random.lognormal(size=size).astype(np.float32)
        assert _median(values) == pytest.approx(float(np.median(values)), rel=1e-6)
