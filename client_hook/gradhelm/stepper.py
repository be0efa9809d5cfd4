"""The stepper: where a run meets ``optimizer.step()``.

Law: each step is clipped once, after its gradients exist and before they are used, whatever the
optimizer does around them: closures, ``super().step()``, fused unscaling, skipped steps.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import partial
from itertools import chain
from operator import is_
from types import FrameType
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn, optim
from torch.utils.hooks import RemovableHandle

from . import copies, scaler, unread
from .clip import Outcome
from .layout import choose
from .steps import untraced
from .stream import Stream

_TOLD: Final = ("grad_scale", "found_inf")
"""The attributes by which a GradScaler talks to a fused optimizer."""


class Hooked(Protocol):
    """What has its hooks on an optimizer."""

    stream: Stream
    run: str

    def remove(self) -> None: ...


_steppers: weakref.WeakKeyDictionary[optim.Optimizer, Hooked] = weakref.WeakKeyDictionary()


def take_over(optimizer: optim.Optimizer, stepper: Hooked) -> None:
    """``stepper`` hooks onto ``optimizer``: an earlier run's hooks come off."""
    earlier = _steppers.get(optimizer)
    if earlier is not None and earlier is not stepper:
        earlier.remove()
    _steppers[optimizer] = stepper


def is_attached(optimizer: optim.Optimizer) -> bool:
    """Whether a run that is not closed clips at this optimizer's steps."""
    found = _steppers.get(optimizer)
    return found is not None and not found.stream.closed


def only_watches(optimizer: optim.Optimizer) -> bool:
    """Whether the run that this optimizer is attached to clips nothing."""
    return is_attached(optimizer) and _steppers[optimizer].stream.only_watches


def attached(run: str) -> list[optim.Optimizer]:
    """The optimizers of the run of this id."""
    return [optimizer for optimizer, stepper in _steppers.items() if stepper.run == run]


def free(optimizer: optim.Optimizer) -> None:
    """Raises ValueError when ``optimizer`` is attached to a run that is not closed."""
    if is_attached(optimizer):
        run = _steppers[optimizer].run
        raise ValueError(f"optimizer is attached to the run {run} already; close() it first")


