"""What another threshold would have done to recorded norms."""

from __future__ import annotations

import numpy as np

from gradhelm import wire


def coefficients(norms: wire.FloatArray, max_norm: float) -> wire.FloatArray:
    """torch's clip coefficient min(1, max_norm / (norm + 1e-6)) of each norm, to the last bit.

    ``float / tensor`` is in torch the float32 reciprocal times the number, so it is here.
    """
    inverse = np.float32(1.0) / (norms + np.float32(1e-6))
    clamped: wire.FloatArray = np.minimum(inverse * np.float32(max_norm), np.float32(1.0))
    return clamped
