"""Bad batches among good ones, and which strategies keep them from doing harm.

Sources: Kumar, Owen, Chowdhury and Guera, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training",
2025; Wang et al., "AdaGC", 2025; Huang et al., "SPAM: Spike-Aware Adam", 2025. Their own results
need GPUs; this is the same situation in small.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
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
LAST = 20
"""The final loss is the mean over that many last steps: AdamW's wanders by some percent a step."""
SEEDS = range(10)

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

    def score(self) -> float:
        """The loss on examples that it was not trained on."""
        with torch.no_grad():
            return self.loss(*self.held_out).item()


class Training(NamedTuple):
    """How one training ended.

    loss: on held-out examples. last: the same after the last step alone. fraction: the share of steps clipped. caught: how many bad batches
    were. left: their median norm after clipping, in median norms of the good batches before.
    """

    loss: float
    last: float
    fraction: float
    caught: int
    left: float


def train(optimizer: str, strategy: str, seed: int, bad: str = "used") -> Training:
    """``bad``: whether bad batches are ``"used"``, ``"good"`` after all, or ``"left out"``."""
    task = Task(seed)
    stepper = OPTIMIZERS[optimizer](task.student)
    new = STRATEGIES[strategy]
    clip = None if new is None else new()
    parameters = list(task.student.parameters())
    clipped: set[int] = set()
    usual, spiked, scores = [], [], []
    for step in range(STEPS):
        examples, spike = task.examples(BATCH), step in SPIKES and bad != "good"
        if not (spike and bad == "left out"):
            stepper.zero_grad()
            task.loss(*examples, bad=spike).backward()
            before = flat(parameters)
            if clip is not None:
                clip(parameters, stepper)
            after = flat(parameters)
            if not torch.equal(before, after):
                clipped.add(step)
            if spike:
                spiked.append(after.norm().item())
            else:
                usual.append(before.norm().item())
            stepper.step()
        if step >= STEPS - LAST:
            scores.append(task.score())
    left = statistics.median(spiked) / statistics.median(usual) if spiked else 0.0
    return Training(
        statistics.mean(scores), scores[-1], len(clipped) / STEPS, len(clipped & SPIKES), left
    )


def flat(parameters: Sequence[Tensor]) -> Tensor:
    """All gradients in one new vector."""
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


class Group(NamedTuple):
    """Trainings with the same settings, one for each seed, beside those without bad batches."""

    runs: list[Training]
    clean: list[Training]

    @property
    def above(self) -> list[float]:
        """By what share of the clean loss each ended above it."""
        return [run.loss / c.loss - 1 for run, c in zip(self.runs, self.clean, strict=True)]

    @property
    def fraction(self) -> float:
        return statistics.mean(run.fraction for run in self.runs)

    @property
    def caught(self) -> float:
        """The share of all bad batches."""
        return sum(run.caught for run in self.runs) / (len(SPIKES) * len(self.runs))

    def row(self) -> list[str]:
        above = self.above
        last = [run.last / c.last - 1 for run, c in zip(self.runs, self.clean, strict=True)]
        error = statistics.stdev(above) / len(above) ** 0.5
        return [
            f"{statistics.mean(run.loss for run in self.runs):.4f}",
            f"{statistics.mean(above):+.1%} ± {error:.1%}",
            f"{min(last):+.1%} to {max(last):+.1%}",
            f"{self.fraction:.1%}",
            f"{self.caught:.0%}",
            f"{statistics.median(run.left for run in self.runs):.2g}",
        ]


def measure(say: Say) -> Findings:
    groups: dict[tuple[str, str], Group] = {}
    rows: list[list[str]] = []
    for optimizer in OPTIMIZERS:
        clean = [train(optimizer, "none", seed, "good") for seed in SEEDS]
        without = Group([train(optimizer, "none", seed, "left out") for seed in SEEDS], clean)
        loss = statistics.mean(run.loss for run in clean)
        rows.append([optimizer, "good batches only", f"{loss:.4f}", *[""] * 5])
        rows.append([optimizer, "bad batches left out", *without.row()[:3], *[""] * 3])
        for strategy in STRATEGIES:
            if strategy in READS_ADAM and not optimizer.startswith("Adam"):
                continue
            group = Group([train(optimizer, strategy, seed) for seed in SEEDS], clean)
            groups[optimizer, strategy] = group
            rows.append([optimizer, strategy, *group.row()])
            say(f"{optimizer}, {strategy}: {statistics.mean(group.above):+.1%}")
    values: list[list[float]] = []
    for optimizer in OPTIMIZERS:
        zclip = groups[optimizer, "ZClip()"]
        values += [
            [statistics.mean(groups[optimizer, "none"].above)],
            [statistics.mean(zclip.above)],
            [zclip.fraction],
            [zclip.caught],
        ]
    return Findings(
        values=values,
        header=[
            "optimizer",
            "strategy",
            "loss",
            "above clean",
            "single seeds, last step",
            "steps clipped",
            "caught",
            "left of them",
        ],
        rows=rows,
    )


RESULT = Result(
    name="spikes",
    title="Bad batches",
    about=(
        "Kumar, Owen, Chowdhury and Guera, *ZClip*, 2025; Wang et al., *AdaGC*, 2025; Huang et "
        "al., *SPAM*, 2025. Their own experiments need GPUs; this is the same situation in small: "
        f"a net with two hidden layers of {WIDTH} learns to tell two classes apart, {STEPS} steps "
        f"on fresh batches of {BATCH}, of which {len(SPIKES)} (every 45th) have their labels "
        f"swapped and their loss multiplied by {LOUDER:g}. Strategies have their defaults where "
        f"none are shown. The loss is that of held-out examples, the mean over the last {LAST} "
        f"steps; bars are for the mean of {len(SEEDS)} seeds, each compared with the same training "
        "on good batches only (± is the standard error). A single seed after its last step would be "
        "judged by chance, as its column shows. A bad batch counts as caught when its gradients were changed, and *left "
        "of them* is their norm after that, in ordinary norms of the same run."
    ),
    bars=[
        bar
        for optimizer in OPTIMIZERS
        for bar in (
            Bar(f"{optimizer}, no clip, loss above clean", low=0.05, form=".1%"),
            Bar(f"{optimizer}, ZClip, loss above clean", high=0.05, form=".1%"),
            Bar(f"{optimizer}, ZClip, steps clipped", high=0.05, form=".1%"),
            Bar(f"{optimizer}, ZClip, bad batches caught", low=1.0, form=".0%"),
        )
    ],
    measure=measure,
)
