"""What the hook costs the trainer: ``python -m benchmarks.hook``

All sides of a comparison run in one process, in random order, on the same gradients, which are
allocated anew before each (as ``zero_grad`` has it). A ratio is taken within a round and its median
and quartiles over the rounds, so that a busy neighbour meets both sides.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import clip_grad_norm_

import gradhelm

Sides = dict[str, Callable[[], object]]
Times = dict[str, list[tuple[float, float]]]


class Still(optim.Optimizer):
    """Steps nothing: what its ``step`` takes is what was hooked to it."""

    def __init__(self, parameters: list[Tensor]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    def step(self) -> None:  # type: ignore[override]
        pass


def transformer(layers: int, width: int) -> nn.Module:
    """The parameters of a language model with its head tied to the embedding: 12 a layer and 3."""
    block = nn.TransformerEncoderLayer(width, 4, 4 * width)
    body = nn.TransformerEncoder(block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
    return nn.ModuleList([nn.Embedding(1000, width), body])


def perceptron(layers: int, width: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers // 2)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "75 tensors, 1.2 M": lambda: transformer(6, 124),
    "75 tensors, 2.9 M": lambda: transformer(6, 192),
    "200 tensors, 1.2 M": lambda: perceptron(200, 108),
    "99 tensors, 25.7 M": lambda: transformer(8, 512),
}


def interleave(sides: Sides, prepare: Callable[[], None], rounds: int) -> Times:
    """Wall and thread time in seconds of each side in each round; the first tenth is dropped."""
    times: Times = {side: [] for side in sides}
    for number in range(rounds + max(2, rounds // 10)):
        for side in random.sample(list(sides), len(sides)):
            prepare()
            cpu, wall = time.thread_time(), time.perf_counter()
            sides[side]()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if number >= max(2, rounds // 10):
                times[side].append((wall, cpu))
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def clip_rows(name, rounds):
    model = MODELS[name]()
    parameters = list(model.parameters())
    source = [torch.randn_like(p) / 1000 for p in parameters]
    def prepare():
        for p, g in zip(parameters, source): p.grad = g.clone()
    prepare()
    norm = clip_grad_norm_(parameters, 1e9).item()
    class Other(Still): pass
    oo = Other(parameters)
    def bt(): clip_grad_norm_(parameters, norm/2, foreach=True); oo.step()
    def bb(): clip_grad_norm_(parameters, norm*10, foreach=True); oo.step()
    sides = {"bare":bb, "bare tight": bt}
    rings=[]
    for side, thr in (("loose", norm*10), ("tight", norm/2)):
        o = Still(parameters)
        run = gradhelm.attach(model, o, max_norm=thr, mode="disabled")
        rings += [s.record()[0][0] for s in run.streams.values()]
        sides[side] = o.step
    sides["still"] = oo.step
    def prep2():
        prepare()
        for r in rings:
            for _ in r.batches(): pass
    t = interleave(sides, prep2, rounds)
    print(name, f"bare {statistics.median(w for w,_ in t['bare'])*1e6:.0f} us")
    for s in sides:
        m,l,h = quartiles([(a[0]-c[0])/(b[0]-c[0]) for a,b,c in zip(t[s], t["bare"], t["still"])])
        c,_,_ = quartiles([(a[1]-c[1])/(b[1]-c[1]) for a,b,c in zip(t[s], t["bare"], t["still"])])
        print(f"  {s:12} {m:.3f} [{l:.3f} {h:.3f}] cpu {c:.3f}  {statistics.median(w for w,_ in t[s])*1e6:.0f} us")
    for s in run.streams.values(): print(s.recorder.handoff())

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, r in zip(MODELS, (300,200,300,20)): clip_rows(name, r)
