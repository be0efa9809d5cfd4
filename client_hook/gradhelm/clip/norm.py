"""Clipping by the common norm of all gradients (Pascanu et al. 2013), as torch does it.

Law: weights after a step are bit-identical to ``torch.nn.utils.clip_grad_norm_``, its foreach path
and its plain one. On a CPU a coefficient of exactly 1 is not multiplied in: x * 1.0 is x, and a
step that clips nothing then needs one read of the gradients and no write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .base import Outcome, Strategy, foreach, group, measure


class GlobalNorm(Strategy):
    """g <- g * min(1, max_norm / (norm + 1e-6)), with the norm of all gradients together.

    max_norm: the threshold; finite and above 0.
    norm_type: the p of the p-norm; any float, ``inf`` for the largest magnitude.
    nonfinite: ``"propagate"`` as torch does by default (one infinite gradient makes the finite ones
    zero and itself NaN; one NaN makes all NaN), or ``"raise"``: RuntimeError, gradients untouched.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
    2013; torch/nn/utils/clip_grad.py.
    """

    threshold_name: ClassVar[str | None] = "max_norm"

    def __init__(
        self, max_norm: float, norm_type: float = 2.0, *, nonfinite: str = "propagate"
    ) -> None:
        super().__init__(max_norm=max_norm)
        self.norm_type = _norm_type(norm_type)
        self.nonfinite = _policy(nonfinite)

    def __repr__(self) -> str:
        return f"{self.name}({self.threshold!r}, norm_type={self.norm_type!r})"

    def clip(self, grads: Sequence[Tensor]) -> Outcome:
        max_norm = self._values["max_norm"]
        groups = group(grads)
        norms, total = measure(groups, self.norm_type)
        if self.nonfinite == "raise" and not bool(torch.isfinite(total)):
            raise RuntimeError(
                f"The total norm of order {self.norm_type} for gradients from "
                "`parameters` is non-finite, so it cannot be clipped. To disable "
                "this error and scale the gradients by the non-finite norm anyway, "
                'set `nonfinite="propagate"`'
            )
        # These two lines are torch's own; another order of operations rounds differently.
        coefficient = torch.clamp(max_norm / (total + 1e-6), max=1.0)
        factor: float = coefficient.item()
        if factor != 1.0 or total.device.type != "cpu":
            for tensors, _ in groups:
                scale = coefficient.to(tensors[0].device)
                if foreach(tensors):
                    torch._foreach_mul_(tensors, scale)
                else:
                    for g in tensors:
                        g.mul_(scale)
        return Outcome(
            norms,
            total,
            threshold=max_norm,
            coefficient=factor,
            post_norm=total.item() * factor,
            changed=factor < 1.0,
        )


class Observe(GlobalNorm):
    """Measures and changes nothing, until somebody sets a ``max_norm``.

    Not for scripts: ``attach`` uses it when no clipping is asked for.
    """

    def __init__(self) -> None:
        super().__init__(1.0)
        self._values = {}

    def accepts(self, name: str) -> bool:
        return name == "max_norm"

    def clip(self, grads: Sequence[Tensor]) -> Outcome:
        if self._values:
            return super().clip(grads)
        norms, total = measure(group(grads), self.norm_type)
        return Outcome(norms, total, post_norm=total.item())


def _norm_type(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"norm_type must be a number or 'inf', not {type(value).__name__}")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"norm_type must be a number or 'inf', not {value!r}") from None


def _policy(value: str) -> str:
    if value not in ("propagate", "raise"):
        raise ValueError(f"nonfinite is {value!r}; accepted: 'propagate', 'raise'")
    return value
