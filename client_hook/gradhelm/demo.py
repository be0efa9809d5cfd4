"""A training run to look at: ``python -m gradhelm.demo``.

A character-level LSTM learns Python from the standard library's own source files. At its learning
rate it is unstable unless gradients are clipped hard, which is the point: watch it explode, then
set a threshold of 0.25 on its page and see it learn.

Model, initial weights and rates are those of the word language model in pytorch/examples, in small.
This is an ordinary training script; the line with ``attach`` is all that gradhelm adds.
"""

from __future__ import annotations

import argparse
import signal
import string
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

import gradhelm

ALPHABET: Final = string.printable[:97]  # up to the newline
BATCH: Final = 32
BPTT: Final = 35
LEARNING_RATE: Final = 20.0


State = tuple[Tensor, Tensor]
"""What an LSTM remembers: hidden and cell state, each [layers, batch, width]."""


class CharLM(nn.Module):
    """Embedding, two LSTM layers, and a linear layer back to characters."""

    def __init__(self, width: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), width)
        self.lstm = nn.LSTM(width, width, layers)
        self.decoder = nn.Linear(width, len(ALPHABET))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, text: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Logits [time, batch, characters] for ``text`` [time, batch], and the state after it."""
        hidden, state = self.lstm(self.embedding(text), state)
        return self.decoder(hidden), state


def corpus(limit: int = 2_000_000) -> Tensor:
    """The standard library's source as numbers of ALPHABET: [characters], at most ``limit``."""
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    text: list[int] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        text += [numbers[character] for character in source if character in numbers]
        if len(text) >= limit:
            break
    return torch.tensor(text[:limit])


def batches(text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and target, each [BPTT, BATCH], over and over; the target is one character ahead."""
    columns = text[: len(text) // BATCH * BATCH].view(BATCH, -1).t().contiguous()
    while True:
        for first in range(0, len(columns) - BPTT - 1, BPTT):
            last = first + BPTT
            yield columns[first:last], columns[first + 1 : last + 1]


def build(seed: int = 0) -> tuple[CharLM, torch.optim.SGD]:
    """The model and its optimizer, always the same for one seed."""
    torch.manual_seed(seed)
    model = CharLM()
    return model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)


def losses(model: CharLM, text: Tensor) -> Iterator[Tensor]:
    """One loss after another, each already propagated back: all that is left is to step."""
    state: State | None = None
    for source, target in batches(text):
        logits, (hidden, cell) = model(source, state)
        # The text goes on where it was cut, but gradients do not reach back across the cut.
        state = hidden.detach(), cell.detach()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        yield loss


def train(steps: int, max_norm: float, steps_per_second: float, seed: int) -> None:
    """Trains for ``steps`` steps, not faster than asked (0: as fast as it goes)."""
    torch.set_num_threads(1)
    model, optimizer = build(seed)
    config = {"lr": LEARNING_RATE, "bptt": BPTT, "batch": BATCH, "seed": seed, "total_steps": steps}
    run = gradhelm.attach(model, optimizer, max_norm=max_norm, name="demo", config=config)
    with run:
        due = time.monotonic()
        for step, loss in zip(range(steps), losses(model, corpus()), strict=False):
            optimizer.step()
            run.log(loss=loss)
            if step % 100 == 0:
                sys.stdout.write(f"step {step:5d}  loss {loss.item():.3f}  clip {run.threshold}\n")
                sys.stdout.flush()
            if steps_per_second:
                due += 1 / steps_per_second
                time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(prog="python -m gradhelm.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--steps-per-second", type=float, default=10.0, help="0: no limit")
    parser.add_argument("--max-norm", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    try:
        train(options.steps, options.max_norm, options.steps_per_second, options.seed)
    except KeyboardInterrupt:
        sys.stdout.write("stopped\n")


if __name__ == "__main__":
    main()
