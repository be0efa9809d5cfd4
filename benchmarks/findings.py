"""``python -m benchmarks.findings``: are the findings of the advice right? Real trainings that have a
fault, and others that have none: how many faults are found, and how often is there a false alarm?

Not a part of ``make bench``: nothing here is about time. Every run trains a small network for real,
reports to a server, and is judged by ``GET runs/{run}/advice`` at its end.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradhelm

from .server import Server

STEPS = 400
LONG = 1200
"""Steps of runs about which something is only said after a thousand."""


class Recurrent(nn.Module):
    """An LSTM that says the next of 12 signs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 12)
        self.lstm = nn.LSTM(12, 24, batch_first=True)
        self.head = nn.Linear(24, 12)

    def forward(self, signs: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(signs))[0])


class Transformer(nn.Module):
    """Two blocks with normalisation first, over the same signs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(16, 12)

    def forward(self, signs: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(signs.shape[1])
        return self.head(self.blocks(self.embedding(signs), mask=mask, is_causal=True))


def mlp(depth: int = 3, between: type[nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(16, 16), between()]
    return nn.Sequential(*layers, nn.Linear(16, 1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 4),
    )  # fmt: skip


def signs_loss(model: nn.Module) -> Tensor:
    """Sequences in which each sign follows from the two before it."""
    signs = torch.randint(12, (16, 2))
    for _ in range(14):
        signs = torch.cat([signs, (signs[:, -1:] + 5 * signs[:, -2:-1] + 3) % 12], 1)
    told = model(signs[:, :-1])
    return nn.functional.cross_entropy(told.flatten(0, 1), signs[:, 1:].flatten())


def numbers_loss(model: nn.Module) -> Tensor:
    x = torch.randn(32, 16)
    return (
        (model(x) - x[:, :4].prod(1, keepdim=True) - x[:, 4:].sum(1, keepdim=True)).square().mean()
    )


def images_loss(model: nn.Module) -> Tensor:
    """Which of four edges is bright."""
    kind = torch.randint(4, (32,))
    images = torch.randn(32, 1, 8, 8)
    for place, one in enumerate(kind.tolist()):
        edge = (slice(None), 0) if one == 0 else (slice(None), -1) if one == 1 else None
        edge = edge or ((0,) if one == 2 else (-1,))
        images[(place, 0, *edge)] += 2
    return nn.functional.cross_entropy(model(images), kind)


@dataclass(frozen=True)
class Task:
    """What is trained, and how one would: ``lr`` for SGD with momentum, ``adam`` for AdamW."""

    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    lr: float
    adam: float = 2e-3


TASKS = {
    "MLP": Task(mlp, numbers_loss, 0.002),
    "LSTM": Task(Recurrent, signs_loss, 0.1),
    "CNN": Task(convolutions, images_loss, 0.02),
    "transformer": Task(Transformer, signs_loss, 0.02),
}


@dataclass(frozen=True)
class Fault:
    """``wanted``: what is to be found; ``beside``: what may be said too, since it follows from it.

    ``at``: the percentile of this training's own norms that the threshold is put at, and times what.
    """

    wanted: str | None
    beside: frozenset[str] = frozenset()
    at: tuple[float, float] = (95.0, 1.0)
    adam: bool = False
    steps: int = STEPS
    lr: float = 1.0
    spoil: Callable[[nn.Module, int], None] | None = None
    model: Callable[[], nn.Module] | None = None
    tasks: tuple[str, ...] = tuple(TASKS)


def last_weight(model: nn.Module) -> nn.Parameter:
    return [p for p in model.parameters() if p.ndim > 1][-1]


def louder(model: nn.Module, step: int) -> None:
    """The gradient of one layer is a hundred times too large now and then."""
    if step == 0:
        weight = last_weight(model)
        weight.register_hook(lambda g: 100 * g if float(torch.rand(())) < 0.3 else g)


def kill(model: nn.Module, step: int) -> None:
    """A bias so far below zero that its units never speak again."""
    if step == 50:
        with torch.no_grad():
            first = next(m for m in model.modules() if isinstance(m, nn.Linear))
            first.bias.fill_(-1e4)


def break_it(model: nn.Module, step: int) -> None:
    if step == 200:
        last_weight(model).register_hook(lambda g: g * math.nan if step_of[0] == 200 else g)


def swell(model: nn.Module, step: int) -> None:
    """All gradients grow by one percent a step, as when a loss is scaled by what grows."""
    if step == 0:
        for p in model.parameters():
            p.register_hook(lambda g: g * 1.01 ** step_of[0])


step_of = [0]
"""The step that the hooks above are at."""

FAULTS = {
    "none, SGD": Fault(None),
    "none, AdamW": Fault(None, adam=True),
    "threshold far too low, SGD": Fault("clips_most", at=(10.0, 1.0)),
    "threshold far too low, AdamW": Fault(
        "scale_is_invisible", frozenset({"clips_most"}), at=(10.0, 1.0), adam=True
    ),
    "threshold out of reach": Fault("never_clips", at=(100.0, 50.0), steps=LONG),
    "one layer too loud": Fault("one_layer", frozenset({"update_ratio_high"}), spoil=louder),
    "dead units": Fault(
        "dead", frozenset({"growing", "update_ratio_low"}), spoil=kill, tasks=("MLP",)
    ),
    "vanishing": Fault("vanishing", model=lambda: mlp(12, nn.Sigmoid), tasks=("MLP",), adam=True),
    "a NaN": Fault("nonfinite", spoil=break_it),
    "growing": Fault(
        "growing", frozenset({"clips_most", "scale_is_invisible"}), spoil=swell, adam=True
    ),
    "learning rate far too high": Fault(
        "update_ratio_high",
        frozenset({"growing", "clips_most", "dead", "never_clips"}),
        lr=100.0,
        adam=True,
    ),
    "learning rate far too low": Fault("update_ratio_low", lr=1e-6, adam=True),
}


def percentile(task: Task, fault: Fault, seed: int) -> float:
    """Of the norms of the same training when nothing is clipped or spoiled."""
    torch.manual_seed(seed)
    model = (fault.model or task.model)()
    optimizer = made(task, fault, model)
    norms = []
    for _ in range(fault.steps):
        optimizer.zero_grad()
        task.loss(model).backward()
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        optimizer.step()
    at, times = fault.at
    return float(torch.tensor(norms).quantile(at / 100)) * times


def made(task: Task, fault: Fault, model: nn.Module) -> torch.optim.Optimizer:
    if fault.adam:
        return torch.optim.AdamW(model.parameters(), lr=task.adam * fault.lr)
    return torch.optim.SGD(model.parameters(), lr=task.lr * fault.lr, momentum=0.9)


def train(url: str, token: str, name: str, kind: str, seed: int) -> str:
    """One training that reports to the server at ``url``; its run's id."""
    task, fault = TASKS[name], FAULTS[kind]
    limit = percentile(task, fault, seed)
    torch.manual_seed(seed)
    model = (fault.model or task.model)()
    optimizer = made(task, fault, model)
    title = f"{kind}, {name}, {seed}"
    with gradhelm.attach(
        model, optimizer, max_norm=limit, name=title, measure_every=10, server=url, token=token
    ) as followed:
        for step in range(fault.steps):
            step_of[0] = step
            if fault.spoil is not None:
                fault.spoil(model, step)
            optimizer.zero_grad()
            task.loss(model).backward()
            weights = [p.detach().clone() for p in model.parameters()] if kind == "a NaN" else []
            optimizer.step()
            if step == 200 and weights:  # so that one step is spoiled, and not the training
                with torch.no_grad():
                    for p, before in zip(model.parameters(), weights, strict=True):
                        p.copy_(before)
                optimizer.state.clear()
    return followed.id


