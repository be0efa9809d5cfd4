"""AGC beside timm's, optax's and pytorch_optimizer's.

timm's file is loaded by itself, for ``import timm`` wants torchvision. In half precision timm
rounds each norm to half precision, and ours are measured in float32: there AGC is timm's own code
given float32 copies, rounded once at the end. pytorch_optimizer's unit of a tensor with three
dimensions is another one (it reduces one of them), and it leaves a unit with a NaN as it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import optax
import pytest
import torch
from drawn import SHAPES, alike, apart, gradients, parameters, present, randoms, same, worst
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer.optimizer.agc import agc
from torch import Tensor, nn
from torch.nn.utils import prune

import gradhelm
from gradhelm.clip import AGC

from .arrays import to_jax, to_torch


def loaded() -> ModuleType:
    package = importlib.util.find_spec("timm")
    assert package is not None
    assert package.origin is not None
    spec = importlib.util.spec_from_file_location(
        "timm_agc", Path(package.origin).parent / "utils" / "agc.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


timm_agc = loaded().adaptive_clip_grad

HALVES = [torch.float16, torch.bfloat16]
SEEDS = st.integers(0, 2**32 - 1)
FACTORS = st.one_of(st.sampled_from([0.01, 0.16, 1.0]), st.floats(min_value=1e-3, max_value=2.0))
FLOORS = st.sampled_from([1e-3, 1e-2, 0.5])
STATED = 2e-9
"""The largest difference from optax for a layer as torch makes it, clipped by a factor of 0.01."""
ROUNDINGS = 10
"""Of an element: two for each of the norms of weights and gradient, one for each quotient and
product on either side; for results of any size, of which STATED is two roundings at 0.01."""


def of(*dtypes: torch.dtype, **options) -> st.SearchStrategy[list[Tensor | None]]:
    """Gradients of one of these dtypes."""
    return st.sampled_from(dtypes).flatmap(lambda dtype: gradients([dtype], **options))


def weighted(grads: Sequence[Tensor | None], seed: int) -> list[nn.Parameter]:
    """Parameters that have these gradients: some zeros, some small, some with units of zeros."""
    found = parameters(grads)
    for i, p in enumerate(found):
        kind = (seed + i) % 6
        with torch.no_grad():
            p.copy_(randoms(seed + i, p.shape, p.dtype, [0.0, 1e-5, 1.0, 1.0, 1.0, 30.0][kind]))
            if kind == 3 and p.ndim > 1:
                p[: p.shape[0] // 2] = 0
    return found


@settings(max_examples=400)
@given(of(torch.float32, torch.float64, torch.complex64), SEEDS, FACTORS, FLOORS)
def test_agc_is_timms_to_the_bit(grads, seed, factor, eps):
    ours, theirs = weighted(grads, seed), weighted(grads, seed)
    AGC(factor, eps)(ours)
    timm_agc(theirs, factor, eps)
    for a, b in zip(present(ours), present(theirs), strict=True):
        assert same(a, b)


@settings(max_examples=150)
@given(of(*HALVES), SEEDS, FACTORS, FLOORS)
def test_in_half_precision_agc_is_timms_in_float32_rounded_once(grads, seed, factor, eps):
    ours = weighted(grads, seed)
    theirs = [nn.Parameter(p.detach().float()) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = None if p.grad is None else p.grad.float()
    AGC(factor, eps)(ours)
    timm_agc(theirs, factor, eps)
    for a, b in zip(present(ours), present(theirs), strict=True):
        assert same(a, b.to(a.dtype))


@settings(max_examples=150)
@given(of(torch.bfloat16, bad=False), SEEDS, FACTORS, FLOORS)
def test_in_bfloat16_timms_own_is_within_its_five_roundings(grads, seed, factor, eps):
    # In float16 its coefficients, such as 1e-5 / 300, are below the normal numbers.
    ours, theirs = weighted(grads, seed), weighted(grads, seed)
    AGC(factor, eps)(ours)
    timm_agc(theirs, factor, eps)
    for a, b in zip(present(ours), present(theirs), strict=True):
        assert worst(a.double(), b.double()) <= 5 * torch.finfo(torch.bfloat16).eps


def by_optax(p: Tensor, factor: float, eps: float) -> Tensor:
    """``p.grad`` clipped by optax, told that torch has outputs first."""
    assert p.grad is not None
    axis = tuple(range(1, p.ndim)) if p.ndim > 1 else None
    clip = optax.adaptive_grad_clip(factor, eps, axis)
    weights = to_jax(p.detach())
    clipped, _ = clip.update(to_jax(p.grad), clip.init(weights), weights)
    return to_torch(clipped)


@settings(max_examples=100)
@given(of(torch.float32, torch.float64), SEEDS, FACTORS, FLOORS)
def test_agc_is_optaxs_with_its_axes_put_where_torch_has_them(grads, seed, factor, eps):
    ours = weighted(grads, seed)
    theirs = [by_optax(p, factor, eps) for p in ours if p.grad is not None]
    AGC(factor, eps)(ours)
    for a, b in zip(present(ours), theirs, strict=True):
        assert alike(a, b)
        assert worst(a, b) <= ROUNDINGS * torch.finfo(a.dtype).eps / 2


LAYERS = {
    "linear": lambda: nn.Linear(24, 10),
    "conv1d": lambda: nn.Conv1d(3, 5, 3),
    "conv2d": lambda: nn.Conv2d(3, 8, 3),
    "grouped": lambda: nn.Conv2d(8, 8, 3, groups=4),
    "conv3d": lambda: nn.Conv3d(2, 4, 2),
    "norm": lambda: nn.LayerNorm(9),
}


def layer(kind: str, seed: int, grads: float = 1.0) -> nn.Module:
    torch.manual_seed(seed)
    made = LAYERS[kind]()
    for i, p in enumerate(made.parameters()):
        p.grad = randoms(seed + i, p.shape, p.dtype, grads)
    return made


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_as_torch_makes_them_differ_from_optax_by_no_more_than_is_stated(kind):
    for seed in range(10):
        made = layer(kind, seed)
        theirs = [by_optax(p, 0.01, 1e-3) for p in made.parameters()]
        AGC(0.01)(made.parameters())
        for p, b in zip(made.parameters(), theirs, strict=True):
            assert apart(p.grad, b) <= STATED


@settings(max_examples=150)
@given(
    of(torch.float32, torch.float64, shapes=[s for s in SHAPES if len(s) != 3], bad=False),
    SEEDS,
    FACTORS,
    FLOORS,
)
def test_agc_is_pytorch_optimizers_but_for_three_dimensions(grads, seed, factor, eps):
    ours = weighted(grads, seed)
    theirs = [
        agc(p.detach(), p.grad, agc_eps=eps, agc_clip_val=factor)
        for p in ours
        if p.grad is not None
    ]
    AGC(factor, eps)(ours)
    for a, b in zip(present(ours), theirs, strict=True):
        assert same(a, b)


def test_with_three_dimensions_pytorch_optimizer_has_other_units():
    made = layer("conv1d", 0)
    theirs = agc(made.weight.detach(), made.weight.grad)
    expected = by_optax(made.weight, 0.01, 1e-3)
    AGC(0.01)(made.parameters())
    assert apart(made.weight.grad, expected) <= STATED
    assert apart(made.weight.grad, theirs) > 1e-3


def test_each_row_of_an_embedding_is_a_unit_and_rows_not_looked_up_stay_zero():
    torch.manual_seed(0)
    ours, theirs = nn.Embedding(12, 6), nn.Embedding(12, 6)
    theirs.load_state_dict(ours.state_dict())
    seen = [2, 3, 3, 3, 7]
    pull = torch.tensor([1e-3, 1.0, 1.0, 1.0, 50.0])
    for made in (ours, theirs):
        (made(torch.tensor(seen)).sum(1) * pull).sum().backward()
    before = ours.weight.grad.clone()
    AGC(0.01)(ours.parameters())
    timm_agc(theirs.parameters(), 0.01)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    clipped = (ours.weight.grad != before).any(1).nonzero().flatten().tolist()
    assert clipped == [3, 7]
    assert ours.weight.grad.any(1).nonzero().flatten().tolist() == [2, 3, 7]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1))
        self.head = nn.Linear(4, 5)


def nets(seed: int) -> tuple[nn.Module, nn.Module]:
    found = []
    for _ in range(2):
        torch.manual_seed(seed)
        found.append(Net())
    for i, (p, q) in enumerate(zip(*(net.parameters() for net in found), strict=True)):
        p.grad, q.grad = (randoms(seed + i, p.shape, p.dtype) for _ in range(2))
    return found[0], found[1]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_excluded_is_left_alone_as_where_timm_is_not_given_the_head(seed):
    ours, theirs = nets(seed)
    with gradhelm.attach(ours, clip=AGC(0.01, exclude="head.*"), mode="disabled") as run:
        run.clip()
    timm_agc(list(theirs.parameters())[:-2], 0.01)  # timm: model_parameters(exclude_head=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    assert torch.equal(ours.head.weight.grad, nets(seed)[0].head.weight.grad)


@pytest.mark.parametrize("seed", range(5))
def test_a_pruned_weight_counts_as_its_layer_uses_it(seed):
    """timm is given the weights times their masks, which is what the layers compute with."""
    ours, theirs = nets(seed)
    for module in (ours.body[0], ours.head):
        prune.l1_unstructured(module, "weight", 0.6)
    prune.ln_structured(ours.body[2], "weight", 0.5, n=2, dim=0)
    assert not ours.body[2].weight_mask.flatten(1).any(1).all()  # whole units are gone
    for name, p in theirs.named_parameters():
        module = ours.get_submodule(name.rpartition(".")[0])
        kind = name.rpartition(".")[2]
        with torch.no_grad():
            p.copy_(getattr(module, kind))
        held = getattr(module, f"{kind}_orig", None)
        if held is not None:
            p.grad.mul_(getattr(module, f"{kind}_mask"))
            held.grad = p.grad.clone()
    unmasked = [p.grad.clone() for p in theirs.parameters()]
    with gradhelm.attach(ours, clip=AGC(0.05), mode="disabled") as run:
        run.clip()
    timm_agc(theirs.parameters(), 0.05)
    for name, q in theirs.named_parameters():
        module = ours.get_submodule(name.rpartition(".")[0])
        kind = name.rpartition(".")[2]
        p = getattr(module, f"{kind}_orig", getattr(module, kind))
        assert torch.equal(p.grad, q.grad), name
    assert any(
        not torch.equal(g, p.grad) for g, p in zip(unmasked, theirs.parameters(), strict=True)
    )
