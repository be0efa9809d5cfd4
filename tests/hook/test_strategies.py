"""Without a run, the strategies behave as torch's own clip functions are tested to behave."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gradhelm.clip import AGC, GlobalNorm, Gradients, Strategy, UpdateClipped, Value

NORMS = [0.1, 1, 2, 3.5, math.inf, "inf", 0, -1, -math.inf]


def parameters(*grads: torch.Tensor) -> list[nn.Parameter]:
    found = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for p, grad in zip(found, grads, strict=True):
        p.grad = grad.clone()
    return found


def same(one: list[nn.Parameter], other: list[nn.Parameter]) -> bool:
    return all(
        p.grad is None is q.grad or torch.equal(p.grad.nan_to_num(7.0), q.grad.nan_to_num(7.0))
        for p, q in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("max_norm", [0.5, 2.0, 1e6])
def test_every_norm_type_gives_torchs_gradients_and_norm(norm_type, max_norm):
    grads = (torch.arange(1.0, 101).view(10, 10), torch.ones(10).div(1000))
    ours, theirs = parameters(*grads), parameters(*grads)
    norm = GlobalNorm(max_norm, norm_type)(ours)
    assert torch.equal(norm, clip_grad_norm_(theirs, max_norm, float(norm_type)))
    assert same(ours, theirs)


@pytest.mark.parametrize("norm_type", [0.5, 1.5, 2.0, math.inf])
def test_gradients_are_scaled_alike_and_end_at_the_threshold(norm_type):
    grads = (torch.arange(1.0, 101).view(10, 10), torch.ones(10).div(1000))
    clipped = parameters(*grads)
    GlobalNorm(2.0, norm_type)(clipped)
    scale = torch.cat([(p.grad / g).flatten() for p, g in zip(clipped, grads, strict=True)])
    assert scale.std() < 1e-7
    assert scale[0] <= 1
    after = torch.cat([p.grad.flatten() for p in clipped]).norm(norm_type)
    assert after == pytest.approx(2.0, rel=1e-4)


def test_small_gradients_are_left_alone():
    (p,) = parameters(torch.full((10,), 0.01))
    GlobalNorm(1.0)([p])
    assert p.grad.eq(0.01).all()


def test_a_single_tensor_and_a_generator_are_accepted():
    one, other = parameters(torch.randn(10, 10))[0], None
    other = parameters(one.grad)[0]
    assert torch.equal(GlobalNorm(1.0)(one), GlobalNorm(1.0)(p for p in [other]))
    assert torch.equal(one.grad, other.grad)


def test_nothing_to_clip_is_a_norm_of_zero_and_an_empty_generator_warns():
    assert GlobalNorm(1.0)([]) == 0.0
    assert GlobalNorm(1.0)([nn.Parameter(torch.zeros(2))]) == 0.0
    with pytest.warns(UserWarning, match="empty generator"):
        GlobalNorm(1.0)(p for p in [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", [0.1, 1, 2, 3.5, math.inf])
def test_nonfinite_gradients_propagate_as_in_torch_or_raise_untouched(bad, norm_type):
    grads = (torch.tensor([1.0, bad]), torch.tensor([3.0]))
    ours, theirs = parameters(*grads), parameters(*grads)
    with pytest.raises(RuntimeError, match=r"non-finite"):
        GlobalNorm(1.0, norm_type, nonfinite="raise")(ours)
    assert same(ours, parameters(*grads))
    norm = GlobalNorm(1.0, norm_type)(ours)
    expected = clip_grad_norm_(theirs, 1.0, norm_type)
    assert norm.isnan() == expected.isnan()
    assert same(ours, theirs)


def test_float64_gradients_beyond_float32_keep_their_norm():
    grads = [torch.full((3,), 2e200, dtype=torch.float64)]
    ours, theirs = parameters(*grads), parameters(*grads)
    assert GlobalNorm(1.0, math.inf)(ours) == clip_grad_norm_(theirs, 1.0, math.inf) == 2e200
    assert same(ours, theirs)


FLOATS = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1e-30, 1e-20, 1e-38, 0.5, -0.5, 3e38, math.inf, math.nan]),
)


@settings(max_examples=300)
@given(
    st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=1, max_size=5),
    st.one_of(
        st.sampled_from([0.5, 1e-15, 1e-20, 1e-30, 0.1, 6e4]),
        st.floats(min_value=1e-300, max_value=6e4),
    ),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_value_is_torchs_clamp_and_its_share_is_exact(rows, limit, dtype):
    grads = [torch.tensor(row, dtype=torch.float64).to(dtype) for row in rows]
    ours, theirs = parameters(*grads), parameters(*grads)
    clip_grad_value_(theirs, limit)
    outcome = Value(limit).step(Gradients.of(ours))
    assert same(ours, theirs)
    changed = sum(int((p.grad != g)[~g.isnan()].sum()) for p, g in zip(ours, grads, strict=True))
    assert outcome.share == changed / sum(g.numel() for g in grads)
    assert outcome.changed == (changed > 0)


def test_values_change_whole_or_not_at_all():
    strategy = GlobalNorm(1.0)
    with pytest.raises(ValueError, match="no value called 'norm'"):
        strategy.set(max_norm=2.0, norm=1.0)
    with pytest.raises(ValueError, match="max_norm must be a finite number"):
        strategy.set(max_norm=math.nan)
    assert strategy.parameters == {"max_norm": 1.0}
    strategy.set(max_norm=2)
    again = GlobalNorm(1.0)
    again.load_state_dict(strategy.state_dict())
    assert again.threshold == 2.0
    assert repr(again) == "GlobalNorm(2.0, norm_type=2.0)"
    assert repr(Value(0.5)) == "Value(0.5)"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: GlobalNorm(0.0), "max_norm"),
        (lambda: GlobalNorm(1.0, "two"), "norm_type"),
        (lambda: GlobalNorm(1.0, True), "norm_type"),
        (lambda: GlobalNorm(1.0, nonfinite="ignore"), "nonfinite is 'ignore'; accepted"),
        (lambda: Value(-1.0), "clip_value"),
        (lambda: Value("1"), "clip_value"),
        (lambda: AGC(exclude=5), "exclude must be a pattern of names or a list of them, not int"),
        (lambda: AGC(exclude=None), "exclude must be a pattern of names"),
        (lambda: AGC(exclude=[5]), "exclude must hold patterns of names, not 5"),
        (lambda: UpdateClipped("adam"), "optimizer must be a torch.optim.Optimizer, not str"),
    ],
)
def test_bad_values_are_refused_by_name(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()


def test_the_base_says_what_a_subclass_has_to_write():
    with pytest.raises(NotImplementedError):
        Strategy()([nn.Parameter(torch.zeros(1))] and parameters(torch.ones(1)))
