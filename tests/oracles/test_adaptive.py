"""The adaptive strategies beside the implementations that people use."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer import AdaGC as ReferenceAdaGC
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from zclip import ZClip as ReferenceZClip

from gradhelm.clip import AdaGC, AutoClip, ZClip

SHAPES = st.lists(
    st.lists(st.integers(1, 5), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4
)
# Not half precision: there the references round the norm itself, by up to 0.4 %.
DTYPES = st.sampled_from([torch.float32, torch.float64])
SEEDS = st.integers(0, 2**32 - 1)
ROUNDING = 2.4e-7


class Model(nn.Module):
    def __init__(self, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
        super().__init__()
        self.all = nn.ParameterList(torch.zeros(shape, dtype=dtype) for shape in shapes)


class Stream:
    """Gradients for two models alike: their scale wanders, one step in eight is a spike.

    missing: the share of parameters, the first excepted, that have none at a step.
    """

    def __init__(self, ours: nn.Module, theirs: nn.Module, seed: int, missing: float = 0.1) -> None:
        self._missing = missing
        self._pairs = list(zip(ours.parameters(), theirs.parameters(), strict=True))
        self._chance = torch.Generator().manual_seed(seed)

    def _random(self) -> float:
        return torch.rand((), generator=self._chance).item()

    def give(self) -> list[Tensor]:
        """Gives both models their next gradients."""
        scale = 0.3 + self._random()
        if self._random() < 1 / 8:
            scale *= 30
        given_: list[Tensor] = []
        for i, (p, q) in enumerate(self._pairs):
            if i and self._random() < self._missing:
                p.grad = q.grad = None
                continue
            grad = torch.randn(p.shape, generator=self._chance, dtype=p.dtype) * scale
            p.grad, q.grad = grad.clone(), grad.clone()
            given_.append(grad)
        return given_


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def close(
    ours: list[Tensor], theirs: list[Tensor], before: list[Tensor], share: float = ROUNDING
) -> None:
    """Equal but for rounding: for that share of the largest gradient of the step."""
    largest = max(g.abs().max().item() for g in before)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max().item() <= share * largest


@settings(max_examples=60)
@given(SHAPES, DTYPES, SEEDS, st.floats(min_value=0.5, max_value=99.5))
def test_autoclip_is_pseeths_autoclip(shapes, dtype, seed, percent):
    ours, theirs = Model(shapes, dtype), Model(shapes, dtype)
    stream, strategy, history = Stream(ours, theirs, seed), AutoClip(percent), []
    for _ in range(30):
        before = stream.give()
        strategy(ours.parameters())
        # pseeth/autoclip, autoclip.py: _get_grad_norm and autoclip_gradient.
        total_norm = 0.0
        for p in theirs.parameters():
            if p.grad is not None:
                total_norm += p.grad.data.norm(2).item() ** 2
        history.append(total_norm ** (1.0 / 2))
        clip_value = np.percentile(history, percent)
        clip_grad_norm_(theirs.parameters(), clip_value)
        assert strategy.threshold == pytest.approx(clip_value, rel=ROUNDING)
        close(grads(ours), grads(theirs), before)


def pair_of_zclips(reach, alpha, warmup, factor, max_norm, option, skip):
    mode = {"mode": "percentile"} if option == "percentile" else {"clip_option": option}
    return ZClip(
        reach, alpha, warmup, factor, max_norm, option, skip_update_on_spike=skip
    ), ReferenceZClip(
        alpha, reach, max_norm, 1e-6, warmup, clip_factor=factor, skip_update_on_spike=skip, **mode
    )


# In float64: the rule makes more of a norm's last bit (by 1 / std), and in float32 that bit
# depends on the order of the sum.
@settings(max_examples=150)
@given(
    SHAPES,
    SEEDS,
    st.tuples(
        st.floats(min_value=0.5, max_value=3),
        st.floats(min_value=0.5, max_value=0.99),
        st.integers(5, 25),
        st.floats(min_value=0.5, max_value=1),
        st.sampled_from([None, 0.5, 1.0, 4.0]),
        st.sampled_from(["adaptive_scaling", "mean", "percentile"]),
        st.booleans(),
    ),
)
def test_zclip_is_zclip(shapes, seed, options):
    ours, theirs = Model(shapes, torch.float64), Model(shapes, torch.float64)
    strategy, reference = pair_of_zclips(*options)
    stream = Stream(ours, theirs, seed)
    for _ in range(60):
        before = stream.give()
        norm = strategy(ours.parameters())
        assert norm.item() == pytest.approx(reference.step(theirs), rel=1e-13)
        close(grads(ours), grads(theirs), before, 1e-13)
        assert (strategy.mean is not None) == reference.initialized
        if strategy.mean is not None:
            found = (strategy.mean, strategy.var)
            assert found == pytest.approx((reference.mean, reference.var), rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options",
    [
        (2.5, 0.97, 25, 1.0, None, "adaptive_scaling", False),
        (2.5, 0.97, 25, 1.0, 1.0, "adaptive_scaling", False),
        (2.5, 0.97, 10, 0.7, 6.0, "adaptive_scaling", True),
        (2.5, 0.97, 25, 1.0, None, "mean", False),
        (1.5, 0.9, 25, 1.0, None, "percentile", False),
    ],
)
def test_zclip_is_zclip_in_float32_but_for_rounding(options, seed):
    shapes = [(20, 10), (20,), (5, 20), (5,), ()]
    ours, theirs = Model(shapes, torch.float32), Model(shapes, torch.float32)
    strategy, reference = pair_of_zclips(*options)
    stream, clipped = Stream(ours, theirs, seed), 0
    for _ in range(150):
        before = stream.give()
        strategy(ours.parameters())
        reference.step(theirs)
        close(grads(ours), grads(theirs), before)
        clipped += not torch.equal(grads(ours)[0], before[0])
    assert clipped > 5


@pytest.mark.parametrize("foreach", [False, True])
@settings(max_examples=20)
@given(
    SHAPES,
    DTYPES,
    SEEDS,
    st.sampled_from([1.01, 1.05, 1.5]),
    st.sampled_from([0.5, 1.0, 10.0]),
    st.sampled_from([0.5, 0.9, 0.98]),
    st.sampled_from([1, 2, 20, 100]),
    st.booleans(),
)
def test_adagc_with_torchs_adam_is_pytorch_optimizers(
    foreach, shapes, dtype, seed, rel, absolute, beta, warmup, missing
):
    ours, theirs = Model(shapes, dtype), Model(shapes, dtype)
    stream = Stream(ours, theirs, seed, 0.1 if missing else 0.0)
    strategy = AdaGC(rel, absolute, beta, warmup)
    adam = torch.optim.Adam(ours.parameters(), lr=1e-3, eps=1e-8)
    reference = ReferenceAdaGC(
        theirs.parameters(),
        lr=1e-3,
        beta=beta,
        lambda_abs=absolute,
        lambda_rel=rel,
        warmup_steps=warmup,
        weight_decay=0.0,
        foreach=foreach,
    )
    for _ in range(120):
        stream.give()
        strategy(ours.parameters())
        adam.step()
        reference.step()
    for q, gamma in zip(theirs.parameters(), strategy.gammas.tolist(), strict=True):
        expected = reference.state[q]["gamma"].item() if q in reference.state else math.inf
        assert gamma == pytest.approx(expected, rel=1e-5)
    if not missing:  # else Adam counts the steps of each parameter, and the reference those of all
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (p - q).abs().max().item() <= 6e-8
