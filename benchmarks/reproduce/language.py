"""A recurrent language model at a learning rate that only clipping makes possible.

Source: the word language model in pytorch/examples (lr 20, clip 0.25, bptt 35, batch 20), and
Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", 2018, whose training
script clips at 0.25 as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradhelm import demo
from gradhelm.clip import GlobalNorm

from . import figures
from .bars import Bar, Findings, Result, Say

CHARACTERS = 100_000
WIDTH = 64
BATCH, BPTT = 20, 35
OTHER_BATCH = 32
"""Shows how much of an unclipped loss is chance."""
STEPS, LAST = 300, 50
SEEDS = (0, 1, 2)
GUESSING = math.log(len(demo.ALPHABET))

Setting = tuple[str, float, float | None, int]
"""Cell, learning rate, max_norm, and batch size."""

CELLS = {"LSTM": nn.LSTM, "RNN": nn.RNN}
SETTINGS: tuple[Setting, ...] = (
    ("LSTM", 20.0, None, BATCH),
    ("LSTM", 20.0, 1.0, BATCH),
    ("LSTM", 20.0, 0.25, BATCH),
    ("LSTM", 20.0, None, OTHER_BATCH),
    ("LSTM", 20.0, 0.25, OTHER_BATCH),
    ("LSTM", 5.0, None, BATCH),
    ("LSTM", 5.0, 0.25, BATCH),
    ("RNN", 5.0, None, BATCH),
    ("RNN", 5.0, 0.25, BATCH),
)


class CharModel(nn.Module):
    """Embedding, one recurrent layer, and back to characters; weights as in pytorch/examples."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(demo.ALPHABET), WIDTH)
        self.cell = CELLS[cell](WIDTH, WIDTH)
        self.decoder = nn.Linear(WIDTH, len(demo.ALPHABET))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def losses(self, text: Tensor, batch: int) -> Iterator[Tensor]:
        """One loss after another; the state is carried on, gradients do not reach back into it."""
        state = None
        for source, target in batches(text, batch):
            hidden, state = self.cell(self.embedding(source), state)
            state = tuple(s.detach() for s in state) if type(state) is tuple else state.detach()
            yield nn.functional.cross_entropy(self.decoder(hidden).flatten(0, 1), target.flatten())


class Training(NamedTuple):
    """The losses of all steps, and the share of steps that were clipped."""

    losses: list[float]
    fraction: float

    @property
    def loss(self) -> float:
        """The mean of the last steps. One that is no number has diverged: it counts as infinite."""
        mean = sum(self.losses[-LAST:]) / LAST
        return math.inf if math.isnan(mean) else mean


def batches(text: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and target, each [BPTT, batch], over and over; the target is one character ahead."""
    columns = text[: len(text) // batch * batch].view(batch, -1).t().contiguous()
    while True:
        for first in range(0, len(columns) - BPTT - 1, BPTT):
            last = first + BPTT
            yield columns[first:last], columns[first + 1 : last + 1]


def train(
    text: Tensor, cell: str, lr: float, max_norm: float | None, batch: int, seed: int
) -> Training:
    torch.manual_seed(seed)
    model = CharModel(cell)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    strategy = None if max_norm is None else GlobalNorm(max_norm)
    losses, clipped = [], 0
    for _, loss in zip(range(STEPS), model.losses(text, batch), strict=False):
        optimizer.zero_grad()
        loss.backward()
        if strategy is not None:
            clipped += strategy(model.parameters()).item() > strategy["max_norm"]
        optimizer.step()
        losses.append(loss.item())
    return Training(losses, clipped / STEPS)


def named(cell: str, lr: float, max_norm: float | None, batch: int = BATCH) -> str:
    clip = "no clip" if max_norm is None else f"max_norm {max_norm:g}"
    return f"{cell}, lr {lr:g}, {clip}" + ("" if batch == BATCH else f", batch {batch}")


def measure(say: Say) -> Findings:
    text = demo.corpus(CHARACTERS)
    runs: dict[str, list[Training]] = {}
    # Saturated units have denormal gradients, on which a CPU is ten times slower.
    torch.set_flush_denormal(True)
    for setting in SETTINGS:
        name = named(*setting)
        runs[name] = [train(text, *setting, seed) for seed in SEEDS]
        say(f"{name}: " + ", ".join(f"{run.loss:.2f}" for run in runs[name]))
    torch.set_flush_denormal(False)
    final = {name: [run.loss for run in trained] for name, trained in runs.items()}
    mean = {name: sum(found) / len(found) for name, found in final.items()}
    return Findings(
        values=[
            final["LSTM, lr 20, no clip"],
            final["LSTM, lr 20, max_norm 0.25"],
            [abs(mean["LSTM, lr 5, no clip"] - mean["LSTM, lr 5, max_norm 0.25"])],
            final["RNN, lr 5, no clip"],
            final["RNN, lr 5, max_norm 0.25"],
        ],
        header=["model", *(f"loss, seed {seed}" for seed in SEEDS), "clip fraction"],
        rows=[
            [
                name,
                *(f"{run.loss:.2f}" for run in trained),
                f"{sum(run.fraction for run in trained) / len(trained):.2f}",
            ]
            for name, trained in runs.items()
        ],
        drawing=figures.lines(
            {
                label: list(enumerate(runs[named("LSTM", 20.0, clip)][0].losses, 1))
                for label, clip in (("no clip", None), ("max_norm 0.25", 0.25))
            },
            across="step",
            up="loss (LSTM, lr 20, seed 0)",
        ),
        shows="The loss with and without clipping",
    )


RESULT = Result(
    name="language",
    title="A language model at learning rate 20",
    about=(
        "The word language model of pytorch/examples, and AWD-LSTM's training script (Merity, "
        "Keskar and Socher, 2018): plain SGD at learning rates as high as 20 to 30 with clipping "
        f"at 0.25. In small: characters, the first {CHARACTERS:,} of the standard library's own "
        f"source files; one layer of {WIDTH} units, bptt {BPTT}, batch {BATCH}, {STEPS} steps, "
        f"{len(SEEDS)} seeds. The loss is the mean of the last {LAST} steps; guessing among the "
        f"{len(demo.ALPHABET)} characters costs {GUESSING:.2f}. How badly a training without "
        "clipping ends depends on chance; the rows with another batch size show how much."
    ),
    bars=[
        Bar("LSTM, lr 20, loss without clipping", low=4.0),
        Bar("LSTM, lr 20, loss with max_norm 0.25", high=2.0),
        Bar("LSTM, lr 5, how far clipping moves the mean loss", high=0.1),
        Bar("RNN, lr 5, loss without clipping", low=4.0),
        Bar("RNN, lr 5, loss with max_norm 0.25", high=GUESSING / 2),
    ],
    measure=measure,
)
