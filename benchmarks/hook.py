"""Part: what a clip with all norms and the hand-off costs, beside torch's own clip.

Each comparison runs in one process, its sides in random order, on the same gradients, which are
allocated anew before each side as ``zero_grad`` has it. Ratios are taken within a round, and told as
the median over all rounds with its quartiles, so that a busy neighbour meets both sides. What an
optimizer's step takes without any clip is taken off both.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import _global_optimizer_pre_hooks

import gradhelm
from gradhelm.clip import GlobalNorm

from .place import Asked, say


@dataclass(frozen=True)
class Row:
    """One figure with its quartiles; ``cpu`` is the same in CPU time of the training thread."""

    what: str
    where: str
    median: float
    low: float
    high: float
    cpu: float | None
    unit: str


def measure(asked: Asked) -> dict[str, Any]:
    times = 3 if asked.large else 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for row in chain(clip_rows(400 * times), fold_rows(300 * times), sender_rows(300 * times)):
            found.append(row)
            say(f"{row.where}, {row.what}: {row.median:.3f} {row.unit}")
    finally:
        torch.set_num_threads(threads)
    return {"rows": [asdict(row) for row in found]}


# -- models ---------------------------------------------------------------------------------------


class Still(optim.Optimizer):
    """Steps nothing: what its ``step`` takes is what was hooked to it."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    def step(self) -> None:  # type: ignore[override]
        pass


