"""With the same threshold, weights are bit-identical to the loop with torch's own clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gradhelm
from gradhelm import demo
from gradhelm.clip import GlobalNorm, Gradients, Value

from .models import losses, small, weights

STEPS = 80


def optimizer_of(kind: str, model):
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=kind == "fused")


def by_hand(kind: str, clip, steps: int = STEPS, accumulate: int = 1):
    model = small()
    optimizer = optimizer_of(kind, model)
    for i, loss in enumerate(losses(model, steps)):
        loss.backward()
        if i % accumulate == accumulate - 1:
            clip(model.parameters())
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def by_hook(kind: str, strategy, steps: int = STEPS, accumulate: int = 1):
    model = small()
    optimizer = optimizer_of(kind, model)
    gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
    for i, loss in enumerate(losses(model, steps)):
        loss.backward()
        if i % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


def occurring_norms() -> list[float]:
    norms = []
    by_hand("sgd", lambda p: norms.append(clip_grad_norm_(p, 1e9).item()))
    return norms


NORM = float(np.float32(sorted(occurring_norms())[STEPS // 2]))
AROUND = {
    "below": 0.3 * NORM,
    "one ulp below": float(np.nextafter(np.float32(NORM), np.float32(0))),
    "at": NORM,
    "one ulp above": float(np.nextafter(np.float32(NORM), np.float32(math.inf))),
    "above": 1e3,
}


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "fused"])
@pytest.mark.parametrize("threshold", AROUND.values(), ids=AROUND)
def test_global_norm_gives_torchs_weights(kind, threshold, foreach):
    expected = by_hand(kind, lambda p: clip_grad_norm_(p, threshold, foreach=foreach))
    assert by_hook(kind, GlobalNorm(threshold)) == expected


@pytest.mark.parametrize("norm_type", [1, math.inf])
def test_other_norms_give_torchs_weights(norm_type):
    expected = by_hand("sgd", lambda p: clip_grad_norm_(p, 0.1, norm_type=norm_type))
    assert by_hook("sgd", GlobalNorm(0.1, norm_type)) == expected


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("threshold", [1e-4, 0.02, 0.1, 10.0])
def test_value_gives_torchs_weights(threshold, foreach):
    expected = by_hand("sgd", lambda p: clip_grad_value_(p, threshold, foreach=foreach))
    assert by_hook("sgd", Value(threshold)) == expected


def test_accumulated_gradients_are_clipped_once_as_a_whole():
    expected = by_hand("sgd", lambda p: clip_grad_norm_(p, 0.2), accumulate=3)
    assert by_hook("sgd", GlobalNorm(0.2), accumulate=3) == expected


def scaled(kind: str, step, threshold: float):
    model = small()
    optimizer = optimizer_of(kind, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=20)
    if step is with_hook or step is with_hook_unscaled:
        gradhelm.attach(model, optimizer, max_norm=threshold, mode="disabled")
    for i, loss in enumerate(losses(model, STEPS)):
        scaler.scale(loss * (math.inf if i % 40 == 17 else 1.0)).backward()
        step(model, optimizer, scaler, threshold)
        scaler.update()
        optimizer.zero_grad()
    return weights(model)


def with_hand(model, optimizer, scaler, threshold):
    scaler.unscale_(optimizer)
    clip_grad_norm_(model.parameters(), threshold)
    scaler.step(optimizer)


def with_hook(model, optimizer, scaler, threshold):
    scaler.step(optimizer)


def with_hook_unscaled(model, optimizer, scaler, threshold):
    scaler.unscale_(optimizer)
    scaler.step(optimizer)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "fused"])
@pytest.mark.parametrize("threshold", [AROUND["below"], AROUND["at"], AROUND["above"]])
@pytest.mark.parametrize("step", [with_hook, with_hook_unscaled])
def test_a_grad_scaler_gives_the_hand_written_loops_weights(kind, threshold, step):
    assert scaled(kind, step, threshold) == scaled(kind, with_hand, threshold)


def measured_in_float32(parameters, max_norm):
    """torch's clip, with the norms of half-precision gradients accumulated in float32."""
    grads = [p.grad for p in parameters]
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=torch.float32) for g in grads])
    coefficient = torch.clamp(max_norm / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
    for g in grads:
        g.mul_(coefficient)


@pytest.mark.parametrize(
    ("dtype", "norm"),
    [
        (torch.float64, clip_grad_norm_),
        (torch.bfloat16, measured_in_float32),
        (torch.float16, measured_in_float32),
    ],
)
def test_other_dtypes_give_torchs_weights(dtype, norm):
    def trained(clip):
        model = small(dtype=dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for loss in losses(model, 40):
            optimizer.zero_grad()
            loss.backward()
            clip(model.parameters())
            optimizer.step()
        return weights(model)

    assert trained(GlobalNorm(0.3)) == trained(lambda p: norm(list(p), 0.3))
    assert trained(Value(0.01)) == trained(lambda p: clip_grad_value_(p, 0.01))


def test_mixed_dtypes_give_torchs_gradients_and_norms_in_the_order_given():
    def parameters():
        torch.manual_seed(0)
        found = []
        for i in range(40):
            dtype = [torch.float32, torch.float64][i % 2]
            p = torch.nn.Parameter(torch.zeros(5, 3, dtype=dtype))
            p.grad = torch.randn(5, 3).to(dtype) * (i + 1)
            found.append(p)
        return found

    ours, theirs = parameters(), parameters()
    strategy = GlobalNorm(1.0)
    grads = [p.grad.clone() for p in ours]
    outcome = strategy.step(Gradients(grads, ours))
    for norm, p in zip(outcome.norms, theirs, strict=True):
        assert norm == torch.linalg.vector_norm(p.grad)
    assert strategy(ours) == clip_grad_norm_(theirs, 1.0)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.grad, other.grad)


def test_five_hundred_streamed_steps_of_the_demo_give_torchs_weights(server):
    text = demo.corpus(200_000)

    def trained(attached: bool):
        model, optimizer = demo.build()
        run = None
        if attached:
            run = gradhelm.attach(model, optimizer, max_norm=0.25, server=server.url)
        for _, loss in zip(range(500), demo.losses(model, text), strict=False):
            if run is None:
                clip_grad_norm_(model.parameters(), 0.25)
            else:
                run.log(loss=loss)
            optimizer.step()
        if run is not None:
            run.close()
        return weights(model)

    assert trained(True) == trained(False)
    assert sorted(server.table()) == list(range(500))
    assert 0 < sum(row["clipped"] for row in server.table().values()) < 500