def judged(kind: str, advice: dict[str, Any]) -> tuple[bool, set[str]]:
    """Whether the fault was found, and what was said that is not the case."""
    fault = FAULTS[kind]
    found = {warning["kind"] for warning in advice["warnings"]}
    wanted = set() if fault.wanted is None else {fault.wanted}
    return wanted <= found, found - wanted - fault.beside


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.findings", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    rows: dict[str, list[tuple[bool, set[str]]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="gradhelm-findings-") as home,
        Server(Path(home)) as server,
    ):
        for kind, name, seed in (
            (kind, name, seed)
            for kind, fault in FAULTS.items()
            for name in fault.tasks
            for seed in range(asked.seeds)
        ):
            run = train(server.url, server.token, name, kind, seed)
            found, false = judged(kind, server.rest.get(f"runs/{run}/advice").json())
            rows.setdefault(kind, []).append((found, false))
            told = "found" if found else "MISSED"
            print(f"{kind}, {name}, seed {seed}: {told} {sorted(false)}", file=sys.stderr)
    print("| fault | runs | found | false alarms |\n|---|---|---|---|")
    for kind, found_ in rows.items():
        hits = sum(hit for hit, _ in found_)
        false = [one for _, some in found_ for one in sorted(some)]
        told = "–" if FAULTS[kind].wanted is None else str(hits)
        print(f"| {kind} | {len(found_)} | {told} | {len(false)} {', '.join(sorted(set(false)))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
