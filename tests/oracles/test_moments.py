"""Clips by the optimizer's own state beside the optimizers that have them built in.

Every parameter has a gradient at every step: the references count the steps of all parameters
together, torch's Adam those of each. Of SPAM eps is as good as 0, for there it stands beside
sqrt(v), and in torch beside sqrt(v_hat).

No package on PyPI keeps K-FAC's factors in an optimizer's state. What is said of K-FAC is checked
with a small optimizer made here, and with the formula of the ``kl_clip`` of gpauloski/kfac-pytorch;
that adds the whole damping to each factor, where Preconditioned adds its root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from AdamWClip import AdamWClip
from drawn import apart, randoms
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_optimizer import SOAP, SPAM, ScalableShampoo, Shampoo, SophiaH, StableAdamW
from torch import Tensor, nn, optim

import gradhelm
from gradhelm.clip import (
    Curvature,
    Gradients,
    Outcome,
    Preconditioned,
    SigmaClip,
    SpikeAware,
    Strategy,
    Target,
    UpdateClipped,
    UpdateRMS,
)

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float64])
SEEDS = st.integers(0, 2**32 - 1)
BETAS = st.sampled_from([(0.9, 0.999), (0.9, 0.99), (0.5, 0.9), (0.0, 0.95)])
LR = 3e-4
"""Small, like the weights are at first: what both sides round at each step is the weight."""
SPAM_STATED, SIGMA_STATED, STABLE = 4e-8, 9e-8, 4e-8
"""The largest differences of weights, in float32 after some hundred steps; in float64 they are as
much smaller as its roundings are. None is stated of StableAdamW: it is held to the smallest."""


class Pair:
    """Two models alike, and gradients for both: normal ones, one step in six a spike."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, seed: int) -> None:
        weights = [randoms(seed + i, shape, dtype, 0.01) for i, shape in enumerate(shapes)]
        self.ours = nn.ParameterList(w.clone() for w in weights)
        self.theirs = nn.ParameterList(w.clone() for w in weights)
        self._chance = torch.Generator().manual_seed(seed)

    def give(self) -> list[Tensor]:
        """Gives both models their next gradients."""
        spike = torch.rand((), generator=self._chance).item() < 1 / 6
        given_ = []
        for p, q in zip(self.ours, self.theirs, strict=True):
            grad = torch.randn(p.shape, generator=self._chance, dtype=p.dtype)
            grad *= 30 if spike else 1
            p.grad, q.grad = grad.clone(), grad.clone()
            given_.append(grad)
        return given_

    def difference(self) -> float:
        """The largest difference of their weights, in float64 in units of its roundings."""
        found = max(apart(p, q) for p, q in zip(self.ours, self.theirs, strict=True))
        return found * torch.finfo(torch.float32).eps / torch.finfo(self.ours[0].dtype).eps


@pytest.mark.parametrize("foreach", [False, True])
@settings(max_examples=15)
@given(
    SHAPES,
    DTYPES,
    SEEDS,
    BETAS,
    st.sampled_from([5, 20, 50, 5000]),
    st.integers(21, 60),
    st.sampled_from([0, 1, 10, 25, 150]),
)
def test_spike_aware_with_torchs_adam_is_pytorch_optimizers_spam(
    foreach, shapes, dtype, seed, betas, theta, reset_every, warmup
):
    pair = Pair(shapes, dtype, seed)
    adam = optim.Adam(pair.ours.parameters(), lr=LR, betas=betas, eps=1e-30)
    strategy = SpikeAware(theta, reset_every, warmup)
    reference = SPAM(
        pair.theirs.parameters(),
        lr=LR,
        betas=betas,
        eps=1e-30,
        density=1.0,
        threshold=theta,
        update_proj_gap=reset_every,
        warmup_epoch=warmup,
        foreach=foreach,
    )
    with gradhelm.attach(pair.ours, adam, clip=strategy, mode="disabled"):
        for _ in range(130):
            pair.give()
            adam.step()
            reference.step()
            assert pair.difference() <= SPAM_STATED
    assert strategy.resets == 130 // reset_every
    assert adam.param_groups[0]["lr"] == LR


