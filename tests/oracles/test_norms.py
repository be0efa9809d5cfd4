"""Clips by norm and by value beside optax and Keras.

Not in half precision, but for Value: there the references round the norm itself, by up to 0.4 %,
and GlobalNorm, PerParameterNorm and BlockRMS measure it in float32. Keras makes float32 of float64:
its ``ops.maximum`` of a tensor and a number does. A common norm of gradients of several dtypes the
references promote in ways of their own; all of one example have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optax
import pytest
import torch
from drawn import alike, apart, gradients, parameters, present, randoms, same, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.optimizers import SGD
from keras.src.optimizers.base_optimizer import clip_by_global_norm
from torch import Tensor

from gradhelm.clip import BlockRMS, GlobalNorm, PerParameterNorm, Value

from .arrays import to_jax, to_torch

# Numbers of float32, for Keras makes those of a threshold.
THRESHOLDS = st.one_of(
    st.sampled_from([1e-3, 0.1, 0.25, 1.0, 5.0, 100.0]), st.floats(min_value=1e-3, max_value=1e3)
).map(lambda threshold: float(np.float32(threshold)))
ANY = st.sampled_from([torch.float32, torch.float64, torch.complex64]).flatmap(
    lambda dtype: gradients([dtype])
)
SINGLE = gradients([torch.float32])
STATED = 6e-8
"""The largest difference after a clip of a small layer to 0.5 or less: one float32 rounding."""
ROUNDINGS = 10
"""How many roundings two ways to an element may differ by: two for each norm, as the sums have
their own order, and one or two for each quotient and product, the share of the 1e-6 included.

STATED is one rounding of a number in [0.5, 1). That is for elements a fraction of the norm they
share; drawn are gradients of one element too, and results of any size, so roundings are counted.
"""


def by_optax(clip: optax.GradientTransformation, grads: Sequence[Tensor | None]) -> list[Tensor]:
    given_ = [None if g is None else to_jax(g) for g in grads]
    clipped, _ = clip.update(given_, clip.init(given_))
    return [to_torch(g) for g in clipped if g is not None]


def by_keras(grads: Sequence[Tensor | None], **options: float) -> list[Tensor]:
    clipped = SGD(**options)._clip_gradients([None if g is None else g.clone() for g in grads])
    return [g for g in clipped if g is not None]


def ours(strategy, grads: Sequence[Tensor | None]) -> list[Tensor]:
    clipped = parameters(grads)
    strategy(clipped)
    return present(clipped)


def equal_but_for_rounding(one: list[Tensor], other: list[Tensor], factor: float = 1.0) -> None:
    """``one`` is ``factor`` times ``other``; NaN and infinity are in the same places."""
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert alike(a, b)
        unit = torch.finfo(a.dtype).eps / 2
        wide = torch.complex128 if a.is_complex() else torch.float64
        assert worst(a.to(wide), b.to(wide) * factor) <= ROUNDINGS * unit


def share_of_the_eps(grads: Sequence[Tensor | None], max_norm: float) -> float:
    """What torch's 1e-6 beside the norm makes of a coefficient that has none: 1e-6 / norm less."""
    norm = math.hypot(*(g.to(torch.complex128).norm().item() for g in grads if g is not None))
    if not math.isfinite(norm) or norm == 0:
        return 1.0
    return min(1.0, max_norm / (norm + 1e-6)) / min(1.0, max_norm / norm)


@settings(max_examples=150)
@given(ANY, THRESHOLDS)
def test_global_norm_is_optaxs_but_for_the_1e_6_that_torch_adds(grads, max_norm):
    theirs = by_optax(optax.clip_by_global_norm(max_norm), grads)
    share = share_of_the_eps(grads, max_norm)
    equal_but_for_rounding(ours(GlobalNorm(max_norm), grads), theirs, share)


@settings(max_examples=150)
@given(SINGLE, THRESHOLDS)
def test_global_norm_is_kerass_but_for_the_1e_6_and_what_is_not_finite(grads, max_norm):
    theirs = [g for g in clip_by_global_norm(grads, max_norm) if g is not None]
    clipped = ours(GlobalNorm(max_norm), grads)
    if all(g is None or g.isfinite().all() for g in grads):
        equal_but_for_rounding(clipped, theirs, share_of_the_eps(grads, max_norm))
    else:  # Keras makes all NaN of infinity too; torch makes 0 of what is finite beside it
        assert all(g.isnan().all() for g in theirs)
        assert all((g.isnan() | (g == 0)).all() for g in clipped)


@pytest.mark.parametrize("norm", [3e-7, 1e-6, 1e-4])
def test_of_a_norm_less_than_1e_6_below_the_threshold_optax_leaves_alone_what_we_shrink(norm):
    grad = torch.tensor([0.6 * norm, 0.8 * norm], dtype=torch.float64)
    max_norm = norm + 0.5e-6
    (theirs,) = by_optax(optax.clip_by_global_norm(max_norm), [grad])
    assert torch.equal(theirs, grad)
    (clipped,) = ours(GlobalNorm(max_norm), [grad])
    assert clipped.norm().item() == pytest.approx(norm * max_norm / (norm + 1e-6), rel=1e-14)


@settings(max_examples=150)
@given(SINGLE, THRESHOLDS)
def test_per_parameter_norm_is_kerass_clipnorm(grads, max_norm):
    theirs = by_keras(grads, clipnorm=max_norm)
    equal_but_for_rounding(ours(PerParameterNorm(max_norm), grads), theirs)


@settings(max_examples=150)
@given(ANY, THRESHOLDS)
def test_block_rms_is_optaxs(grads, threshold):
    theirs = by_optax(optax.clip_by_block_rms(threshold), grads)
    equal_but_for_rounding(ours(BlockRMS(threshold), grads), theirs)


@pytest.mark.parametrize("max_norm", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_a_small_layer_clipped_to_half_or_less_differs_by_no_more_than_is_stated(seed, max_norm):
    # Small, for XLA sums squares less exactly than torch: of 10 000 elements its norm is off by
    # eight roundings and more, where that of torch is by one.
    grads = [randoms(seed, shape, torch.float32) for shape in [(16, 8), (16,), (4, 4, 3, 3)]]
    rms = max_norm / 10
    for clipped, theirs in [
        (GlobalNorm(max_norm), by_optax(optax.clip_by_global_norm(max_norm), grads)),
        (GlobalNorm(max_norm), clip_by_global_norm(grads, max_norm)),
        (PerParameterNorm(max_norm), by_keras(grads, clipnorm=max_norm)),
        (BlockRMS(rms), by_optax(optax.clip_by_block_rms(rms), grads)),
    ]:
        for before, a, b in zip(grads, ours(clipped, grads), theirs, strict=True):
            assert not torch.equal(a, before)
            assert apart(a, b) <= STATED


@settings(max_examples=150)
@given(gradients([torch.float32, torch.float64, torch.float16, torch.bfloat16]), THRESHOLDS)
def test_value_is_optaxs_clip_to_the_bit_in_every_dtype(grads, limit):
    for a, b in zip(ours(Value(limit), grads), by_optax(optax.clip(limit), grads), strict=True):
        assert same(a, b)


@settings(max_examples=150)
@given(SINGLE, THRESHOLDS)
def test_value_is_kerass_clipvalue_to_the_bit(grads, limit):
    for a, b in zip(ours(Value(limit), grads), by_keras(grads, clipvalue=limit), strict=True):
        assert same(a, b)
