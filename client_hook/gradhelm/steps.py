"""One hook before the steps of all optimizers in the process, for whoever wants to know of them.

Law: torch's table of such hooks is never changed while torch goes through it, so the hook stays
once it is there, and callers come and go behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import optim
from torch.optim.optimizer import register_optimizer_step_pre_hook

_callers: list[Callable[[optim.Optimizer], None]] = []
_hooked = False


def before_each(caller: Callable[[optim.Optimizer], None]) -> Callable[[], None]:
    """Has ``caller`` called before each step of any optimizer; returns what ends that."""
    global _hooked
    if not _hooked:
        register_optimizer_step_pre_hook(_call)
        _hooked = True
    _callers.append(caller)
    return lambda: _callers.remove(caller)


_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def untraced(hook: _Hook) -> _Hook:
    """Keeps ``torch.compile`` out of ``hook``: the mark that ``torch.compiler.disable`` leaves,
    without the seconds that its import takes."""
    hook._torchdynamo_disable = True  # type: ignore[attr-defined]
    hook._torchdynamo_disable_msg = None  # type: ignore[attr-defined]
    return hook


@untraced
def _call(optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
    for caller in tuple(_callers):
        caller(optimizer)