def test_the_spikes_of_those_runs_are_clipped_and_the_moments_start_anew():
    """That the comparison above compares something."""
    pair = Pair([(4, 3), (3,)], torch.float32, 0)
    adam = optim.Adam(pair.ours.parameters(), lr=1e-3)
    strategy, clipped, scales = SpikeAware(50, 40, 10), [], []
    targets = [Target(str(i), p) for i, p in enumerate(pair.ours.parameters())]
    strategy.bind(targets, adam)
    for step in range(100):
        pair.give()
        outcome = outcome_of(strategy, pair.ours, adam)
        if step + 1 in (40, 80):
            assert not any(adam.state[p]["exp_avg_sq"].any() for p in pair.ours)
        clipped.append(outcome.changed)
        scales.append(outcome.lr_scale)
        adam.step()
    assert sum(clipped) > 5
    assert not any(clipped[:19] + clipped[39:59] + clipped[79:99])
    assert scales.index(min(scales)) == 39
    assert scales[38] == 1.0 == scales[49]
    assert all(a < b for a, b in pairwise(scales[39:50]))


@settings(max_examples=30)
@given(
    SHAPES,
    DTYPES,
    SEEDS,
    BETAS,
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([0, 1, 10]),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_sigma_clip_with_torchs_adamw_is_adamwclip(shapes, dtype, seed, betas, k, warmup, decay):
    pair = Pair(shapes, dtype, seed)
    adam = optim.AdamW(pair.ours.parameters(), lr=LR, betas=betas, weight_decay=decay)
    strategy = SigmaClip(k, warmup)
    reference = AdamWClip(
        pair.theirs.parameters(),
        lr=LR,
        betas=betas,
        weight_decay=decay,
        clip_grad_adapt=k,
        clip_grad_warm_up=warmup,
    )
    # AdamW multiplies by 1 - lr * decay, which float32 rounds, and so by the same error each step.
    for _ in range(40):
        pair.give()
        strategy(pair.ours.parameters(), adam)
        adam.step()
        reference.step()
        assert pair.difference() <= SIGMA_STATED


@pytest.mark.parametrize("foreach", [False, True])
@settings(max_examples=15)
@given(SHAPES, DTYPES, SEEDS, BETAS, st.sampled_from([0.0, 0.01, 0.3]))
def test_update_clipped_with_torchs_adamw_is_pytorch_optimizers_stable_adamw(
    foreach, shapes, dtype, seed, betas, decay
):
    pair = Pair(shapes, dtype, seed)
    options = {"lr": LR, "betas": betas, "eps": 1e-8, "weight_decay": decay}
    adam = UpdateClipped(optim.AdamW(pair.ours.parameters(), **options))
    reference = StableAdamW(pair.theirs.parameters(), kahan_sum=False, foreach=foreach, **options)
    monitor = UpdateRMS()
    shortened = 0
    for _ in range(80):
        before = pair.give()
        coefficients = outcome_of(monitor, pair.ours, adam.optimizer).coefficients
        for p, grad in zip(pair.ours, before, strict=True):
            assert torch.equal(p.grad, grad)
        adam.step()
        reference.step()
        assert pair.difference() <= STABLE
        for q, grad, coefficient in zip(pair.theirs, before, coefficients.tolist(), strict=True):
            rms = reference.get_stable_adamw_rms(grad, reference.state[q]["exp_avg_sq"])
            assert coefficient == pytest.approx(1 / rms.item(), rel=1e-6)
            shortened += coefficient < 0.9
    assert shortened


@settings(max_examples=30)
@given(SHAPES, DTYPES, SEEDS, st.sampled_from([0.01, 0.5, 2.0]), st.sampled_from([0.0, 0.9]))
def test_curvature_tells_the_share_of_updates_that_sophia_clips(shapes, dtype, seed, rho, beta):
    pair = Pair(shapes, dtype, seed)
    options = {"lr": 1.0, "betas": (beta, 0.9), "p": rho, "update_period": 10**9}
    sophia = SophiaH(pair.ours.parameters(), **options)
    monitor = Curvature(rho)
    for step in range(40):
        before = pair.give()
        told = outcome_of(monitor, pair.ours, sophia)
        for p, grad in zip(pair.ours, before, strict=True):
            assert torch.equal(p.grad, grad)
        assert told.changed is False
        renewed = step % 10 == 0
        hessian = [randoms(seed + step, p.shape, dtype).square() for p in pair.ours]
        for p in pair.ours:
            p.data.zero_()  # so that what it is after the step is the update, to the bit
        sophia.step(hessian=hessian if renewed else None)
        if step == 0:
            assert told.share is None
        elif not renewed:
            limit = torch.tensor(rho, dtype=dtype)
            clipped = sum(int((p.detach().abs() == limit).sum()) for p in pair.ours)
            assert told.share == clipped / sum(p.numel() for p in pair.ours)


def outcome_of(
    strategy: Strategy, parameters: nn.ParameterList, optimizer: optim.Optimizer
) -> Outcome:
    """What the strategy tells of one step, which it may clip."""
    strategy.bind([Target(str(i), p) for i, p in enumerate(parameters)], optimizer)
    with torch.no_grad():
        grads = Gradients.of(list(parameters))
        assert grads is not None
        return strategy.step(grads)


def check_preconditioned(
    parameters: nn.ParameterList,
    optimizer: optim.Optimizer,
    lengths: Sequence[float],
    share: float,
    rel: float = 1e-9,
) -> None:
    """Preconditioned measures these ``lengths``, and clips to ``share`` of what they make."""
    before = [p.grad.clone() for p in parameters]
    total = math.hypot(*lengths)
    outcome = outcome_of(Preconditioned(share * total), parameters, optimizer)
    assert outcome.norms.tolist() == pytest.approx(list(lengths), rel=rel)
    assert outcome.global_norm.item() == pytest.approx(total, rel=rel)
    assert outcome.coefficient == pytest.approx(min(1.0, share), rel=rel)
    assert outcome.changed == (share < 1)
    for p, grad in zip(parameters, before, strict=True):
        torch.testing.assert_close(p.grad, grad * outcome.coefficient, rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", ["Adam", "amsgrad", "AdamW", "NAdam", "RAdam"])
@settings(max_examples=10)
@given(SHAPES, SEEDS, BETAS, st.sampled_from([0.1, 0.7, 2.0]))
def test_preconditioned_of_an_adam_is_the_whitened_norm(kind, shapes, seed, betas, share):
    parameters = Pair(shapes, torch.float64, seed)
    options = {"amsgrad": True} if kind == "amsgrad" else {}
    make = getattr(optim, "Adam" if kind == "amsgrad" else kind)
    adam = make(parameters.ours.parameters(), lr=1e-3, betas=betas, eps=1e-6, **options)
    v = [np.zeros(shape) for shape in shapes]
    largest = [np.zeros(shape) for shape in shapes]
    for step in range(20):
        before = [g.numpy() for g in parameters.give()]
        if step:
            looked_at = largest if kind == "amsgrad" else v
            v_hat = [x / (1 - betas[1] ** step) for x in looked_at]
            lengths = [
                np.linalg.norm((g / (np.sqrt(x) + 1e-6)).ravel())
                for g, x in zip(before, v_hat, strict=True)
            ]
            check_preconditioned(parameters.ours, adam, lengths, share)
        else:  # nothing is known yet, and nothing clipped
            outcome = outcome_of(Preconditioned(1e-9), parameters.ours, adam)
            assert not outcome.changed
            assert outcome.norms.tolist() == pytest.approx([math.sqrt(g.size) for g in before])
        taken = [p.grad.numpy() for p in parameters.ours]
        v = [betas[1] * x + (1 - betas[1]) * g**2 for x, g in zip(v, taken, strict=True)]
        largest = [np.maximum(a, b) for a, b in zip(largest, v, strict=True)]
        adam.step()


def unfolded(g: np.ndarray, dim: int) -> np.ndarray:
    """``g`` as a matrix with that dimension first."""
    return np.moveaxis(g, dim, 0).reshape(g.shape[dim], -1)


def turned(g: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """``g`` times a matrix [to, from] along each dimension."""
    for dim, matrix in enumerate(matrices):
        g = np.moveaxis(np.tensordot(matrix, g, axes=(1, dim)), 0, dim)
    return g


def root(matrix: np.ndarray, power: float) -> np.ndarray:
    """A symmetric matrix to a power."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


@pytest.mark.parametrize("shapes", [[(4, 3)], [(5,), (2, 6)], [(3, 2, 4), (3,)], [(2, 3, 2, 2)]])
@pytest.mark.parametrize("seed", range(3))
def test_preconditioned_of_shampoo_is_the_norm_of_its_update(shapes, seed):
    pair = Pair(shapes, torch.float64, seed)
    shampoo = Shampoo(pair.ours.parameters(), lr=1e-3, matrix_eps=1e-2)
    factors = [[1e-2 * np.eye(n) for n in shape] for shape in shapes]
    for step in range(12):
        before = [g.numpy() for g in pair.give()]
        if step:
            lengths = []
            for g, own in zip(before, factors, strict=True):
                power = -1 / (2 * g.ndim)
                lengths.append(np.linalg.norm(turned(g, [root(f, power) for f in own]).ravel()))
            check_preconditioned(pair.ours, shampoo, lengths, [0.3, 2.0][step % 2])
        for p, own in zip(pair.ours, factors, strict=True):
            for dim, factor in enumerate(own):
                matrix = unfolded(p.grad.numpy(), dim)
                factor += matrix @ matrix.T
        shampoo.step()


@pytest.mark.parametrize("block", [3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_preconditioned_of_scalable_shampoo_is_the_norm_of_its_blocks_updates(seed, block):
    shapes, beta = [(7, 5), (4,), (6, 4)], 0.9
    pair = Pair(shapes, torch.float64, seed)
    shampoo = ScalableShampoo(
        pair.ours.parameters(),
        lr=LR,
        betas=(0.9, beta),
        matrix_eps=1e-2,
        block_size=block,
        shape_interpretation=False,
        preconditioning_compute_steps=1,
        use_svd=True,
    )
    factors: dict[tuple[int, int, int], list[np.ndarray]] = {}

    def blocks(i: int, g: np.ndarray):
        for a in range(0, g.shape[0], block):
            for b in range(0, g.shape[1], block):
                part = g[a : a + block, b : b + block]
                yield factors.setdefault((i, a, b), [1e-2 * np.eye(n) for n in part.shape]), part

    for step in range(12):
        before = [g.numpy() for g in pair.give()]
        if step:
            lengths = []
            for i, g in enumerate(before):
                parts = [g]  # a vector is not preconditioned
                if g.ndim > 1:
                    parts = [turned(p, [root(f, -1 / 4) for f in own]) for own, p in blocks(i, g)]
                lengths.append(math.hypot(*(np.linalg.norm(part.ravel()) for part in parts)))
            check_preconditioned(pair.ours, shampoo, lengths, [0.3, 2.0][step % 2])
        for i, p in enumerate(pair.ours):
            for own, part in blocks(i, p.grad.numpy()) if p.ndim > 1 else []:
                for dim, factor in enumerate(own):
                    matrix = unfolded(part, dim)
                    factor *= beta
                    factor += (1 - beta) * matrix @ matrix.T
        shampoo.step()


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (3, 2, 4), (6,)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frequency", [3, 100])
def test_preconditioned_of_soap_is_the_whitened_norm_in_its_own_basis(shape, seed, frequency):
    pair = Pair([shape], torch.float64, seed)
    betas, eps = (0.9, 0.95), 1e-6
    soap = SOAP(
        pair.ours.parameters(),
        lr=LR,
        betas=betas,
        eps=eps,
        precondition_frequency=frequency,
        weight_decay=0.0,
    )
    # The basis is known but for signs, which no norm depends on.
    factors: list[np.ndarray] = []
    basis: list[np.ndarray] = []
    v = np.zeros(shape)
    for step in range(14):
        (before,) = (g.numpy() for g in pair.give())
        if step:
            v_hat = v / (1 - betas[1] ** (step - 1)) if step > 1 else v
            whitened = turned(before, [q.T for q in basis]) / (np.sqrt(v_hat) + eps)
            check_preconditioned(
                pair.ours,
                soap,
                [np.linalg.norm(whitened.ravel())],
                [0.3, 2.0][step % 2],
                rel=1e-9 if step <= frequency else 1e-5,  # SOAP renews its basis in float32
            )
        g = pair.ours[0].grad.numpy().copy()
        if len(shape) > 1:
            outer = [unfolded(g, dim) @ unfolded(g, dim).T for dim in range(g.ndim)]
        else:
            outer = []
        soap.step()
        if not step:  # the first step only starts the factors, and their basis
            factors = [(1 - betas[1]) * o for o in outer]
            basis = [np.linalg.eigh(f)[1][:, ::-1] for f in factors]
            continue
        v = betas[1] * v + (1 - betas[1]) * turned(g, [q.T for q in basis]) ** 2
        factors = [betas[1] * f + (1 - betas[1]) * o for f, o in zip(factors, outer, strict=True)]
        if step % frequency == 0:  # one step of power iteration, sorted
            for dim, (factor, q) in enumerate(zip(factors, basis, strict=True)):
                order = np.argsort(-np.einsum("ij,ik,kj->j", q, factor, q))
                v = np.take(v, order, axis=dim)
                basis[dim] = np.linalg.qr(factor @ q[:, order])[0]


class KFAC(optim.Optimizer):
    """What Preconditioned takes for a K-FAC: the factors of linear layers, in the state."""

    def __init__(self, model: nn.Module, lr: float, damping: float) -> None:
        super().__init__(model.parameters(), {"lr": lr, "damping": damping})
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(self.saw)

    def saw(self, layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        a = inputs[0].detach()
        self.state[layer.weight]["A"] = a.T @ a / len(a)

        def came_back(grad: Tensor) -> None:
            for p in (layer.weight, layer.bias):
                if p is not None:
                    self.state[p]["G"] = grad.T @ grad * len(grad)

        output.register_hook(came_back)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kappa", [1e-3, 1e-7, 1e3])
@pytest.mark.parametrize("seed", range(4))
def test_preconditioned_of_kfac_is_the_kl_clip_of_kfac_pytorch(seed, kappa, bias):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 3, bias=bias))
    model.double()
    lr, damping = 0.1, 0.01
    kfac = KFAC(model, lr, damping)
    loss = nn.functional.mse_loss(model(randoms(seed, (20, 6), torch.float64)), torch.ones(20, 3))
    loss.backward()

    inner = 0.0
    for p in model.parameters():
        g, state = p.grad.numpy(), kfac.state[p]
        # Its damping is added whole: it would be given the root of ours.
        step = np.linalg.inv(state["G"].numpy() + math.sqrt(damping) * np.eye(len(g))) @ g
        if "A" in state:
            a = state["A"].numpy()
            step = step @ np.linalg.inv(a + math.sqrt(damping) * np.eye(len(a)))
        inner += (step * g).sum() * lr**2
    nu = min(1.0, math.sqrt(kappa / abs(inner)))

    before = [p.grad.clone() for p in model.parameters()]
    outcome = outcome_of(Preconditioned(math.sqrt(kappa) / lr), list(model.parameters()), kfac)
    assert outcome.coefficient == pytest.approx(nu, rel=1e-12)
    assert outcome.changed == (nu < 1)
    for p, grad in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, nu * grad, rtol=1e-12, atol=0)
