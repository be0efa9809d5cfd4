"""What the references are told before anybody imports them."""

from __future__ import annotations

import os
import warnings

import torch

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_ENABLE_X64"] = "1"  # else jax makes float32 of float64

# oneDNN has an LSTM in bfloat16 on some processors only, and raises on the others; torch's own runs
# everywhere. Both sides of a comparison get the same.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about GPUs that are not there
    torch.backends.mkldnn.set_flags(False)
