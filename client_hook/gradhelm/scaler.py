"""Mixed precision: how clipping meets ``torch.amp.GradScaler``.

Law: the result is that of the loop written by hand, ``scaler.unscale_(optimizer)``, clip,
``scaler.step(optimizer)``, ``scaler.update()``, to the bit; a step that the scaler skips is
numbered and reported as skipped.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, optim

from .clip.gradients import group

_watched: weakref.WeakKeyDictionary[optim.Optimizer, Callable[[], Callable[[], None]]] = (
    weakref.WeakKeyDictionary()
)


def found_inf(optimizer: optim.Optimizer) -> Tensor | None:
    """What a scaler has told a fused optimizer: not 0 when it is to skip this step, since its
    gradients are not finite. Reading it waits for the device.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found


def unscale(optimizer: optim.Optimizer) -> None:
    """Unscales the gradients of a fused optimizer, which would do so itself inside its step.

    Done exactly as ``GradScaler.unscale_`` does it, so that clipping sees true gradients. The
    optimizer is told not to do it again; the scaler removes the attribute after the step.
    """
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    inverse = scale.double().reciprocal().float()
    if grads:
        for tensors, _ in group(grads):
            device = tensors[0].device
            found = torch.zeros((), dtype=torch.float32, device=device)
            torch._amp_foreach_non_finite_check_and_unscale_(tensors, found, inverse.to(device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def watch(optimizer: optim.Optimizer, before: Callable[[], Callable[[], None]]) -> None:
    """Has ``before`` called when a GradScaler is about to step ``optimizer``, and what it returns
    called when the scaler is done.

    A scaler that finds infinite gradients does not call ``optimizer.step`` at all, unless it is a
    fused one, so that no hook of the optimizer can tell.
    """
    _watched[optimizer] = before
    if not hasattr(torch.amp.GradScaler.step, "watched_by_gradhelm"):
        torch.amp.GradScaler.step = _watching(torch.amp.GradScaler.step)  # type: ignore[method-assign]


def _watching(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def watching(
        self: torch.amp.GradScaler, optimizer: optim.Optimizer, *args: Any, **kwargs: Any
    ) -> Any:
        before = _watched.get(optimizer)
        if before is None:
            return step(self, optimizer, *args, **kwargs)
        after = before()
        result = step(self, optimizer, *args, **kwargs)
        after()
        return result

    watching.watched_by_gradhelm = True  # type: ignore[attr-defined]
    return watching
