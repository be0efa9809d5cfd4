"""Lost hooks: an optimizer that was copied, unpickled or stripped of its hooks clips nothing.

Law: clipping that silently stopped is worse than clipping that was never there; it is noticed and
said. ``copy.deepcopy`` and pickle do not copy an optimizer's hooks, and the copy steps on without
them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import optim

from .notice import logger
from .steps import before_each

STEPS: Final = 3
"""Steps that a look-alike takes, while the attached optimizer takes none, before it is told."""


class Attached(Protocol):
    """A stepper, seen from here."""

    @property
    def over(self) -> bool: ...
    @property
    def taken(self) -> int: ...
    def hook(self, optimizer: optim.Optimizer) -> int: ...
    def looks_like(self, optimizer: optim.Optimizer) -> bool: ...


_at: weakref.WeakKeyDictionary[optim.Optimizer, Attached] = weakref.WeakKeyDictionary()
# Steppers outlive their optimizers, which are often dropped once they are copied.
_steppers: weakref.WeakSet[Attached] = weakref.WeakSet()
# Of look-alikes: what the attached one had taken when it was last seen to move, and their own.
_lookalikes: weakref.WeakKeyDictionary[optim.Optimizer, list[int]] = weakref.WeakKeyDictionary()
_watching: list[Callable[[], None]] = []
# The classes of all optimizers that were ever attached.
_kinds: set[type[optim.Optimizer]] = set()
# The hooks of all steppers, by their ids.
_hooks: set[int] = set()


def watch(optimizer: optim.Optimizer, stepper: Attached) -> None:
    """Has ``stepper`` put its hooks on ``optimizer``, and looks after them from now on."""
    _at[optimizer] = stepper
    _kinds.add(type(optimizer))
    _hooks.add(stepper.hook(optimizer))
    _steppers.add(stepper)
    if not _watching:
        _watching.append(before_each(_before_any))


def _before_any(optimizer: optim.Optimizer) -> None:
    if not _hooks.isdisjoint(optimizer._optimizer_step_pre_hooks):
        return  # all is well: the way that every clipped step goes
    if type(optimizer) not in _kinds:
        return
    stepper = _at.get(optimizer)
    if stepper is None:
        alike = [s for s in _steppers if not s.over and s.looks_like(optimizer)]
        if alike:
            _seen(optimizer, sum(stepper.taken for stepper in alike))
    elif not stepper.over:
        _hooks.add(stepper.hook(optimizer))
        logger.warning(
            "the hooks of the attached %s were gone; they are back from this step on, but steps "
            "before it may have been taken without clipping",
            type(optimizer).__name__,
        )


def _seen(optimizer: optim.Optimizer, taken: int) -> None:
    """A step of one that looks like attached ones, which took ``taken`` steps so far."""
    known = _lookalikes.setdefault(optimizer, [taken, 0])
    if known[0] != taken:  # both are at work: two optimizers that happen to be alike
        known[:] = [taken, 0]
        return
    known[1] += 1
    if known[1] == STEPS:
        logger.warning(
            "a %s like the attached one takes steps that are not clipped, while the attached one "
            "takes none: copy.deepcopy and pickle do not copy hooks, so attach the copy as well",
            type(optimizer).__name__,
        )


def shapes(optimizer: optim.Optimizer) -> list[torch.Size]:
    """The shapes of all parameters, in order."""
    return [p.shape for group in optimizer.param_groups for p in group["params"]]
