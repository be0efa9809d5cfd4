"""Clipping each element to a range, as ``torch.nn.utils.clip_grad_value_`` does it.

Law: bit-identical to torch, with no pass over tensors whose norm shows that nothing in them can
exceed the threshold. A computed L2 norm is never below the largest magnitude (sums of squares are
rounded monotonically), except where squares underflow: hence the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor

from .base import Outcome, Strategy, foreach, group, measure

_SQUARES_UNDERFLOW: Final = 1e-15
"""Below this threshold norms prove nothing: in float32 the square of 1e-19 is no longer normal."""


class Value(Strategy):
    """g <- clamp(g, -clip_value, clip_value), element by element.

    clip_value: finite and above 0. NaN stays NaN, infinite elements become the threshold. An
    outcome's ``share`` is the exact share of elements that were changed; complex gradients cannot
    be clipped so. Source: torch/nn/utils/clip_grad.py.
    """

    threshold_name: ClassVar[str | None] = "clip_value"
    counts_elements: ClassVar[bool] = True

    def __init__(self, clip_value: float) -> None:
        super().__init__(clip_value=clip_value)

    def __repr__(self) -> str:
        return f"{self.name}({self.threshold!r})"

    def check(self, parameters: Sequence[Tensor]) -> None:
        if any(p.is_complex() for p in parameters):
            raise ValueError("clip=Value(...) cannot clamp complex gradients; use GlobalNorm")

    def clip(self, grads: Sequence[Tensor]) -> Outcome:
        limit = self._values["clip_value"]
        groups = group(grads)
        norms, total = measure(groups)
        provable = limit >= _SQUARES_UNDERFLOW
        within = [provable and norm <= limit for norm in norms.tolist()]
        changed = 0
        for tensors, places in groups:
            larger = [g for g, place in zip(tensors, places, strict=True) if not within[place]]
            if not larger:
                continue
            changed += sum(int(torch.count_nonzero(g.abs() > limit)) for g in larger)
            if foreach(larger):
                torch._foreach_clamp_min_(larger, -limit)
                torch._foreach_clamp_max_(larger, limit)
            else:
                for g in larger:
                    g.clamp_(min=-limit, max=limit)
        return Outcome(
            norms,
            total,
            threshold=limit,
            share=changed / max(1, sum(g.numel() for g in grads)),
            post_norm=None if changed else total.item(),
            changed=changed > 0,
        )
