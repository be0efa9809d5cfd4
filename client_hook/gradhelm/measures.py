"""Measures beside the norms, on every n-th step only: weights, updates, magnitudes.

Law: a step that is not measured costs nothing, and none is changed by being measured. A measured
step keeps a copy of the weights until it is taken.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, optim

from .clip import Gradients, Target
from .ring import Ring
from .wire import MISSING, Column, FloatArray

LOWEST, HIGHEST = -48, 16
"""Powers of two that gradients are counted by. float16 ends at 2**-24 and 2**16, its full
precision at 2**-14."""
_EXPONENTS: Final = (
    "zero",
    "below",
    *(str(exponent) for exponent in range(LOWEST, HIGHEST)),
    "above",
    "nonfinite",
)


class Measures:
    """The measured steps of one stream, on their way to the sender.

    For each parameter, of step t: ``weight_norm``, the L2 norm of the weights before the step;
    ``update_norm``, that of what the step changed; ``update_ratio``, the second by the first; and
    for optimizers of Adam's family ``update_rms``, sqrt(mean(g^2 / v)) with the second moment v
    after the step (Wortsman et al. 2023: far above 1 shortly before loss spikes). For all gradients
    together ``gradient_exponent``: the share of elements with a magnitude in [2**e, 2**(e + 1)),
    before clipping, and unscaled.
    """

    def __init__(
        self, targets: Sequence[Target], optimizer: optim.Optimizer | None, stream: str | None
    ) -> None:
        self._parameters = [target.parameter for target in targets]
        self._optimizer = optimizer
        self._moments = optimizer is not None and "betas" in optimizer.defaults
        blocks = ["weight_norm", "update_norm", "update_ratio"]
        blocks += ["update_rms"] if self._moments else []
        prefix = "" if stream is None else f"{stream}/"
        self.columns = [
            Column(f"{prefix}{block}/{target.name}", "detail")
            for block in blocks
            for target in targets
        ]
        self.columns += [
            Column(f"{prefix}gradient_exponent/{name}", "detail") for name in _EXPONENTS
        ]
        self.ring: Ring | None = None
        self._step: int | None = None
        self._before: list[Tensor] = []
        self._exponents: FloatArray = np.empty(0, np.float32)

    def begin(self, step: int, grads: Gradients) -> None:
        """Before ``step``, and before it is clipped; of several clips of a step the first counts."""
        if self._step is not None:
            return
        self._exponents = exponents(grads.tensors)
        self._before = [p.detach().clone() for p in self._parameters]
        self._step = step

    def cancel(self) -> None:
        """The step that was begun is not taken."""
        self._step = None
        self._before = []

    def finish(self, version: int) -> None:
        """After the step that was begun, if one was."""
        step = self._step
        if step is None or self.ring is None:
            return
        weights = torch.stack([_norm(before) for before in self._before])
        updates = torch.stack(
            [_norm(p.detach() - b) for p, b in zip(self._parameters, self._before, strict=True)]
        )
        self.cancel()
        slot = self.ring.reserve(step, blank=True)
        if slot is None:
            return
        row = self.ring.rows[slot]
        count = len(self._parameters)
        # Of weights that are all zero there is no ratio.
        ratios = torch.where(weights > 0, updates / weights, float(MISSING))
        parts = [weights, updates, ratios]
        for number, part in enumerate(parts):
            row[number * count : (number + 1) * count] = part.numpy()
        if self._moments:
            for place, parameter in enumerate(self._parameters):
                rms = self._rms(parameter)
                if rms is not None:
                    row[3 * count + place] = rms
        row[-len(_EXPONENTS) :] = self._exponents
        self.ring.commit(step, time.time(), version)

    def _rms(self, parameter: Tensor) -> float | None:
        """RMS_t of one parameter's update; None when the optimizer has no second moment of it."""
        assert self._optimizer is not None
        state = self._optimizer.state.get(parameter, {})
        moment, grad = state.get("exp_avg_sq"), parameter.grad
        if moment is None or grad is None or grad.is_sparse or not grad.numel():
            return None
        group = next(
            g for g in self._optimizer.param_groups if any(p is parameter for p in g["params"])
        )
        step = float(state.get("step", 0))
        correction = 1 - float(group["betas"][1]) ** step if step else 1.0
        floor = float(group.get("eps", 0.0)) ** 2
        ratio = grad.detach().abs().float().square() / (moment.float() / correction).clamp_min(
            floor
        )
        return float(ratio.mean().sqrt())


def exponents(grads: Sequence[Tensor]) -> FloatArray:
    """The shares of all elements by magnitude, in the order of the columns."""
    counts = torch.zeros(len(_EXPONENTS), dtype=torch.float64)
    for grad in grads:
        if not grad.numel():
            continue
        size = grad.detach().abs().flatten()
        if size.dtype in (torch.float16, torch.bfloat16):
            size = size.float()
        finite = torch.isfinite(size)
        known = size[finite]
        # frexp gives mantissas in [0.5, 1): 1.0 is 0.5 * 2**1, and stands under 0.
        bucket = torch.frexp(known).exponent.long() - 1 - LOWEST
        bucket = bucket.clamp(-1, HIGHEST - LOWEST) + 2
        bucket[known == 0] = 0
        found = torch.bincount(bucket, minlength=len(_EXPONENTS)).double()
        found[-1] = float(len(size) - len(known))
        counts += found.cpu()
    total = counts.sum()
    shares: FloatArray = (counts / total if total else counts).float().numpy()
    return shares


def _norm(values: Tensor) -> Tensor:
    wide = torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None
    norm: Tensor = torch.linalg.vector_norm(values, dtype=wide)
    return norm.float().cpu()
