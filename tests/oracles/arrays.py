"""The same numbers in torch and in jax."""

from __future__ import annotations

import jax
import numpy as np
import torch
from torch import Tensor


def to_jax(tensor: Tensor) -> jax.Array:
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        return jax.numpy.asarray(tensor.view(torch.int16).numpy()).view(jax.numpy.bfloat16)
    return jax.numpy.asarray(tensor.numpy())


def to_torch(array: jax.Array) -> Tensor:
    if array.dtype == jax.numpy.bfloat16:
        return torch.from_numpy(np.array(array.view(jax.numpy.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
