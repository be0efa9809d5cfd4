"""Clipping each element to a range, as ``torch.nn.utils.clip_grad_value_`` does it.

Law: bit-identical to torch, with no pass over tensors whose norm shows that nothing in them can
exceed the threshold. A computed L2 norm is never below the largest magnitude (sums of squares are
rounded monotonically), except where squares underflow: hence the floor.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch

from .base import Strategy
from .gradients import Gradients, Outcome, foreach

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
    one_by_one: ClassVar[bool] = True
    takes_complex: ClassVar[bool] = False
    takes_sharded: ClassVar[bool] = True

    def __init__(self, clip_value: float, *, nonfinite: str = "propagate") -> None:
        super().__init__(clip_value=clip_value, nonfinite=nonfinite)

    def __repr__(self) -> str:
        return f"{self.name}({self.threshold!r})"

    def clip(self, grads: Gradients) -> Outcome:
        limit = self._values["clip_value"]
        provable = limit >= _SQUARES_UNDERFLOW
        within = [provable and norm <= limit for norm in grads.norms.tolist()]
        changed = [0] * len(grads)
        for tensors, places in grads.groups:
            beyond = [(g, p) for g, p in zip(tensors, places, strict=True) if not within[p]]
            if not beyond:
                continue
            for g, place in beyond:
                changed[place] = int(torch.count_nonzero(g.abs() > limit))
            larger = [g for g, _ in beyond]
            if foreach(larger):
                torch._foreach_clamp_min_(larger, -limit)
                torch._foreach_clamp_max_(larger, limit)
            else:
                for g in larger:
                    g.clamp_(min=-limit, max=limit)
        return grads.by_elements(changed, limit)
