"""Unread numbers: how the steps of a GPU are clipped and recorded without waiting for it.

Law: on this path the training thread never asks the device for a number. The clip is torch's own
formula on the device; what it measured is copied behind it on the same stream, into pinned memory;
the sender looks whether the copy's event has passed, and reads then.

Built on what torch documents: operations on CUDA are queued, ``copy_(non_blocking=True)`` into
pinned memory returns at once, an event passes when all that was queued before it is done, and both
allocators keep memory back until the stream is through with it. Nothing here was measured on a GPU;
the tests run it on CPU tensors with an event of their own.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import torch

from .clip import GlobalNorm, Gradients, Outcome, Strategy
from .clip.norm import Observe

DEVICES: Final = ["cuda"]


class Event(Protocol):
    """What of ``torch.cuda.Event`` is used."""

    def record(self) -> None: ...
    def query(self) -> bool: ...


def possible(strategy: Strategy, device: torch.device) -> bool:
    """Whether ``strategy`` clips gradients on ``device`` without waiting: :class:`GlobalNorm` alone,
    with the policy ``"propagate"``. The others decide with numbers they have to read."""
    return (
        device.type in DEVICES
        and type(strategy) in (GlobalNorm, Observe)
        and strategy.nonfinite == "propagate"
    )


def clip(strategy: Strategy, grads: Gradients) -> Outcome | None:
    """Clips ``grads``; None, and nothing done, where that cannot be without waiting.

    max_norm is a plain number, which a kernel takes along by value: no device has to be asked, and
    a tensor in its place would be divided, and rounded, in another way than torch's own clip.
    """
    if not possible(strategy, grads.tensors[0].device) or len(grads.groups) > 1:
        return None
    assert isinstance(strategy, GlobalNorm)
    norms, total = grads.norm(strategy.norm_type)
    limit = strategy.threshold
    if limit is None:
        return Outcome(norms, total, factor=torch.ones_like(total))
    factor = torch.clamp(limit / (total + 1e-6), max=1.0)
    if strategy.exact:
        grads.multiply(factor)
    return Outcome(norms, total, threshold=limit, factor=factor, folded=not strategy.exact)


def _event() -> Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class Arrival:
    """An outcome on its way from the device; made by the training thread, read by the sender."""

    def __init__(self, outcome: Outcome) -> None:
        assert outcome.factor is not None
        total = outcome.global_norm
        found = torch.zeros_like(total) if outcome.found_inf is None else outcome.found_inf
        scalars = [one.to(total).reshape(1) for one in (total, outcome.factor, found)]
        there = torch.cat([*scalars, outcome.norms])
        self._numbers = torch.empty(there.shape, dtype=there.dtype, pin_memory=there.is_cuda)
        self._numbers.copy_(there, non_blocking=True)
        self._event = _event()
        self._event.record()
        self._threshold = outcome.threshold

    @property
    def here(self) -> bool:
        """Whether it can be read."""
        return self._event.query()

    def outcome(self) -> Outcome:
        """The outcome, as a CPU would have told it."""
        numbers: Any = self._numbers
        norm, factor, found = numbers[:3].tolist()
        clips, skipped = self._threshold is not None, found != 0.0
        return Outcome(
            numbers[3:],
            numbers[0],
            threshold=self._threshold,
            coefficient=factor if clips and not skipped else None,
            post_norm=None if skipped else norm * factor,
            changed=clips and not skipped and factor < 1.0,
            skipped=skipped,
        )
