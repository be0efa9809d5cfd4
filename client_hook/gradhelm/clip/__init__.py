"""The clipping strategies.

Each works without a run: ``GlobalNorm(1.0)(model.parameters())`` clips in place and returns the
norm before clipping. To write one, subclass :class:`Strategy`.
"""

from .adaptive import AdaGC, AutoClip, SkipStep, TargetFraction, ZClip
from .base import Gradients, Outcome, Strategy, Target
from .compose import Ceiling, Schedule
from .norm import BlockRMS, GlobalNorm, Normalize, PerModuleNorm, PerParameterNorm, SoftNorm
from .value import Value

__all__ = [
    "AdaGC",
    "AutoClip",
    "BlockRMS",
    "Ceiling",
    "GlobalNorm",
    "Gradients",
    "Normalize",
    "Outcome",
    "PerModuleNorm",
    "PerParameterNorm",
    "Schedule",
    "SkipStep",
    "SoftNorm",
    "Strategy",
    "Target",
    "TargetFraction",
    "Value",
    "ZClip",
]
