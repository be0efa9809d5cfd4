"""Lost hooks: an optimizer that was copied, unpickled or stripped of its hooks clips nothing.

Law: clipping that silently stopped is worse than clipping that was never there; it is noticed and
said. ``copy.deepcopy`` and pickle do not copy an optimizer's hooks, and the copy steps on without
them.
"""

from __future__ import annotations

import weakref
from typing import Any, Final, Protocol

from torch import optim
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .notice import logger

STEPS: Final = 3
"""Steps that a look-alike takes, while the attached optimizer takes none, before it is told."""


class Attached(Protocol):
    """A stepper, seen from here."""

    def lost(self, optimizer: optim.Optimizer) -> bool: ...
    def hook(self, optimizer: optim.Optimizer) -> None: ...
    @property
    def taken(self) -> int: ...


_attached: weakref.WeakKeyDictionary[optim.Optimizer, Attached] = weakref.WeakKeyDictionary()
# Of optimizers that look like an attached one: the steps both had taken when it began, and its own.
_lookalikes: weakref.WeakKeyDictionary[optim.Optimizer, list[int]] = weakref.WeakKeyDictionary()
_watching: list[Any] = []


def watch(optimizer: optim.Optimizer, stepper: Attached) -> None:
    """Says that ``stepper`` has its hooks on ``optimizer``."""
    _attached[optimizer] = stepper
    if not _watching:
        _watching.append(register_optimizer_step_pre_hook(_before_any))


def forget(optimizer: optim.Optimizer) -> None:
    """The stepper took its hooks off itself."""
    _attached.pop(optimizer, None)
    if not _attached and _watching:
        _watching.pop().remove()


def _before_any(optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Before each step of every optimizer in the process."""
    stepper = _attached.get(optimizer)
    if stepper is not None:
        if stepper.lost(optimizer):
            stepper.hook(optimizer)
            logger.warning(
                "the hooks of the attached %s were gone; they are back from this step on, but the "
                "steps before were not clipped",
                type(optimizer).__name__,
            )
        return
    for original, other in _attached.items():
        if _alike(optimizer, original):
            _seen(optimizer, other)
            return


def _seen(optimizer: optim.Optimizer, original: Attached) -> None:
    known = _lookalikes.setdefault(optimizer, [original.taken, 0])
    if known[0] != original.taken:  # both are at work: two optimizers that happen to be alike
        known[:] = [original.taken, 0]
        return
    known[1] += 1
    if known[1] == STEPS:
        logger.warning(
            "a %s like the attached one takes steps that are not clipped, while the attached one "
            "takes none: copy.deepcopy and pickle do not copy hooks, so attach the copy as well",
            type(optimizer).__name__,
        )


def _alike(optimizer: optim.Optimizer, original: optim.Optimizer) -> bool:
    if type(optimizer) is not type(original):
        return False
    ours = [p.shape for group in original.param_groups for p in group["params"]]
    theirs = [p.shape for group in optimizer.param_groups for p in group["params"]]
    return ours == theirs
