"""Gradients as hypothesis draws them: of any shape, size and scale, some missing, some not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

# A short list, for jax compiles each operation anew for each shape.
SHAPES = [(), (1,), (7,), (0,), (3, 5), (4, 1), (0, 3), (3, 2, 4), (4, 3, 2, 2), (2, 3, 1, 2, 2)]
SCALES = [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6]
BAD = [math.nan, math.inf, -math.inf]


def randoms(seed: int, shape: Sequence[int], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Normal ones; the same for a seed in every dtype, but for rounding."""
    chance = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return (torch.randn(tuple(shape), generator=chance, dtype=wide) * scale).to(dtype)


@st.composite
def gradients(
    draw: st.DrawFn,
    dtypes: Sequence[torch.dtype],
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    scales: Sequence[float] = SCALES,
    missing: bool = True,
    bad: bool = True,
) -> list[Tensor | None]:
    """One to five gradients, the first of them there.

    Some are zeros; with ``missing`` some are None, and with ``bad`` a few hold NaN or infinity.
    """
    common = draw(st.sampled_from(scales))
    kinds = st.sampled_from(["some"] * 6 + ["zeros"] + ["none"] * missing)
    made: list[Tensor | None] = []
    for i in range(draw(st.integers(1, 5))):
        kind = draw(kinds)
        if kind == "none" and i:
            made.append(None)
            continue
        shape, dtype = draw(st.sampled_from(shapes)), draw(st.sampled_from(dtypes))
        scale = 0.0 if kind == "zeros" else common * draw(st.sampled_from([1.0, 1.0, 0.01, 20.0]))
        grad = randoms(draw(st.integers(0, 2**32 - 1)), shape, dtype, scale)
        if bad and grad.numel() and draw(st.integers(0, 19)) == 0:
            place = draw(st.integers(0, grad.numel() - 1))
            grad.view(-1)[place] = draw(st.sampled_from(BAD))
        made.append(grad)
    return made


def parameters(grads: Sequence[Tensor | None]) -> list[nn.Parameter]:
    """Parameters that have copies of these gradients."""
    found = []
    for grad in grads:
        p = nn.Parameter(torch.zeros(2) if grad is None else torch.zeros_like(grad))
        p.grad = None if grad is None else grad.clone()
        found.append(p)
    return found


def present(found: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients there are."""
    return [p.grad for p in found if p.grad is not None]


def same(one: Tensor, other: Tensor) -> bool:
    """Bit-equal, with NaN like NaN, and as torch sees it 0 like -0.

    What is not finite is one thing if it is complex: of NaN + 0j times a number torch makes
    NaN + 0j or NaN + NaNj, as it happens to walk through memory.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    lost = ~(one.isfinite() | other.isfinite()) if one.is_complex() else one.isnan() & other.isnan()
    return bool(((one == other) | lost).all())


def alike(one: Tensor, other: Tensor) -> bool:
    """The same elements are not finite, in the same way."""
    if one.is_complex():
        return same(one.isfinite(), other.isfinite())
    return same(one * 0, other * 0) and same(one.isposinf(), other.isposinf())


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of finite elements; 0 where there are none."""
    finite = one.isfinite() & other.isfinite()
    found = (one - other).abs()[finite]
    return found.max().item() if found.numel() else 0.0


def worst(one: Tensor, other: Tensor) -> float:
    """The largest difference of finite elements, in shares of the larger of the two."""
    finite = one.isfinite() & other.isfinite() & ((one != 0) | (other != 0))
    found = ((one - other).abs() / torch.maximum(one.abs(), other.abs()))[finite]
    return found.max().item() if found.numel() else 0.0
