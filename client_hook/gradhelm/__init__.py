"""See every gradient of a training job as it happens, and steer its clipping while it runs.

``run = gradhelm.attach(model, optimizer, max_norm=1.0)`` is the whole change to a training script.

Names are loaded on demand, so that ``import gradhelm.wire`` brings neither torch nor a socket.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import clip as clip
    from . import errors as errors
    from .control import Control as Control
    from .hook import attach as attach
    from .reading import open as open
    from .run import Run as Run
    from .verification import verify as verify

_HOMES = {
    "attach": ".hook",
    "Run": ".run",
    "Control": ".control",
    "open": ".reading",
    "verify": ".verification",
}

__all__ = ["Control", "Run", "__version__", "attach", "clip", "errors", "open", "verify"]


def __getattr__(name: str) -> Any:
    if name in ("clip", "errors"):
        return import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
