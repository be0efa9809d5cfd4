"""Clipping each unit of a layer by its weights: adaptive gradient clipping.

Law: bit-identical to timm's ``adaptive_clip_grad``, in one read of the weights and one of the
gradients. The norm of a parameter is that of its unit norms; nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, optim

from .base import Strategy
from .gradients import Gradients, Outcome, Target
from .sharded import dims, is_sharded, local


class AGC(Strategy):
    """g_u <- g_u * limit_u / max(||g_u||, 1e-6) where ||g_u|| >= limit_u.

    limit_u is clip_factor * max(||w_u||, eps), with the norm of the unit's own weights: of a weight
    with two or more dimensions each index of the first is a unit (a row of a linear layer, an
    output channel of a convolution, a row of an embedding); a vector or a scalar is one unit.
    Transposed convolutions have their outputs in the second dimension; as in timm they are not
    treated apart.

    clip_factor: 0.01 suits batches of 4096; the paper takes up to 0.16 for small ones.
    eps: what a unit's weights count at least, so that a unit of zeros can learn.
    exclude: names of parameters that are left alone, fnmatch patterns such as ``"head.*"``; the
    paper leaves the last linear layer out. Without a run the names are ``"0"``, ``"1"``, ...

    A pruned weight counts as its layer uses it: times its mask. Where gradients are sharded a unit has
    to be whole on its rank: weights of two or more dimensions may be sharded along the first only,
    unless they are excluded, and must not be pruned. An outcome's ``share`` is the share
    of elements in clipped units, its ``coefficients`` are each parameter's norm after clipping over
    that before.

    Source: Brock, De, Smith and Simonyan, "High-Performance Large-Scale Image Recognition Without
    Normalization", 2021; timm/utils/agc.py.
    """

    threshold_name: ClassVar[str | None] = "clip_factor"
    counts_elements: ClassVar[bool] = True
    per_parameter: ClassVar[bool] = True
    one_by_one: ClassVar[bool] = True
    takes_sparse: ClassVar[bool] = False
    takes_sharded: ClassVar[bool] = True

    def __init__(
        self,
        clip_factor: float = 0.01,
        eps: float = 1e-3,
        exclude: str | Sequence[str] = (),
        *,
        nonfinite: str = "propagate",
    ) -> None:
        super().__init__(clip_factor=clip_factor, eps=eps, nonfinite=nonfinite)
        if not isinstance(exclude, Sequence):
            raise TypeError(
                f"exclude must be a pattern of names or a list of them, not {type(exclude).__name__}"
            )
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        for pattern in self.exclude:
            if not isinstance(pattern, str):
                raise TypeError(f"exclude must hold patterns of names, not {pattern!r}")
        self._targets: list[Target] = []
        self._left: list[bool] = []

    def __repr__(self) -> str:
        shown = super().__repr__()
        return f"{shown[:-1]}, exclude={self.exclude!r})" if self.exclude else shown

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_targets": [], "_left": []}

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        names = [target.name for target in targets]
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"exclude has {pattern!r}, which matches no parameter's name")
        left = [any(fnmatchcase(name, p) for p in self.exclude) for name in names]
        for target, whole in zip(targets, left, strict=True):
            _refuse_split(target, whole)
        self._targets, self._left = list(targets), left

    def clip(self, grads: Gradients) -> Outcome:
        places = range(len(grads)) if grads.places is None else grads.places
        before: list[Tensor] = [torch.empty(0)] * len(grads)
        after = list(before)
        changed = [0] * len(grads)
        for tensors, members in grads.groups:
            targets = [self._targets[places[i]] for i in members]
            left = [self._left[places[i]] for i in members]
            own, weights, units = _measure(tensors, targets, left)
            norms = own
            if grads.sharded:
                norms, weights = _joined(grads, members, left, (own, weights), units)
            limits = weights.clamp_(min=self._values["eps"]).mul_(self._values["clip_factor"])
            # As in timm, a unit that is not below its limit is multiplied: NaN too, and by exactly
            # 1 where it is at the limit.
            factors = torch.where(norms < limits, 1.0, limits / norms.clamp(min=1e-6))
            owner = torch.repeat_interleave(torch.tensor(units)).to(norms.device)
            if any(left):
                factors[torch.tensor(left, device=norms.device)[owner]] = 1.0
            counts = torch.zeros(len(units), dtype=torch.long, device=norms.device)
            touched = counts.index_add_(0, owner, (factors != 1.0).long()).tolist()
            own_before = torch._foreach_norm(torch.split(own, units))
            own_after = torch._foreach_norm(torch.split(own * factors, units))
            for i, (place, each) in enumerate(
                zip(members, torch.split(factors, units), strict=True)
            ):
                before[place], after[place] = own_before[i], own_after[i]
                if touched[i]:
                    changed[place] = touched[i] * (tensors[i].numel() // units[i])
                    tensors[i].mul_(each.view(_beside(tensors[i])))
        first = before[0].device
        norms, ends = (torch.stack([n.to(first) for n in some]) for some in (before, after))
        if grads.sharded:
            norms, ends, changed = _summed(grads, norms, ends, changed)
        chosen = torch.tensor([count > 0 for count in changed], device=first)
        return Outcome(
            norms,
            torch.linalg.vector_norm(norms),
            threshold=self.threshold,
            share=sum(changed) / max(1, sum(grads.sizes)),
            post_norm=torch.linalg.vector_norm(ends).item(),
            changed=any(changed),
            coefficients=torch.where(chosen, ends / norms, torch.ones_like(norms)),
        )


def _measure(
    tensors: list[Tensor], targets: list[Target], left: list[bool]
) -> tuple[Tensor, Tensor, list[int]]:
    """The norms of all units' gradients and of their weights, and how many units each tensor has."""
    wide = torch.float32 if tensors[0].dtype.itemsize == 2 else None
    found = [_norms(g, wide, whole) for g, whole in zip(tensors, left, strict=True)]
    weights = [
        _norms(_weight(target), wide, whole) for target, whole in zip(targets, left, strict=True)
    ]
    return torch.cat(found), torch.cat(weights), [norms.numel() for norms in found]


