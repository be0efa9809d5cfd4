"""Where curvature grows with the gradient, clipped descent needs steps in proportion to the way.

Source: Zhang, He, Sra and Jadbabaie, "Why gradient clipping accelerates training: a theoretical
justification for adaptivity", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gradhelm.clip import GlobalNorm

from . import figures
from .bars import Bar, Findings, Result, Say

FROM = (2, 4, 8, 16, 32, 64)
STOP = 1e-3
MAX_NORM = 0.1


def fixed(start: float) -> int:
    """Steps of gradient descent with the largest rate that is safe everywhere on the way."""
    x, rate, steps = start, 1 / (3 * start * start), 0
    while abs(x**3) >= STOP:
        x -= rate * x**3
        steps += 1
    return steps


def clipped(start: float) -> int:
    """Steps with the rate 1, whatever the start, and GlobalNorm."""
    x = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    optimizer, strategy, steps = torch.optim.SGD([x], lr=1.0), GlobalNorm(MAX_NORM), 0
    while True:
        optimizer.zero_grad()
        (x**4 / 4).sum().backward()
        if strategy([x]).item() < STOP:
            return steps
        optimizer.step()
        steps += 1


def slope(steps: Sequence[int]) -> float:
    """The exponent of the power law that ``steps`` follow, by least squares."""
    return float(np.polyfit(np.log(FROM), np.log(steps), 1)[0])


def measure(say: Say) -> Findings:
    without = [fixed(float(start)) for start in FROM]
    say(f"fixed rate: {without[-1]:,} steps from {FROM[-1]}")
    with_clip = [clipped(float(start)) for start in FROM]
    say(f"clipped: {with_clip[-1]:,} steps")
    return Findings(
        values=[[slope(without)], [slope(with_clip)]],
        header=["x_0", "steps, fixed rate", "steps, clipped", "ratio"],
        rows=[
            [str(start), f"{a:,}", f"{b:,}", f"{a / b:.1f}"]
            for start, a, b in zip(FROM, without, with_clip, strict=True)
        ],
        drawing=figures.lines(
            {
                "fixed rate": list(zip(FROM, without, strict=True)),
                "clipped": list(zip(FROM, with_clip, strict=True)),
            },
            across="x_0",
            up="steps",
            log_across=True,
        ),
        shows="Steps that are needed, over the start",
    )


RESULT = Result(
    name="smoothness",
    title="Faster where curvature grows with the gradient",
    about=(
        "Zhang, He, Sra and Jadbabaie, *Why gradient clipping accelerates training*, 2020: on "
        "(L0, L1)-smooth functions a fixed rate has to suit the steepest place on the way, a "
        "clipped one does not. f(x) = x⁴/4 from x_0 until |f'| < 0.001; the fixed rate is "
        "1/(3 x_0²), the inverse of the largest curvature, the clipped one 1 with "
        f"`GlobalNorm({MAX_NORM})`. Measured is the exponent with which the steps grow with x_0."
    ),
    bars=[
        Bar("exponent, fixed rate", low=1.95, high=2.05),
        Bar("exponent, clipped", high=1.0),
    ],
    measure=measure,
)