class Stepper:
    """The hooks of one stream on one optimizer.

    A closure is wrapped, so that clipping follows each evaluation's backward pass; the first
    evaluation is the one recorded. With LBFGS this changes the gradients that its line search sees,
    as clipping at the end of the closure by hand would.
    """

    def __init__(
        self, stream: Stream, model: nn.Module, optimizer: optim.Optimizer, run: str
    ) -> None:
        self.stream: Stream = stream
        self.run = run
        take_over(optimizer, self)
        self._model = model
        self._held = _held(optimizer)
        self._outer: FrameType | None = None
        # The learning rates of the groups, while one step is taken with others.
        self._lrs: list[Any] | None = None
        # Whether the strategy has scaled them for this step.
        self._scaled = False
        # What a GradScaler had told the optimizer, while it is told to divide the gradients.
        self._told: dict[str, Any] | None = None
        # Whether this step will be skipped, where only the device knows.
        self._found_inf: Tensor | None = None
        self._removed = False
        self._kind = type(optimizer)
        self._shapes = copies.shapes(optimizer)
        self._handles: list[RemovableHandle] = []
        scaler.watch(optimizer, self._scaler_steps)
        copies.watch(optimizer, self)

    @property
    def taken(self) -> int:
        """Steps taken so far."""
        return self.stream.step - self.stream.first_step

    @property
    def over(self) -> bool:
        """Whether the run is closed, or its hooks were taken off on purpose."""
        return self.stream.closed or self._removed

    def looks_like(self, optimizer: optim.Optimizer) -> bool:
        """Whether ``optimizer`` could be a copy of this one's."""
        return (
            type(optimizer) is self._kind
            and len(_held(optimizer)) == len(self._shapes)
            and copies.shapes(optimizer) == self._shapes
        )

    def hook(self, optimizer: optim.Optimizer) -> int:
        """Puts the hooks on; returns the id of the first."""
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        return self._handles[0].id

    def remove(self) -> None:
        """Takes the hooks off."""
        self._removed = True
        for handle in self._handles:
            handle.remove()

    @untraced
    def _before(
        self, optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # torch runs these hooks again when a subclass's step() calls super().step(). The frame of
        # the outer call tells that from a step that follows one that raised.
        frame = sys._getframe(1)
        if self._outer is not None and _runs_inside(frame, self._outer):
            return None
        self._outer = frame
        self.stream.measured(taken=False)  # left over from a step that raised
        self._restore(optimizer)
        self._adopt(optimizer)
        self.stream.boundary()
        # Before a closure is evaluated: LBFGS reads the learning rate before that.
        self._scale(optimizer, self.stream.lr_factor)
        found_inf = scaler.found_inf(optimizer)
        self._found_inf = None
        if found_inf is not None and unread.possible(self.stream.strategy, found_inf.device):
            self._found_inf = found_inf
        elif found_inf is not None and found_inf.item():
            self.stream.count(None, partial(_lr, optimizer), skipped=True)
            return None
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if not callable(closure):
            scaler.unscale(optimizer)
            self._step(optimizer)
            return None
        wrapped = self._clipping(closure, optimizer)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    @untraced
    def _after(
        self, optimizer: optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if sys._getframe(1) is self._outer:
            self._outer = None
            self.stream.measured()
            self._restore(optimizer)

    def _step(self, optimizer: optim.Optimizer, *, count: bool = True) -> None:
        """Clips; with ``count`` this is the clip that the step is known by."""
        outcome = self.stream.clip()
        self._unfold(optimizer)
        if outcome is not None and self._found_inf is not None:
            outcome = outcome._replace(found_inf=self._found_inf)
        if outcome is not None and outcome.folded:
            self._fold(optimizer, outcome)
        if outcome is not None and outcome.lr_scale != 1.0 and not self._scaled:
            self._scaled = True
            self._scale(optimizer, outcome.lr_scale)
        if count:
            self.stream.count(outcome, partial(_lr, optimizer))

    def _scale(self, optimizer: optim.Optimizer, factor: float) -> None:
        """Multiplies the learning rates, for this one step."""
        if factor == 1.0:
            return
        if self._lrs is None:
            self._lrs = [group.get("lr") for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            if group.get("lr") is not None:
                group["lr"] = group["lr"] * factor

    def _restore(self, optimizer: optim.Optimizer) -> None:
        """Undoes what was meant for one step: hidden gradients, other learning rates, a divisor."""
        self.stream.unhide()
        self._unfold(optimizer)
        if self._lrs is not None:
            for group, lr in zip(optimizer.param_groups, self._lrs, strict=False):
                if lr is not None:
                    group["lr"] = lr
            self._lrs = None
            self._scaled = False

    def _fold(self, optimizer: optim.Optimizer, outcome: Outcome) -> None:
        """Has a fused optimizer divide the gradients while it reads them, as a GradScaler does."""
        assert outcome.factor is not None
        self._told = {name: vars(optimizer)[name] for name in _TOLD if name in vars(optimizer)}
        scale = outcome.factor.float().reciprocal()
        found_inf = self._told.get("found_inf")
        vars(optimizer).update(
            grad_scale=scale,
            found_inf=torch.zeros_like(scale) if found_inf is None else found_inf,
        )

    def _unfold(self, optimizer: optim.Optimizer) -> None:
        # A GradScaler multiplies by a grad_scale that it finds: none must be left, not even None.
        if self._told is not None:
            for name in _TOLD:
                vars(optimizer).pop(name, None)
            vars(optimizer).update(self._told)
            self._told = None

    def _clipping(
        self, closure: Callable[[], Any], optimizer: optim.Optimizer
    ) -> Callable[[], Any]:
        recorded = False

        def clipping() -> Any:
            nonlocal recorded
            loss = closure()
            self._step(optimizer, count=not recorded)
            recorded = True
            return loss

        return clipping

    def _adopt(self, optimizer: optim.Optimizer) -> None:
        groups = [group["params"] for group in optimizer.param_groups]
        same = sum(map(len, groups)) == len(self._held)
        if not (same and all(map(is_, chain.from_iterable(groups), self._held))):
            self._held = _held(optimizer)
            self.stream.adopt(choose(self._model, optimizer.param_groups), optimizer)

    def _scaler_steps(self) -> Callable[[], None]:
        """A GradScaler is about to step; what to do when it has, and no step was counted."""
        before = self.stream.step
        optimizer = next((o for o, s in _steppers.items() if s is self), None)
        if optimizer is not None:
            self._unfold(optimizer)  # left over from a step that raised

        def done() -> None:
            if self.stream.step == before:
                self.stream.boundary()
                lr = partial(_lr, optimizer)
                self.stream.count(None, lr, skipped=True)

        return done


def _held(optimizer: optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _lr(optimizer: optim.Optimizer | None) -> float | None:
    """The first group's learning rate; None when reading it would wait for a device."""
    if optimizer is None:
        return None
    lr = optimizer.param_groups[0].get("lr")
    if isinstance(lr, Tensor):
        return lr.item() if lr.device.type == "cpu" and lr.numel() == 1 else None
    return lr if isinstance(lr, (int, float)) else None


def _runs_inside(frame: FrameType, outer: FrameType) -> bool:
    """Whether ``outer`` is among the callers of ``frame``."""
    caller = frame.f_back
    while caller is not None:
        if caller is outer:
            return True
        caller = caller.f_back
    return False
