"""The cliff in the error surface of a recurrent net, and how clipping gets over it.

Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
2013, section 2.3 and figure 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradhelm.clip import GlobalNorm, PerParameterNorm

from . import figures
from .bars import Bar, Findings, Result, Say

TIME = 50
START, TARGET = 0.5, 0.7
SOLVED = 1e-4
RATE = 0.1
STEPS = 2000
SIDE = 25
TRIALS = (
    ("no clip", None, STEPS),
    ("max_norm 1.0", 1.0, STEPS),
    ("max_norm 0.1", 0.1, STEPS),
    # A step of 0.01 takes long: without a second look it would seem that it does not get there.
    ("no clip, twice the steps", None, 2 * STEPS),
    ("max_norm 0.1, twice the steps", 0.1, 2 * STEPS),
)

Clip = Callable[[Sequence[Tensor]], object] | None


class Descent(NamedTuple):
    """How gradient descent went from each start.

    losses: [starts], after the last step. least: [starts], the smallest on the way.
    longest: the length of the longest step of all.
    """

    losses: Tensor
    least: Tensor
    longest: float

    @property
    def solved(self) -> Tensor:
        """[starts]: where the last loss is below SOLVED."""
        return self.losses < SOLVED


def starts(side: int) -> Tensor:
    """[side * side, 2], float64: a grid over w in [4, 7] and b in [-3.5, -1.5]."""
    w = torch.linspace(4, 7, side, dtype=torch.float64)
    b = torch.linspace(-3.5, -1.5, side, dtype=torch.float64)
    return torch.cartesian_prod(w, b)


def losses(points: Tensor) -> Tensor:
    """[starts]: (sigmoid(x_50) - 0.7)^2 with x_t = w * sigmoid(x_(t-1)) + b and x_0 = 0.5."""
    w, b = points.unbind(1)
    x = torch.full_like(w, START)
    for _ in range(TIME):
        x = w * x.sigmoid() + b
    return (x.sigmoid() - TARGET).square()


def descend(points: Tensor, clip: Clip, steps: int = STEPS) -> Descent:
    """Gradient descent from all ``points`` at once; ``clip`` is given one parameter for each.

    A parameter is the pair (w, b), so that its own norm is the norm of all gradients of its net.
    """
    points = points.clone().requires_grad_()
    parameters = [pair.detach() for pair in points.unbind()]  # views: they share their memory
    loss = losses(points)
    least, longest = loss.detach(), 0.0
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss.sum(), points)
        if clip is not None:
            for parameter, pair in zip(parameters, gradient.unbind(), strict=True):
                parameter.grad = pair
            clip(parameters)
        with torch.no_grad():
            points -= RATE * gradient
        loss = losses(points)
        least = torch.minimum(least, loss.detach())
        longest = max(longest, RATE * torch.linalg.vector_norm(gradient, dim=1).max().item())
    return Descent(loss.detach(), least, longest)


def each_alone(count: int, max_norm: float) -> Clip:
    """Clips each of ``count`` nets by a GlobalNorm that knows of no other."""
    strategies = [GlobalNorm(max_norm) for _ in range(count)]

    def clip(parameters: Sequence[Tensor]) -> None:
        for strategy, parameter in zip(strategies, parameters, strict=True):
            strategy([parameter])

    return clip


def share(solved: Tensor) -> float:
    return solved.double().mean().item()


def measure(say: Say, side: int = SIDE, sample: int = 5) -> Findings:
    """``sample``: the side of the smaller grid on which GlobalNorm clips each net alone."""
    grid = starts(side)
    found: dict[str, Descent] = {}
    for name, max_norm, steps in TRIALS:
        clip = None if max_norm is None else PerParameterNorm(max_norm)
        found[name] = descend(grid, clip, steps)
        say(f"{name}: {share(found[name].solved):.1%} of {len(grid)} starts solved")
    fewer = starts(sample)
    together = descend(fewer, PerParameterNorm(1.0))
    alone = descend(fewer, each_alone(len(fewer), 1.0))
    return Findings(
        values=[
            [share(found["no clip"].solved)],
            [share(found["max_norm 1.0"].solved)],
            [share(found["max_norm 0.1, twice the steps"].solved)],
            [(together.solved != alone.solved).sum().item()],
        ],
        header=["clip", "solved", "solved at some step", "longest step"],
        rows=[
            [
                name,
                f"{int(descent.solved.sum())} of {len(grid)}",
                f"{int((descent.least < SOLVED).sum())} of {len(grid)}",
                f"{descent.longest:,.2f}",
            ]
            for name, descent in found.items()
        ],
        drawing=figures.maps(
            {
                name: found[name].solved.view(side, side).tolist()
                for name, _, steps in TRIALS
                if steps == STEPS
            },
            across="b from -3.5 to -1.5",
            up="w from 4 to 7",
        ),
        shows="Where gradient descent starts from, and whether it solves the task",
    )


RESULT = Result(
    name="cliff",
    title="A cliff in the error surface",
    about=(
        "Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, "
        "2013. A net of one unit, x_t = w σ(x_(t−1)) + b with x_0 = 0.5, is to have "
        "σ(x_50) = 0.7; the squared error has a cliff where its dynamics change. Gradient descent "
        f"(rate {RATE}, {STEPS} steps, float64) starts from {SIDE} × {SIDE} places; solved is a "
        "loss below 0.0001 after the last step (more pass through one on the way). `PerParameterNorm` clips all nets at once: (w, b) "
        "is one parameter of each, so its norm is the net's common norm. That this is the same as "
        "`GlobalNorm` on each net alone is tried on 5 × 5 of them."
    ),
    bars=[
        Bar("solved without clipping", high=0.45, form=".1%"),
        Bar("solved with max_norm 1.0", low=0.95, form=".1%"),
        Bar("solved with max_norm 0.1 in twice the steps", low=0.95, form=".1%"),
        Bar("of 25 starts, those that GlobalNorm alone decides otherwise", high=0, form=".0f"),
    ],
    measure=measure,
)