def _joined(
    grads: Gradients,
    members: list[int],
    left: list[bool],
    both: tuple[Tensor, Tensor],
    units: list[int],
) -> list[Tensor]:
    """The norms of ``both``, gradients' and weights', where several ranks have parts of a unit, as
    those of the whole one."""
    lone = [
        i
        for i, (member, whole) in enumerate(zip(members, left, strict=True))
        if whole or grads.tensors[member].ndim < 2
    ]
    if not lone:
        return list(both)
    starts = torch.tensor([0, *units]).cumsum(0)[lone].to(both[0].device)
    part = grads.part([members[i] for i in lone])
    joined = part.joined(torch.stack([norms[starts] for norms in both]))
    return [norms.index_copy(0, starts, some) for norms, some in zip(both, joined, strict=True)]


def _summed(
    grads: Gradients, norms: Tensor, ends: Tensor, changed: list[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """Each parameter's norms and changed elements, of shards so far, as those of the whole."""
    counts = torch.tensor(changed, dtype=torch.float64, device=norms.device)
    sums = grads.summed(torch.stack([norms.double().square(), ends.double().square(), counts]))
    before, after = sums[:2].sqrt().to(norms)
    return before, after, [int(count) for count in sums[2].tolist()]


def _refuse_split(target: Target, left: bool) -> None:
    """Raises ValueError for a sharded parameter whose units several ranks have parts of."""
    parameter = target.parameter
    _mask(target)
    if parameter.ndim > 1 and not left and is_sharded(parameter) and dims(parameter) - {0}:
        raise ValueError(
            f"AGC clips each unit of {target.name}, which is sharded within its units (along "
            f"dimension {max(dims(parameter))}); accepted: sharded along dimension 0, or excluded"
        )


def _norms(tensor: Tensor, wide: torch.dtype | None, whole: bool) -> Tensor:
    """[units]: the norm of each unit; ``whole``: all of it is one."""
    dims = None if whole or tensor.ndim < 2 else tuple(range(1, tensor.ndim))
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=dims, dtype=wide)
    return norms.reshape(-1)


def _weight(target: Target) -> Tensor:
    """The parameter as its layer uses it."""
    weight, mask = local(target.parameter.detach()), _mask(target)
    return weight if mask is None else weight * mask


def _mask(target: Target) -> Tensor | None:
    """The pruning mask of now. Raises ValueError where there is one, and the weight is sharded."""
    mask = None if target.mask is None else target.mask()
    if mask is not None and is_sharded(target.parameter):
        raise ValueError(f"AGC cannot clip {target.name}, which is both pruned and sharded")
    return mask


def _beside(tensor: Tensor) -> tuple[int, ...]:
    """The shape in which one factor a unit multiplies ``tensor``."""
    return (-1,) + (1,) * (tensor.ndim - 1) if tensor.ndim else ()
