"""Bad batches among good ones, and which strategies keep them from doing harm.

Sources: Kumar, Owen, Chowdhury and Guera, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training",
2025; Wang et al., "AdaGC", 2025; Huang et al., "SPAM: Spike-Aware Adam", 2025. Their own results
need GPUs; this is the same situation in small.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn, optim

from gradhelm.clip import AdaGC, AutoClip, GlobalNorm, SpikeAware, Strategy, ZClip

from .bars import Bar, Findings, Result, Say

STEPS, BATCH = 400, 128
INPUTS, WIDTH = 16, 64
SPIKES = frozenset(range(45, 361, 45))
LOUDER = 10.0
HELD_OUT = 4096
SEEDS = (0, 1, 2)

STRATEGIES: dict[str, Callable[[], Strategy] | None] = {
    "none": None,
    "GlobalNorm(1.0)": lambda: GlobalNorm(1.0),
    "GlobalNorm(0.1)": lambda: GlobalNorm(0.1),
    "AutoClip(10)": lambda: AutoClip(10),
    "AutoClip(90)": lambda: AutoClip(90),
    "ZClip()": ZClip,
    "AdaGC()": AdaGC,
    "SpikeAware(5000)": lambda: SpikeAware(5000),
    "SpikeAware(50)": lambda: SpikeAware(50),
}
OPTIMIZERS: dict[str, Callable[[nn.Module], optim.Optimizer]] = {
    "AdamW, lr 0.01": lambda model: optim.AdamW(model.parameters(), lr=0.01),
    "SGD, lr 0.1": lambda model: optim.SGD(model.parameters(), lr=0.1),
}
READS_ADAM = ("SpikeAware(5000)", "SpikeAware(50)")


class Task:
    """Two classes, told apart by a random net; a bad batch has them swapped and counts tenfold."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.teacher = nn.Sequential(nn.Linear(INPUTS, 32), nn.Tanh(), nn.Linear(32, 1))
        self.student = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
            nn.Linear(WIDTH, 2),
        )  # fmt: skip
        self.generator = torch.Generator().manual_seed(seed)
        self.held_out = self.examples(HELD_OUT)

    def examples(self, count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, INPUTS, generator=self.generator)
        with torch.no_grad():
            return x, (self.teacher(x)[:, 0] > 0).long()

    def loss(self, x: Tensor, label: Tensor, *, bad: bool = False) -> Tensor:
        loss = nn.functional.cross_entropy(self.student(x), 1 - label if bad else label)
        return LOUDER * loss if bad else loss

    def final(self) -> float:
        """The loss on examples that it was not trained on."""
        with torch.no_grad():
            return self.loss(*self.held_out).item()


class Training(NamedTuple):
    """How one training ended.

    loss: on held-out examples. fraction: the share of steps clipped. caught: how many bad batches
    were. left: their median norm after clipping, in median norms of the good batches before.
    """

    loss: float
    fraction: float
    caught: int
    left: float


def train(optimizer: str, strategy: str, seed: int, spikes: frozenset[int] = SPIKES) -> Training:
    task = Task(seed)
    stepper = OPTIMIZERS[optimizer](task.student)
    new = STRATEGIES[strategy]
    clip = None if new is None else new()
    parameters = list(task.student.parameters())
    clipped: set[int] = set()
    good, bad = [], []
    for step in range(STEPS):
        stepper.zero_grad()
        task.loss(*task.examples(BATCH), bad=step in spikes).backward()
        gradient = flat(parameters)
        if clip is not None:
            clip(parameters, stepper)
        after = flat(parameters)
        if not torch.equal(gradient, after):
            clipped.add(step)
        if step in spikes:
            bad.append(after.norm().item())
        else:
            good.append(gradient.norm().item())
        stepper.step()
    left = statistics.median(bad) / statistics.median(good) if bad else 0.0
    return Training(task.final(), len(clipped) / STEPS, len(clipped & spikes), left)


def flat(parameters: list[Tensor]) -> Tensor:
    """All gradients in one new vector."""
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def measure(say: Say) -> Findings:
    rows: list[list[str]] = []
    above: dict[tuple[str, str], list[float]] = {}
    found: dict[tuple[str, str], list[Training]] = {}
    for optimizer in OPTIMIZERS:
        clean = [train(optimizer, "none", seed, frozenset()).loss for seed in SEEDS]
        rows.append([optimizer, "no bad batches", *(f"{c:.3f}" for c in clean), "", "", ""])
        for strategy in STRATEGIES:
            if strategy in READS_ADAM and not optimizer.startswith("Adam"):
                continue
            runs = [train(optimizer, strategy, seed) for seed in SEEDS]
            found[optimizer, strategy] = runs
            above[optimizer, strategy] = [
                run.loss / c - 1 for run, c in zip(runs, clean, strict=True)
            ]
            rows.append([optimizer, strategy, *row(runs)])
        say(f"{optimizer}: {len(STRATEGIES)} strategies")
    adam, sgd = ((name, "ZClip()") for name in OPTIMIZERS)
    return Findings(
        values=[
            *(above[optimizer, "none"] for optimizer in OPTIMIZERS),
            above[adam],
            [run.fraction for run in found[adam]],
            [run.caught for run in found[adam]],
            above[sgd],
            [run.fraction for run in found[sgd]],
            [run.caught for run in found[sgd]],
        ],
        header=[
            "optimizer",
            "strategy",
            *(f"loss, seed {seed}" for seed in SEEDS),
            "steps clipped",
            f"caught of {len(SPIKES)}",
            "left of them",
        ],
        rows=rows,
    )


def row(runs: list[Training]) -> list[str]:
    return [
        *(f"{run.loss:.3f}" for run in runs),
        f"{statistics.mean(run.fraction for run in runs):.1%}",
        ", ".join(str(run.caught) for run in runs),
        f"{statistics.median(run.left for run in runs):.2g}",
    ]


RESULT = Result(
    name="spikes",
    title="Bad batches",
    about=(
        "Kumar, Owen, Chowdhury and Guera, *ZClip*, 2025; Wang et al., *AdaGC*, 2025; Huang et "
        "al., *SPAM*, 2025. Their own experiments need GPUs; this is the same situation in small: "
        f"a net with two hidden layers of {WIDTH} learns to tell two classes apart, {STEPS} steps "
        f"on fresh batches of {BATCH}, of which {len(SPIKES)} (every 45th) have their labels "
        f"swapped and their loss multiplied by {LOUDER:g}. Strategies have their defaults where "
        "none are shown. The loss is that of held-out examples; a bad batch counts as caught when "
        "its gradients were changed, and *left of them* is their norm after that, in ordinary "
        "norms of the same run."
    ),
    bars=[
        *(
            Bar(f"{optimizer}, without clipping, loss above clean", low=0.05, form=".1%")
            for optimizer in OPTIMIZERS
        ),
        *(
            bar
            for optimizer in OPTIMIZERS
            for bar in (
                Bar(f"{optimizer}, ZClip, loss above clean", high=0.05, form=".1%"),
                Bar(f"{optimizer}, ZClip, steps clipped", high=0.05, form=".1%"),
                Bar(f"{optimizer}, ZClip, bad batches caught", low=len(SPIKES), form=".0f"),
            )
        ),
    ],
    measure=measure,
)
