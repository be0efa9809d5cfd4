"""Are the weights torch's own, to the last bit? ``python -m benchmarks.identity``

The demo's model is trained by loops written by hand with ``torch.nn.utils.clip_grad_norm_`` and by
the same loops with the hook: plain, scaled (GradScaler, unscaled by hand or not), fused, and
accumulated, at thresholds below, at, one unit in the last place beside, and above the norms that
occur. Prints a table; exits with 1 if any pair differs in any bit.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

import gradhelm
from gradhelm import demo

Norms = list[float]
Clip = Callable[[torch.nn.Module], Tensor] | None
"""How the loop clips by hand; None where the hook does it."""


class Loop:
    """One way to write a training loop; each is run by hand and with the hook."""

    def __init__(
        self, name: str, *, fused: bool = False, scaled: str = "", accumulate: int = 1
    ) -> None:
        self.name = name
        self.fused = fused
        self.scaled = scaled  # "" without a GradScaler, else who unscales: "scaler" or "loop"
        self.accumulate = accumulate

    def train(self, text: Tensor, steps: int, threshold: float, clip: Clip) -> list[bytes]:
        """The bits of the weights after ``steps`` optimizer steps."""
        model, optimizer = self._build()
        run = None
        if clip is None:
            run = gradhelm.attach(model, optimizer, max_norm=threshold, mode="disabled")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=bool(self.scaled))
        losses = self._losses(model, text)
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(self.accumulate):
                scaler.scale(next(losses) / self.accumulate).backward()
            if clip is not None or self.scaled == "loop":
                scaler.unscale_(optimizer)
            if clip is not None:
                clip(model)
            scaler.step(optimizer)
            scaler.update()
        if run is not None:
            run.close()
        return [p.detach().numpy().tobytes() for p in model.parameters()]

    def _build(self) -> tuple[demo.CharLM, torch.optim.Optimizer]:
        model, optimizer = demo.build()
        if self.fused:
            return model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        return model, optimizer

    def _losses(self, model: demo.CharLM, text: Tensor) -> Iterator[Tensor]:
        state: demo.State | None = None
        for source, target in demo.batches(text):
            logits, (hidden, cell) = model(source, state)
            state = hidden.detach(), cell.detach()
            yield torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def by_hand(threshold: float, *, foreach: bool, norms: Norms | None = None) -> Clip:
    def clip(model: torch.nn.Module) -> Tensor:
        norm = clip_grad_norm_(model.parameters(), threshold, foreach=foreach)
        if norms is not None:
            norms.append(norm.item())
        return norm

    return clip


LOOPS = (
    (Loop("plain, against foreach"), True),
    (Loop("plain, against one by one"), False),
    (Loop("GradScaler", scaled="scaler"), True),
    (Loop("GradScaler, unscale_ by hand", scaled="loop"), True),
    (Loop("fused AdamW", fused=True), True),
    (Loop("fused AdamW, GradScaler", fused=True, scaled="scaler"), True),
    (Loop("accumulated over 3", accumulate=3), True),
)


def thresholds(loop: Loop, text: Tensor) -> dict[str, float]:
    """Around a norm that occurs, unclipped up to there: the largest of the first 40 steps so far."""
    norms: Norms = []
    loop.train(text, 40, 1e30, by_hand(1e30, foreach=True, norms=norms))
    records = [n for i, n in enumerate(norms) if i > 2 and math.isfinite(n) and n >= max(norms[:i])]
    at = np.float32(records[0])
    return {
        "below": float(at) * 0.1,
        "1 ulp below": float(np.nextafter(at, np.float32(0))),
        "at": float(at),
        "1 ulp above": float(np.nextafter(at, np.float32(np.inf))),
        "above": float(at) * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    text = demo.corpus()
    began, differing = time.monotonic(), 0
    print(
        f"torch {torch.__version__}, {steps} steps, {sum(p.numel() for p in demo.build()[0].parameters()):,} weights"
    )
    for loop, foreach in LOOPS:
        for where, threshold in thresholds(loop, text).items():
            expected = loop.train(text, steps, threshold, by_hand(threshold, foreach=foreach))
            same = loop.train(text, steps, threshold, None) == expected
            differing += not same
            print(
                f"{loop.name:30} {where:12} max_norm {threshold:<12.6g} "
                f"{'identical' if same else 'DIFFERENT'}  ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    print(f"{differing} of {5 * len(LOOPS)} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
