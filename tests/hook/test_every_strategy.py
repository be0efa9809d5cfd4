"""What holds for every strategy there is, so that a new one cannot forget it."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn, optim

import gradhelm
from gradhelm import clip, wire
from gradhelm.clip import Ceiling, GlobalNorm, Schedule, Strategy, Value

from .models import losses, small, weights


class Sophia(optim.AdamW):
    """An AdamW that also says what it takes for the Hessian's diagonal, as SophiaG does."""

    def step(self, closure=None):
        super().step()
        for state in self.state.values():
            state["hessian"] = state["exp_avg_sq"].sqrt()


MAKE = {
    "AGC": lambda: clip.AGC(0.005, exclude=["decoder.*"]),
    "AdaGC": lambda: clip.AdaGC(warmup=5),
    "AutoClip": lambda: clip.AutoClip(30, window=20),
    "BlockRMS": lambda: clip.BlockRMS(0.002),
    "Ceiling": lambda: Ceiling(clip.ZClip(warmup=5), 0.1),
    "Curvature": lambda: clip.Curvature(0.5),
    "GlobalNorm": lambda: GlobalNorm(0.1),
    "Normalize": lambda: clip.Normalize(0.1),
    "PerModuleNorm": lambda: clip.PerModuleNorm(0.05),
    "PerParameterNorm": lambda: clip.PerParameterNorm(0.05),
    "Preconditioned": lambda: clip.Preconditioned(20.0),
    "Schedule": lambda: Schedule(clip.TargetFraction(0.3), "cosine", steps=20, factor=0.5),
    "SigmaClip": lambda: clip.SigmaClip(1.0),
    "SkipStep": lambda: clip.SkipStep(0.5, window=20),
    "SoftNorm": lambda: clip.SoftNorm(0.1, kind="tanh"),
    "SpikeAware": lambda: clip.SpikeAware(2.0, reset_every=25, warmup=10),
    "TargetFraction": lambda: clip.TargetFraction(0.3),
    "UpdateRMS": lambda: clip.UpdateRMS(0.5),
    "Value": lambda: Value(0.005),
    "ZClip": lambda: clip.ZClip(1.5, warmup=5),
}
MONITORS = {"Curvature", "UpdateRMS"}
RESCALES = {"Normalize"}


