"""The clipping strategies.

Each works without a run: ``GlobalNorm(1.0)(model.parameters())`` clips in place and returns the
norm before clipping. To write one, subclass :class:`Strategy`.
"""

from .base import Gradients, Outcome, Strategy, Target
from .moments import Preconditioned, SigmaClip, SpikeAware
from .monitors import Curvature, UpdateClipped, UpdateRMS
from .norm import BlockRMS, GlobalNorm, Normalize, PerModuleNorm, PerParameterNorm, SoftNorm
from .unitwise import AGC
from .value import Value

__all__ = [
    "AGC",
    "BlockRMS",
    "Curvature",
    "GlobalNorm",
    "Gradients",
    "Normalize",
    "Outcome",
    "PerModuleNorm",
    "PerParameterNorm",
    "Preconditioned",
    "SigmaClip",
    "SoftNorm",
    "SpikeAware",
    "Strategy",
    "Target",
    "UpdateClipped",
    "UpdateRMS",
    "Value",
]
