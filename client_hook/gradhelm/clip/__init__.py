"""The clipping strategies.

Each works without a run: ``GlobalNorm(1.0)(model.parameters())`` clips in place and returns the
norm before clipping. To write one, subclass :class:`Strategy`.
"""

from .adaptive import AdaGC, AutoClip, SkipStep, TargetFraction, ZClip
from .base import Range, Strategy
from .compose import Ceiling, Schedule
from .gradients import Gradients, Outcome, Target
from .moments import Preconditioned, SigmaClip, SpikeAware
from .monitors import Curvature, UpdateClipped, UpdateRMS
from .norm import BlockRMS, GlobalNorm, Normalize, PerModuleNorm, PerParameterNorm, SoftNorm
from .unitwise import AGC
from .value import Value

__all__ = [
    "AGC",
    "AdaGC",
    "AutoClip",
    "BlockRMS",
    "Ceiling",
    "Curvature",
    "GlobalNorm",
    "Gradients",
    "Normalize",
    "Outcome",
    "PerModuleNorm",
    "PerParameterNorm",
    "Preconditioned",
    "Range",
    "Schedule",
    "SigmaClip",
    "SkipStep",
    "SoftNorm",
    "SpikeAware",
    "Strategy",
    "Target",
    "TargetFraction",
    "UpdateClipped",
    "UpdateRMS",
    "Value",
    "ZClip",
]
