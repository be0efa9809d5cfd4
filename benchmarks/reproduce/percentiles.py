"""What share of the steps is clipped by thresholds that follow the norms.

Sources: Seetharaman, Wichern, Pardo and Le Roux, "AutoClip: Adaptive Gradient Clipping for Source
Separation Networks", 2020; Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning
with Adaptive Clipping", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gradhelm.clip import AutoClip, Strategy, TargetFraction

from .bars import Bar, Findings, Result, Say

STEPS = 5000
IGNORED = 200
"""Steps at the start that are not counted: a threshold has to be found first."""


def stationary(steps: int = STEPS) -> Tensor:
    """[steps], float64: lognormal norms with a standard deviation of 0.5 in the logarithm."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, generator=generator, dtype=torch.float64).mul(0.5).exp()


def falling(steps: int = STEPS) -> Tensor:
    """The same norms, falling with the square root of the step."""
    return stationary(steps) / torch.arange(1, steps + 1).sqrt()


STREAMS = {"stationary": stationary, "falling": falling}


def clip_fraction(strategy: Strategy, norms: Tensor) -> float:
    """The share of steps that ``strategy`` clips when the gradients have these ``norms``."""
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    clipped = 0
    for step, norm in enumerate(norms):
        parameter.grad = norm.reshape(1).clone()
        strategy([parameter])
        clipped += step >= IGNORED and parameter.grad.item() < norm.item()
    return clipped / (len(norms) - IGNORED)


class Case(NamedTuple):
    """A strategy on a stream of norms, and the share of steps that it is to clip."""

    name: str
    new: Callable[[], Strategy]
    stream: str
    low: float
    high: float

    @property
    def bar(self) -> Bar:
        quantity = f"clip fraction of {self.name}, {self.stream} norms"
        return Bar(quantity, self.low, self.high, ".1%")


CASES = (
    Case("AutoClip(10)", lambda: AutoClip(10), "stationary", 0.88, 0.92),
    Case("AutoClip(50)", lambda: AutoClip(50), "stationary", 0.48, 0.52),
    Case("AutoClip(90)", lambda: AutoClip(90), "stationary", 0.08, 0.12),
    Case("AutoClip(90, 200)", lambda: AutoClip(90, 200), "stationary", 0.08, 0.12),
    Case("TargetFraction(0.1)", lambda: TargetFraction(0.1), "stationary", 0.09, 0.11),
    # Norms of long ago hold the threshold up: the reason for a window.
    Case("AutoClip(90)", lambda: AutoClip(90), "falling", -math.inf, 0.02),
    Case("AutoClip(90, 200)", lambda: AutoClip(90, 200), "falling", 0.08, 0.12),
    Case("TargetFraction(0.1)", lambda: TargetFraction(0.1), "falling", 0.09, 0.11),
)


def measure(say: Say) -> Findings:
    found = [clip_fraction(case.new(), STREAMS[case.stream]()) for case in CASES]
    say(f"{len(CASES)} streams of {STEPS} norms")
    return Findings(values=[[fraction] for fraction in found])


RESULT = Result(
    name="percentiles",
    title="Thresholds that follow the norms",
    about=(
        "Seetharaman, Wichern, Pardo and Le Roux, *AutoClip*, 2020, and Andrew, Thakkar, McMahan "
        "and Ramaswamy, *Differentially Private Learning with Adaptive Clipping*, 2019. A threshold "
        "at the p-th percentile of the norms clips 100 − p % of the steps, and a tracker the share "
        "it is asked for, as long as norms are stationary. When they fall, a percentile of all "
        "norms so far is soon above every new one; one of the last 200 is not, nor is a tracker. "
        f"{STEPS:,} lognormal norms (σ = 0.5), as they are and divided by the square root of the "
        f"step; the first {IGNORED} steps are not counted. All that is measured stands in the "
        "table above."
    ),
    bars=[case.bar for case in CASES],
    measure=measure,
)