def optimizer_of(name: str, model: nn.Module) -> optim.Optimizer:
    return (Sophia if name == "Curvature" else optim.AdamW)(model.parameters(), lr=1e-2)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def train(model, optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        scale = 5.0 if step % 7 == 3 else 1.0
        next(losses(model, 1, seed=step, scale=scale)).backward()
        optimizer.step()


def test_no_strategy_is_forgotten_here():
    found = {
        name
        for name in clip.__all__
        if isinstance(getattr(clip, name), type) and issubclass(getattr(clip, name), Strategy)
    }
    assert found - {"Strategy"} == set(MAKE)


@pytest.mark.parametrize("name", MAKE)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(name):
    """Saved by torch.save and read with weights_only, in the middle of what it learns."""
    for stop in (3, 28):
        ours, theirs = small(), small()
        optimizer = optimizer_of(name, theirs)
        gradhelm.attach(theirs, optimizer, clip=MAKE[name](), mode="disabled")
        train(theirs, optimizer, range(45))

        optimizer = optimizer_of(name, ours)
        with gradhelm.attach(ours, optimizer, clip=MAKE[name](), mode="disabled") as run:
            train(ours, optimizer, range(stop))
            file = io.BytesIO()
            parts = ours.state_dict(), optimizer.state_dict(), run.state_dict()
            torch.save(parts, file)
        file.seek(0)
        parts = torch.load(file, weights_only=True)
        again = small(seed=9)
        optimizer = optimizer_of(name, again)
        run = gradhelm.attach(again, optimizer, clip=MAKE[name](), mode="disabled")
        for part, saved in zip((again, optimizer, run), parts, strict=True):
            part.load_state_dict(saved)
        train(again, optimizer, range(stop, 45))
        assert run.step == 45
        assert weights(again) == weights(theirs), stop


@pytest.mark.parametrize("name", MAKE)
def test_its_threshold_is_turned_while_it_runs_and_recorded(name, server):
    model = small()
    optimizer = optimizer_of(name, model)
    strategy = MAKE[name]()
    run = gradhelm.attach(model, optimizer, clip=strategy, server=server.url)
    train(model, optimizer, range(30))
    (coded,) = server.hello.coded
    value = 0.9 * coded.values[coded.threshold]
    assert coded.limits[coded.threshold].min <= value <= coded.limits[coded.threshold].max
    server.say(wire.Change(1, (wire.Rule({coded.threshold: value}),)))
    server.wait(lambda: wire.Delivered(1) in server.heard)
    train(model, optimizer, range(30, 40))
    run.close()
    (applied,) = server.of(wire.Applied)
    assert (applied.version, applied.step) == (1, 30)
    assert strategy.parameters[coded.threshold] == value
    table = server.table()
    assert sorted(table) == list(range(40))
    parameters = [n for n, _ in model.named_parameters()]
    for row in table.values():
        assert all(math.isfinite(row[f"norm/{n}"]) for n in parameters)
        if strategy.per_parameter and not row["skipped"]:
            assert all(row[f"coef/{n}"] > 0 for n in parameters)
    clipped = sum(row["clipped"] or row["skipped"] for row in table.values())
    assert (clipped == 0) if name in MONITORS else (clipped > 0)


@pytest.mark.parametrize("name", MAKE)
def test_as_a_plain_function_it_clips_in_place_and_returns_the_norm(name):
    model = small()
    optimizer = optimizer_of(name, model)
    strategy = MAKE[name]() if name != "AGC" else clip.AGC(0.005)
    changed = False
    for step in range(30):
        optimizer.zero_grad()
        next(losses(model, 1, seed=step)).backward()
        before = gradients(model)
        norm = strategy(model.parameters(), optimizer)
        assert norm.ndim == 0
        expected = nn.utils.get_total_norm(before)
        if name == "AGC":  # measures units, and what they make together
            assert norm.item() == pytest.approx(expected.item(), rel=1e-6)
        elif name != "Preconditioned":  # whose norm is another one
            assert torch.equal(norm, expected)
        changed |= any(
            p.grad is None or not torch.equal(p.grad, g)
            for p, g in zip(model.parameters(), before, strict=True)
        )
        optimizer.step()
    assert changed is (name not in MONITORS)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_handled_by_its_policy_and_teaches_nothing(name, bad):
    def spoil(model: nn.Module) -> None:
        model.zero_grad()
        next(losses(model, 1, seed=99)).backward()
        model.decoder.bias.grad[0] = bad

    for policy in ("zero", "skip", "raise", "propagate"):
        model = small()
        optimizer = optimizer_of(name, model)
        strategy = MAKE[name]()
        getattr(strategy, "inner", strategy).nonfinite = policy
        run = gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
        train(model, optimizer, range(30))
        learned = copy.deepcopy(learned_by(strategy))
        spoil(model)
        kept = weights(model)
        if policy == "raise":
            with pytest.raises(RuntimeError, match="non-finite"):
                optimizer.step()
            assert not math.isfinite(model.decoder.bias.grad[0])
            assert weights(model) == kept
        else:
            optimizer.step()
        if policy == "zero":
            assert all(not p.grad.any() for p in model.parameters())
        if policy == "skip":
            assert weights(model) == kept
            assert not math.isfinite(model.decoder.bias.grad[0])
        assert same(learned, learned_by(strategy)), policy
        assert run.step == (30 if policy == "raise" else 31)


def learned_by(strategy: Strategy) -> dict:
    """What it learned of norms; that a step was taken is not learned of them."""
    state = strategy.state_dict()
    found = {**state["state"], **state.get("inner", {}).get("state", {})}
    return {k: v for k, v in found.items() if k not in ("since", "resets", "taken")}


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


@pytest.mark.parametrize("name", MAKE)
def test_sparse_gradients_are_taken_or_refused_at_attach_by_name(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    strategy = clip.AGC(0.01) if name == "AGC" else MAKE[name]()
    if not strategy.takes_sparse:
        with pytest.raises(
            ValueError, match=rf"{name} cannot clip the sparse gradients of 0.weight"
        ):
            gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
        return
    run = gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
    for step in range(12):
        optimizer.zero_grad()
        model(torch.full((2, 3), step)).pow(2).sum().backward()
        optimizer.step()
        assert model[0].weight.grad.is_sparse
    assert run.step == 12


@pytest.mark.parametrize("name", MAKE)
def test_missing_gradients_half_precision_and_no_gradients_at_all(name):
    model = small(dtype=torch.bfloat16)
    model.lstm.bias_hh_l1.requires_grad_(False)
    optimizer = optimizer_of(name, model)
    run = gradhelm.attach(model, optimizer, clip=MAKE[name](), mode="disabled")
    for step in range(10):
        optimizer.zero_grad()
        if step % 5 != 4:
            model.decoder(torch.ones(2, 12, dtype=torch.bfloat16) * step).float().sum().backward()
        optimizer.step()
    assert run.step == 10
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", MAKE)
def test_every_range_that_is_offered_is_one_that_the_strategy_takes(name, server):
    strategy, model = MAKE[name](), small()
    run = gradhelm.attach(
        model,
        optimizer_of(name, model),
        clip=strategy,
        control=gradhelm.Control(strategies=True),
        server=server.url,
    )
    (coded,) = server.hello.coded
    positive = {other for other, value in strategy.parameters.items() if value > 0}
    assert positive <= set(coded.limits) | {strategy.threshold_name}
    for other, limit in coded.limits.items():
        value = strategy.parameters[other]
        assert limit.min <= value <= limit.max
        for end in (limit.min, limit.max):
            strategy.set(**{other: end})
            strategy.set(**{other: value})
    run.close()
