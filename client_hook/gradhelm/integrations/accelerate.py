"""Accelerate: ``attach`` for what ``accelerator.prepare`` gave back.

Law: one clip a step. Where a run clips, ``accelerator.clip_grad_norm_`` measures and leaves the
gradients to the run; parameters of other optimizers it clips as it always did.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn, optim

from .. import hook
from ..clip import Gradients
from ..notice import logger
from ..run import Run
from ..stepper import Stepper

try:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
except ModuleNotFoundError as error:
    if error.name != "accelerate":
        raise
    raise ImportError(
        "gradhelm.integrations.accelerate needs Hugging Face Accelerate: pip install accelerate"
    ) from None

_SHARDED: Final = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA")
_taken: weakref.WeakKeyDictionary[optim.Optimizer, bool] = weakref.WeakKeyDictionary()
"""The optimizers whose steps a run sees; whether it clips them."""


def attach(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Any,
    *,
    max_norm: float | None = None,
    clip: Any = None,
    **options: Any,
) -> Run:
    """:func:`gradhelm.attach` for a model and an optimizer that ``accelerator`` has prepared.

    max_norm, clip, options: as ``gradhelm.attach`` has them. Only steps that synchronise gradients
    are steps of the run. With ``max_norm`` or ``clip`` a loop may keep calling
    ``accelerator.clip_grad_norm_``: it returns the norm before clipping and changes nothing, the
    run clips when the optimizer steps. With neither that call clips, and the norms shown are those
    after it.

    Raises ValueError for sharded training (FSDP, DeepSpeed, Megatron-LM) and XLA.
    """
    refuse(accelerator.distributed_type)
    own: Any
    if isinstance(optimizer, Mapping):
        own = {name: plain(one) for name, one in optimizer.items()}
        each = list(own.values())
    elif isinstance(optimizer, (list, tuple)):
        own = each = [plain(one) for one in optimizer]
    else:
        own = plain(optimizer)
        each = [own]
    run = hook.attach(model, own, max_norm=max_norm, clip=clip, **options)
    for one in each:
        take_over(one, clips=max_norm is not None or clip is not None)
    return run


def plain(optimizer: optim.Optimizer) -> optim.Optimizer:
    """torch's own optimizer: Accelerate's wrapper has no step hooks. Raises as :func:`attach`."""
    while isinstance(optimizer, AcceleratedOptimizer):
        refuse(optimizer.accelerator_state.distributed_type)
        optimizer = optimizer.optimizer
    return optimizer


def refuse(distributed_type: Any) -> None:
    """Raises ValueError where an optimizer does not hold whole gradients."""
    kind = str(getattr(distributed_type, "value", distributed_type))
    if kind in _SHARDED:
        raise ValueError(f"gradhelm cannot clip under {kind}: no process has the whole gradients")


def take_over(optimizer: optim.Optimizer, *, clips: bool) -> None:
    """As long as a run has its hooks on ``optimizer``, ``accelerator.clip_grad_norm_`` only
    measures what it steps.

    clips: whether the run clips. If not, only a clip at infinity is turned into a measurement
    (torch's makes all gradients NaN when their norm is infinite).
    """
    _taken[optimizer] = clips
    if not hasattr(Accelerator.clip_grad_norm_, "watched_by_gradhelm"):
        Accelerator.clip_grad_norm_ = _watching(Accelerator.clip_grad_norm_)


def _watching(clip_grad_norm_: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(clip_grad_norm_)
    def watching(
        self: Accelerator,
        parameters: Iterable[Tensor],
        max_norm: float,
        norm_type: float = 2,
    ) -> Any:
        given = list(parameters)
        ours: set[int] = set()
        for optimizer, clips in list(_taken.items()):
            if not _hooked(optimizer):
                continue
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if clips or max_norm == math.inf:
                ours |= held
            elif any(id(p) in held for p in given):
                _warn()
        if not any(id(p) in ours for p in given):
            return clip_grad_norm_(self, given, max_norm, norm_type)
        self.unscale_gradients()
        grads = Gradients.of(given)
        norm = torch.tensor(0.0) if grads is None else grads.norm(float(norm_type))[1]
        others = [p for p in given if id(p) not in ours]
        if others and max_norm != math.inf:
            torch.nn.utils.clip_grad_norm_(others, max_norm, norm_type)
        return norm

    watching.watched_by_gradhelm = True  # type: ignore[attr-defined]
    return watching


def _hooked(optimizer: optim.Optimizer) -> bool:
    """Whether a run has its hooks on ``optimizer``: they are gone once it is detached."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), Stepper) for hook in hooks)


@functools.cache
def _warn() -> None:
    """Once a process."""
    logger.warning(
        "accelerator.clip_grad_norm_ clips before gradhelm looks: the norms shown are those after "
        "it; give attach a max_norm to see, and to steer, the clip itself"
    )
