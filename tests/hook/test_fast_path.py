"""What makes the clip fast must not make it wrong: decisions at the edge, gradients of all kinds."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_

import gradhelm
from gradhelm.clip import GlobalNorm, Gradients

from .models import losses, small, weights

SEEDS = range(14)


def parameters_of(*grads: torch.Tensor | None) -> list[nn.Parameter]:
    found = []
    for grad in grads:
        shape, dtype = ((1,), torch.float32) if grad is None else (grad.shape, grad.dtype)
        found.append(nn.Parameter(torch.zeros(shape, dtype=dtype)))
        found[-1].grad = grad
    return found


def bits(parameters) -> list[bytes | None]:
    return [
        None if p.grad is None else p.grad.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for p in parameters
    ]


def assert_as_torch(parameters: list[nn.Parameter], max_norm: float) -> None:
    theirs = [copy.deepcopy(p) for p in parameters]
    for p, q in zip(parameters, theirs, strict=True):
        # As they lie: a clone is laid out anew, and the order of a sum decides its last bit.
        q.grad = (
            None
            if p.grad is None
            else torch.empty_strided(p.grad.size(), p.grad.stride(), dtype=p.grad.dtype).copy_(
                p.grad
            )
        )
    norm, expected = GlobalNorm(max_norm)(parameters), clip_grad_norm_(theirs, max_norm)
    assert bits(parameters) == bits(theirs)
    assert norm.view(torch.int32) == expected.view(torch.int32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("away", [0, 1e-8, 1e-7, 3e-7, 1e-6, 2e-6, 1e-5, 1e-4, 1e-3])
def test_decisions_near_the_threshold_are_torchs(seed, away):
    """Of all sizes, so that the 1e-6 of the formula is nothing, something or everything."""
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (seed % 14 - 8)
    grads = [size * torch.randn(n, generator=generator) for n in (1, 7, 64, 1000)]
    norm = torch.nn.utils.get_total_norm(grads).item()
    at = np.float32(norm + 1e-6)
    for near in (
        norm,
        at,
        np.nextafter(at, np.float32(0)),
        np.nextafter(at, np.float32(math.inf)),
    ):
        for threshold in (float(near) * (1 - away), float(near) * (1 + away)):
            assert_as_torch(parameters_of(*(g.clone() for g in grads)), threshold)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 3e20, 1e-30, 0.0])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e30, 3e38, 1e300])
def test_values_at_the_edge_of_float32_go_as_in_torch(odd, max_norm):
    grads = [torch.ones(5), torch.ones(3, 4)]
    grads[1][2, 1] = odd
    assert_as_torch(parameters_of(*grads), max_norm)
    assert_as_torch(parameters_of(torch.full((9,), odd)), max_norm)


VIEWS = {
    "transposed": lambda whole: whole.t(),
    "every other row": lambda whole: whole[::2],
    "some columns": lambda whole: whole[:, 1::3],
    "a part": lambda whole: whole.reshape(3, 16)[1:],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_gradients_that_are_views_are_clipped_where_they_lie(view):
    grad = view(torch.randn(6, 8))
    expected = grad * (0.1 / (grad.norm() + 1e-6))
    (parameter,) = parameters = parameters_of(grad)
    assert_as_torch(parameters, 0.1)
    assert parameter.grad is grad
    torch.testing.assert_close(grad, expected)


def test_parameters_that_share_a_gradients_storage_are_clipped_as_torch_does():
    def shared() -> list[nn.Parameter]:
        whole = torch.arange(12.0)
        return parameters_of(whole[:8], whole[8:])

    ours, theirs = shared(), shared()
    GlobalNorm(1.0)(ours)
    clip_grad_norm_(theirs, 1.0)
    assert bits(ours) == bits(theirs)


def test_expanded_gradients_are_refused_when_they_must_be_changed_and_only_then():
    parameters = parameters_of(torch.ones(()).expand(4))
    assert GlobalNorm(10.0)(parameters) == 2.0
    with pytest.raises(RuntimeError, match="single memory location"):
        GlobalNorm(1.0)(parameters)


class Marked(torch.Tensor):
    """A subclass that torch's multi-tensor path does not take."""


def test_subclasses_go_one_by_one_and_stay_what_they_are():
    grad = (torch.ones(4) * 3).as_subclass(Marked)
    parameters = parameters_of(torch.ones(2), grad)
    GlobalNorm(1.0)(parameters)
    assert type(parameters[1].grad) is Marked
    torch.testing.assert_close(
        parameters[1].grad.as_subclass(torch.Tensor), torch.full((4,), 3 / math.sqrt(38))
    )


def test_complex_and_mixed_gradients_keep_their_norms():
    grads = [torch.randn(5, dtype=torch.complex64), torch.randn(4), torch.randn(3).double()]
    norms, total = Gradients(grads, parameters_of(*grads)).norm()
    expected = [g.to(torch.complex128).norm().item() for g in grads]
    assert norms.tolist() == pytest.approx(expected, rel=1e-6)
    assert total.item() == pytest.approx(math.hypot(*expected), rel=1e-6)


def trained(clip, change, zero) -> list[bytes]:
    """40 steps of a loop in which ``change`` does something to the model before each backward."""
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    if clip is None:
        gradhelm.attach(model, optimizer, max_norm=0.3, mode="disabled")
    for step, loss in enumerate(losses(model, 40)):
        zero(optimizer)
        change(model, step)
        loss.backward()
        if clip is not None:
            clip(model.parameters())
        optimizer.step()
    return weights(model)


def by_hand(parameters) -> None:
    clip_grad_norm_(parameters, 0.3)


def nothing(model, step) -> None:
    pass


def freezing(model, step) -> None:
    """The loss was made before: what is frozen now has a gradient once more, and then none."""
    model.decoder.requires_grad_(not 10 <= step < 20)
    model.embedding.requires_grad_(step % 3 != 0)


def swapping(model, step) -> None:
    """The weights move to another storage, as ``model.to`` and ``load_state_dict`` may do it."""
    if step == 7:
        for p in model.parameters():
            p.data = p.data.clone()


@pytest.mark.parametrize("change", [nothing, freezing, swapping])
@pytest.mark.parametrize(
    "zero",
    [lambda o: o.zero_grad(), lambda o: o.zero_grad(set_to_none=False)],
    ids=["reallocated", "kept"],
)
def test_a_model_that_changes_meanwhile_gets_torchs_weights(change, zero):
    assert trained(None, change, zero) == trained(by_hand, change, zero)


def test_a_model_that_changes_its_dtype_meanwhile_gets_torchs_weights():
    def doubling(model, step) -> None:
        if step == 5:
            for p in model.parameters():
                p.data = p.data.double()

    def loop(clip) -> list[bytes]:
        model = nn.Linear(4, 4)
        nn.init.constant_(model.weight, 0.3)
        nn.init.zeros_(model.bias)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        if clip is None:
            gradhelm.attach(model, optimizer, max_norm=0.1, mode="disabled")
        for step in range(12):
            optimizer.zero_grad()
            doubling(model, step)
            model(torch.ones(4, dtype=model.weight.dtype)).square().sum().backward()
            if clip is not None:
                clip(model.parameters(), 0.1)
            optimizer.step()
        return weights(model)

    assert loop(None) == loop(clip_grad_norm_)


def test_clipping_leaves_the_grad_mode_as_it_was():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    gradhelm.attach(model, optimizer, clip=GlobalNorm(0.1, nonfinite="raise"), mode="disabled")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert torch.is_grad_enabled()
    with torch.no_grad(), pytest.raises(RuntimeError):
        optimizer.step()
    assert torch.is_grad_enabled()
