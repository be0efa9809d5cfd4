"""The clipping strategies.

Each works without a run: ``GlobalNorm(1.0)(model.parameters())`` clips in place and returns the
norm before clipping. To write one, subclass :class:`Strategy`.
"""

from .base import Outcome, Strategy
from .norm import GlobalNorm
from .value import Value

__all__ = ["GlobalNorm", "Outcome", "Strategy", "Value"]