class LanguageModel(nn.Module):
    """A transformer with its head tied to the embedding: 12 parameters a layer, and 3."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embedding = nn.Embedding(1000, width)
        norm = nn.LayerNorm(width)
        self.body = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)

    def forward(self, text: Tensor) -> Tensor:
        return self.body(self.embedding(text)) @ self.embedding.weight.t()


def perceptron(layers: int, width: int) -> nn.Module:
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Embedding(1000, width), *parts, nn.Linear(width, 1000, bias=False))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "75 tensors, 1.2 M": lambda: LanguageModel(6, 124),
    "75 tensors, 2.9 M": lambda: LanguageModel(6, 192),
    "200 tensors, 1.2 M": lambda: perceptron(99, 100),
    "99 tensors, 25.7 M": lambda: LanguageModel(8, 512),
}


# -- measuring ------------------------------------------------------------------------------------

BARE = ("nothing", "bare, clips nothing", "bare, clips", "plain", "bare")

Times = dict[str, list[tuple[float, float]]]
"""Wall and thread time of each side in each round, in seconds."""


def interleave(
    sides: dict[str, Callable[[], object]], prepare: Callable[[str], None], rounds: int
) -> Times:
    """Runs all ``sides`` in each round, ``prepare`` before each; some first rounds are dropped.

    gradhelm looks at the steps of all optimizers in the process once one is attached: not at those of
    the sides in ``BARE``, which stand for a process without it.
    """
    times: Times = {side: [] for side in sides}
    cold = max(2, rounds // 10)
    hooks = dict(_global_optimizer_pre_hooks)
    for number in range(rounds + cold):
        for side in random.sample(list(sides), len(sides)):
            prepare(side)
            _global_optimizer_pre_hooks.clear()
            if side not in BARE:
                _global_optimizer_pre_hooks.update(hooks)
            cpu, wall = time.thread_time(), time.perf_counter()
            sides[side]()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if number >= cold:
                times[side].append((wall, cpu))
    _global_optimizer_pre_hooks.update(hooks)
    return times


def ratio(
    times: Times, side: str, bare: str, rest: str | tuple[str, str]
) -> tuple[float, float, float, float]:
    """Median and quartiles of (side - rest) / (bare - rest) in wall time; the median in CPU time.

    ``rest`` may differ for the two sides.
    """
    rests = (rest, rest) if isinstance(rest, str) else rest
    rounds = list(zip(*(times[name] for name in (side, bare, *rests)), strict=True))
    # What is taken off is short and its own noise would only add to that of the others.
    off = [[statistics.median(t[kind] for t in times[name]) for name in rests] for kind in (0, 1)]
    wall, cpu = (
        [(a[kind] - off[kind][0]) / (b[kind] - off[kind][1]) for a, b, *_ in rounds]
        for kind in (0, 1)
    )
    low, middle, high = statistics.quantiles(wall, n=4)
    return middle, low, high, statistics.median(cpu)


def shared_gradients(parameters: list[nn.Parameter]) -> tuple[Callable[[], None], float]:
    """What gives every parameter a new gradient, always the same, and the norm of all of them."""
    source = [torch.randn_like(p) / 1000 for p in parameters]

    def fresh() -> None:
        for p, grad in zip(parameters, source, strict=True):
            p.grad = grad.clone()

    return fresh, torch.nn.utils.get_total_norm(source).item()


# -- the figures ----------------------------------------------------------------------------------


def clip_rows(rounds: int) -> Iterator[Row]:
    """Clip, all norms and the hand-off, against the bare clip, on steps that clip and that do not."""
    for where, build in MODELS.items():
        parameters = list(build().parameters())
        fresh, norm = shared_gradients(parameters)
        unhooked = Still(parameters)

        def bare(max_norm: float, parameters=parameters, unhooked=unhooked) -> None:
            clip_grad_norm_(parameters, max_norm, foreach=True)
            unhooked.step()

        sides: dict[str, Callable[[], object]] = {
            "nothing": unhooked.step,
            "bare, clips nothing": lambda bare=bare, norm=norm: bare(10 * norm),
            "bare, clips": lambda bare=bare, norm=norm: bare(norm / 2),
        }
        sources = []
        for side, max_norm in (("clips nothing", 10 * norm), ("clips", norm / 2)):
            optimizer = Still(parameters)
            model = nn.ParameterList(parameters)
            run = gradhelm.attach(model, optimizer, max_norm=max_norm, mode="disabled")
            for stream in run.streams.values():
                sources += [source for source, _ in stream.record()]
            sides[side] = optimizer.step

        def prepare(side: str, fresh=fresh, sources=sources) -> None:
            fresh()
            for source in sources:
                for _ in source.batches():
                    pass

        times = interleave(sides, prepare, _fewer(rounds, parameters))
        for side in ("clips nothing", "clips"):
            figures = ratio(times, side, f"bare, {side}", "nothing")
            yield Row(side, where, *figures, "of bare")
        handoff = sources[0].handoff()
        for name in ("p50", "p99"):
            value = handoff[f"handoff_{name}_us"]
            yield Row(f"hand-off, {name}", where, value, value, value, None, "µs")


def _fewer(rounds: int, parameters: list[nn.Parameter]) -> int:
    """Large models take long, and are measured well in a few rounds."""
    large = sum(p.numel() for p in parameters) > 10_000_000
    return max(10, rounds // 15) if large else rounds


def fold_rows(rounds: int) -> Iterator[Row]:
    """Clipped steps of a fused AdamW, the coefficient folded into its own pass or not."""
    for where in ("75 tensors, 2.9 M", "99 tensors, 25.7 M"):
        parameters = list(MODELS[where]().parameters())
        fresh, norm = shared_gradients(parameters)
        made = [optim.AdamW(parameters, lr=1e-9, fused=True) for _ in range(4)]
        plain, clipped, exact, folded = made

        def bare(parameters=parameters, norm=norm, clipped=clipped) -> None:
            clip_grad_norm_(parameters, norm / 2, foreach=True)
            clipped.step()

        for optimizer, strategy in (
            (exact, GlobalNorm(norm / 2)),
            (folded, GlobalNorm(norm / 2, exact=False)),
        ):
            model = nn.ParameterList(parameters)
            gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
        sides = {"plain": plain.step, "bare": bare, "exact": exact.step, "folded": folded.step}
        times = interleave(sides, lambda _, fresh=fresh: fresh(), _fewer(rounds, parameters))
        for name, side in (("exact=False", "folded"), ("exact", "exact")):
            figures = ratio(times, side, "bare", "plain")
            yield Row(f"clips, fused AdamW, {name}", where, *figures, "of bare")


def sender_rows(frames: int) -> Iterator[Row]:
    """What a frame costs the thread that shares the interpreter with training, up to the socket."""
    from gradhelm import wire
    from gradhelm.cargo import Cargo, Lane
    from gradhelm.control import Steering
    from gradhelm.judge import Judge
    from gradhelm.notice import Notices
    from gradhelm.outbox import Outbox
    from gradhelm.ring import Group
    from gradhelm.scalars import Scalars

    for where in ("75 tensors, 1.2 M", "200 tensors, 1.2 M"):
        parameters = list(MODELS[where]().parameters())
        optimizer = Still(parameters)
        run = gradhelm.attach(
            nn.ParameterList(parameters), optimizer, max_norm=1.0, mode="disabled"
        )
        ((source, columns),) = next(iter(run.streams.values())).record()
        lanes = [Lane(source, [Group(0, 0, len(columns))], columns, None)]
        notices, steering = Notices(), Steering([], wire.Limits())
        scalars = Scalars(notices, frozenset(), 1)
        judge = Judge(steering, notices)
        cargo = Cargo(lanes, scalars, steering, judge, lambda: (None, {}), notices)
        outbox = Outbox()
        fresh, _ = shared_gradients(parameters)
        fresh()
        spent = []
        for _ in range(frames):
            for _ in range(10):
                optimizer.step()
            cpu = time.thread_time()
            cargo.load(outbox)
            while outbox.next(1 << 30) is not None:
                pass
            spent.append(1e6 * (time.thread_time() - cpu))
            outbox.ack(1 << 40)
        low, middle, high = statistics.quantiles(spent, n=4)
        yield Row("sender, a frame of 10 steps", where, middle, low, high, None, "µs CPU")
