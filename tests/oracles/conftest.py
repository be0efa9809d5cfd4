"""What the references are told before anybody imports them."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_ENABLE_X64"] = "1"  # else jax makes float32 of float64
