"""What PyTorch's own tests of its clip functions ask, asked of the strategies.

After ``test_clip_grad_norm``, ``test_clip_grad_norm_error_if_nonfinite`` and ``test_clip_grad_value``
of its test_nn.py, and beyond them over drawn gradients: with torch to the bit. Other devices than
the CPU are left out, and so are sparse gradients, which torch's functions refuse.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from drawn import gradients, parameters, present, randoms, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

from gradhelm.clip import GlobalNorm, Value

NORM_TYPES = [0.1, 0.5, 1, 1.5, 2, 3.5, 4, math.inf, "inf", 0, -1, -2.5, -math.inf]
HALVES = [torch.float16, torch.bfloat16]
WHOLE = [torch.float32, torch.float64]
BAD = [math.nan, math.inf, -math.inf]
THRESHOLDS = st.one_of(
    st.sampled_from([1e-12, 1e-6, 0.1, 0.5, 1.0, 1e4, 1e30]),
    st.floats(min_value=1e-30, max_value=1e30),
)


def scaled(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """What each element was multiplied by."""
    return torch.cat([(a / b).flatten() for a, b in zip(after, before, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("norm_type", [0.5, 1.5, 2, 4, "inf"])
def test_all_are_scaled_alike_to_the_threshold_and_a_second_time_by_1(norm_type, dtype):
    before = [torch.arange(1, 101).view(10, 10).to(dtype), torch.ones(10).div(1000).to(dtype)]
    found = parameters(before)
    norm = GlobalNorm(2, norm_type)(found)
    assert norm > 2
    scale = scaled(before, present(found)).real
    assert scale.std() < 1e-6
    assert scale[0] <= 1
    after = GlobalNorm(2, norm_type)(found)
    assert after == pytest.approx(2, rel=1e-5)
    assert (scaled(before, present(found)).real - scale).abs().max() < 1e-6


@pytest.mark.parametrize("norm_type", [0.5, 1.5, 2, 4, "inf"])
def test_small_gradients_are_left_as_they_are_to_the_bit(norm_type):
    before = [torch.rand(10, 10).div(10_000), torch.ones(10).div(500)]
    found = parameters(before)
    norm = GlobalNorm(1e6, norm_type)(found)
    assert norm <= 1e6
    assert all(torch.equal(a, b) for a, b in zip(present(found), before, strict=True))


@pytest.mark.parametrize("strategy", [GlobalNorm(2.0), GlobalNorm(0.1, math.inf), Value(2.5)])
def test_a_single_tensor_is_clipped_as_a_list_of_it(strategy):
    grad = torch.randn(10, 10) * 3
    (one,), (other,) = parameters([grad]), parameters([grad])
    assert torch.equal(strategy(one), strategy([other]))
    assert torch.equal(one.grad, other.grad)
    assert not torch.equal(one.grad, grad)


def test_value_leaves_a_parameter_without_gradient_and_clips_the_others():
    found = [nn.Parameter(torch.zeros(10, 10)), nn.Parameter(torch.zeros(10))]
    found[0].grad = torch.arange(-50.0, 50).view(10, 10).div(5)
    Value(2.5)(found)
    assert found[1].grad is None
    assert (found[0].grad.min(), found[0].grad.max()) == (-2.5, 2.5)


def with_bad(bad: float, dtype: torch.dtype, place: int) -> list[Tensor]:
    found = [
        torch.ones(10, dtype=dtype),
        torch.full((3, 2), 2.0, dtype=dtype),
        torch.ones((), dtype=dtype),
    ]
    found[place].view(-1)[-1] = bad
    return found


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("norm_type", [0.1, 1, 2, 3.5, math.inf])
@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_raises_torchs_error_with_gradients_untouched_or_goes_its_way(
    bad, norm_type, dtype, place
):
    before = with_bad(bad, dtype, place)
    ours, theirs = parameters(before), parameters(before)
    with pytest.raises(RuntimeError) as told:
        clip_grad_norm_(theirs, 1.0, norm_type, error_if_nonfinite=True)
    with pytest.raises(RuntimeError) as said:
        GlobalNorm(1.0, norm_type, nonfinite="raise")(ours)
    ours_text, theirs_text = str(said.value), str(told.value)
    assert ours_text == theirs_text.replace("error_if_nonfinite=False", 'nonfinite="propagate"')
    assert all(same(a, b) for a, b in zip(present(ours), before, strict=True))

    norm = GlobalNorm(1.0, norm_type)(ours)
    assert same(norm, clip_grad_norm_(theirs, 1.0, norm_type, error_if_nonfinite=False))
    assert not norm.isfinite()
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


@pytest.mark.parametrize("norm_type", [0.1, 1, 2, 3.5, math.inf])
def test_zeros_are_no_error_and_stay_zeros(norm_type):
    found = parameters([torch.zeros(3), torch.zeros(())])
    assert GlobalNorm(1.0, norm_type, nonfinite="raise")(found) == 0
    assert not any(g.any() for g in present(found))


@pytest.mark.parametrize("norm_type", [1, 2, 3.5, math.inf])
def test_finite_gradients_whose_norm_overflows_are_not_finite_as_in_torch(norm_type):
    """2e200 squared is too large for float64, and so the L2 norm is infinite; the largest is not."""
    before = [torch.full((4,), 2e200, dtype=torch.float64) for _ in range(2)]
    ours, theirs = parameters(before), parameters(before)
    expected = clip_grad_norm_(theirs, 1.0, norm_type)
    raising = GlobalNorm(1.0, norm_type, nonfinite="raise")
    if expected.isfinite():
        assert same(raising(ours), expected)
    else:
        with pytest.raises(RuntimeError, match="non-finite"):
            raising(ours)
        assert all(torch.equal(a, b) for a, b in zip(present(ours), before, strict=True))
        assert same(GlobalNorm(1.0, norm_type)(ours), expected)
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


def test_the_examples_of_2e200_are_of_both_kinds():
    norms = [
        GlobalNorm(1.0, p)(parameters([torch.full((4,), 2e200, dtype=torch.float64)]))
        for p in (1, 2)
    ]
    assert [bool(norm.isfinite()) for norm in norms] == [True, False]


def by_value(found: list[nn.Parameter], limit: float, foreach: bool | None = None) -> None:
    """By torch, which raises where there is no gradient at all."""
    if present(found):
        clip_grad_value_(found, limit, foreach)


def of(*dtypes: torch.dtype, **options) -> st.SearchStrategy[list[Tensor | None]]:
    """Gradients of one of these dtypes."""
    return st.sampled_from(dtypes).flatmap(lambda dtype: gradients([dtype], **options))


@pytest.mark.parametrize("foreach", [None, False, True])
@settings(max_examples=300)
@given(
    st.one_of(of(*WHOLE, torch.complex64), gradients([*WHOLE, torch.complex64])),
    THRESHOLDS,
)
def test_global_norm_is_torchs_to_the_bit_for_drawn_gradients(foreach, grads, max_norm):
    ours, theirs = parameters(grads), parameters(grads)
    norm = GlobalNorm(max_norm)(ours)
    assert same(norm, clip_grad_norm_(theirs, max_norm, foreach=foreach))
    assert [p.grad is None for p in ours] == [g is None for g in grads]
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


# So torch counts what is not 0 among complex numbers.
@pytest.mark.filterwarnings("ignore:Casting complex values to real discards the imaginary part")
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@settings(max_examples=30)
@given(of(*WHOLE, torch.complex64), THRESHOLDS)
def test_so_are_the_other_norms_and_what_is_empty_has_no_say(norm_type, foreach, grads, max_norm):
    ours, theirs = parameters(grads), parameters(grads)
    norm = GlobalNorm(max_norm, norm_type)(ours)
    held = [p for p in theirs if p.grad is not None]
    if float(norm_type) in (math.inf, -math.inf) or float(norm_type) <= 0:
        # Of nothing torch knows no largest, and a 0 there decides the others.
        held = [p for p in held if p.grad.numel()]
    expected = clip_grad_norm_(held, max_norm, norm_type, foreach=foreach)
    assert same(norm, expected.to(norm.dtype))
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


@settings(max_examples=200)
@given(of(*HALVES), THRESHOLDS, st.sampled_from([1, 2, 3.5, math.inf]))
def test_in_half_precision_it_is_torchs_clip_by_the_norm_in_float32(grads, max_norm, norm_type):
    ours, theirs = parameters(grads), parameters(grads)
    norm = GlobalNorm(max_norm, norm_type)(ours)
    wide = [g.float() for g in present(theirs) if g.numel() or norm_type != math.inf]
    total = get_total_norm(wide, norm_type)
    assert same(norm, total)
    clip_grads_with_norm_(theirs, max_norm, total)
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


@settings(max_examples=100)
@given(of(*WHOLE), THRESHOLDS, st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_a_parameter_given_several_times_is_clipped_as_if_given_once(grads, max_norm, order):
    """torch counts it, and scales it, as often as it is given."""
    for ours, clip in [
        (GlobalNorm(max_norm), lambda p: clip_grad_norm_(p, max_norm)),
        (Value(max_norm), lambda p: by_value(p, max_norm)),
    ]:
        mine, theirs = parameters(grads), parameters(grads)
        places = [i % len(grads) for i in order]
        ours([mine[i] for i in places])
        clip([theirs[i] for i in dict.fromkeys(places)])
        assert all(same(a, b) for a, b in zip(present(mine), present(theirs), strict=True))


@pytest.mark.parametrize("foreach", [None, False, True])
@settings(max_examples=300)
@given(
    st.one_of(
        of(*WHOLE, *HALVES),
        gradients([*WHOLE, *HALVES]),
        of(*WHOLE, scales=[1e-23]),  # whose squares float32 does not hold
    ),
    st.one_of(st.sampled_from([1e-24, 1e-20, 1e-3, 0.5, 1.0, 6e4]), st.floats(1e-30, 6e4)),
)
def test_value_is_torchs_to_the_bit_for_drawn_gradients(foreach, grads, limit):
    ours, theirs = parameters(grads), parameters(grads)
    Value(limit)(ours)
    by_value(theirs, limit, foreach)
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))


def test_complex_gradients_have_no_order_and_value_says_so_as_torch_does():
    grads = [randoms(0, (3,), torch.complex64)]
    with pytest.raises((RuntimeError, NotImplementedError), match="complex"):
        clip_grad_value_(parameters(grads), 1.0)
    with pytest.raises(ValueError, match="complex"):
        Value(1.0)(parameters(grads))


def test_a_generator_that_gives_parameters_is_clipped_without_a_word():
    grads = [torch.ones(3), torch.ones(())]
    ours, theirs = parameters(grads), parameters(grads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm = GlobalNorm(1.0)(p for p in ours)
    assert same(norm, clip_grad_norm_((p for p in theirs), 1.0))
    assert all(same(a, b) for a, b in zip(present(ours), present(theirs), strict=True))
    with pytest.warns(UserWarning, match="empty generator") as told:
        GlobalNorm(1.0)(p for p in [])
    assert len(told) == 1


def test_gradients_that_are_not_contiguous_are_clipped_in_place():
    base = randoms(3, (6, 8), torch.float32)
    ours, theirs = nn.Parameter(torch.zeros(8, 3)), nn.Parameter(torch.zeros(8, 3))
    ours.grad, theirs.grad = base.clone().t()[:, ::2], base.clone().t()[:, ::2]
    held = ours.grad
    assert same(GlobalNorm(0.5)([ours]), clip_grad_norm_([theirs], 0.5))
    assert ours.grad is held
    assert same(ours.grad, theirs.grad)
