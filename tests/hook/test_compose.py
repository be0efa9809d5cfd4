"""Strategies made of strategies: schedules, ceilings, patterns, parameter groups."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import gradhelm
from gradhelm.clip import (
    AGC,
    AdaGC,
    BlockRMS,
    Ceiling,
    GlobalNorm,
    Gradients,
    PerParameterNorm,
    Preconditioned,
    Schedule,
    SigmaClip,
    SpikeAware,
    TargetFraction,
    Value,
    ZClip,
)
from gradhelm.clip.divide import Patterns, divided

from .models import small


def with_grads(model: nn.Module, scale: float = 1.0, seed: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    grads = [torch.randn_like(p) * scale for p in model.parameters()]
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g.clone()
    return grads


def thresholds(strategy: Schedule, steps: int) -> list[float]:
    """The thresholds that ``steps`` steps are clipped with."""
    p = nn.Parameter(torch.zeros(3))
    found = []
    for _ in range(steps):
        p.grad = torch.full((3,), 100.0)
        told = strategy.threshold
        outcome = strategy.step(Gradients.of([p]))
        assert outcome.threshold == pytest.approx(told)
        found.append(outcome.threshold)
    return found


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(GlobalNorm(2.0)), [2.0] * 4),
        (Schedule(GlobalNorm(2.0), "linear", steps=4, factor=0.5), [2, 1.75, 1.5, 1.25, 1, 1]),
        (Schedule(GlobalNorm(2.0), "cosine", steps=2, factor=0.5), [2, 1.5, 1, 1]),
        (Schedule(GlobalNorm(8.0), "step", steps=2, factor=0.5), [8, 8, 4, 4, 2]),
        (Schedule(GlobalNorm(2.0), warmup=4, start=3.0), [6, 5, 4, 3, 2, 2]),
        (Schedule(GlobalNorm(2.0), warmup=2, start=0.5), [1, 1.5, 2]),
        (
            Schedule(Value(2.0), "linear", steps=2, factor=2.0, warmup=2, start=0.5),
            [1.0, 2 * 1.5 * 0.75, 4.0],
        ),
    ],
)
def test_a_threshold_follows_its_schedule(schedule, expected):
    assert thresholds(schedule, len(expected)) == pytest.approx(expected)


def test_a_threshold_goes_with_the_learning_rate():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: [0.0, 0.5, 1.0, 0.25][t])
    clip = Schedule(GlobalNorm(2.0), "lr")
    with gradhelm.attach(model, optimizer, clip=clip, mode="disabled") as run:
        found = []
        for t in range(4):
            with_grads(model)
            found.append(run.threshold)
            optimizer.step()
            if t < 3:
                rates.step()
    assert found == pytest.approx([0.0, 1.0, 2.0, 0.5])


def test_a_scheduled_clip_is_the_bare_clip_at_that_threshold():
    ours, theirs = small(), small()
    clip = Schedule(GlobalNorm(1.0), "linear", steps=10, factor=0.1)
    for t in range(15):
        with_grads(ours, seed=t)
        with_grads(theirs, seed=t)
        clip(ours.parameters())
        clip_grad_norm_(theirs.parameters(), 1.0 + (0.1 - 1.0) * min(t / 10, 1.0))
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


def test_a_schedule_is_steered_by_its_base_and_goes_on_after_a_checkpoint():
    clip = Schedule(GlobalNorm(1.0), "linear", steps=4, factor=0.5)
    thresholds(clip, 2)
    clip.set(max_norm=10.0)
    assert (clip.parameters, clip.threshold) == ({"max_norm": 10.0}, 7.5)
    again = Schedule(GlobalNorm(1.0), "linear", steps=4, factor=0.5)
    again.load_state_dict(clip.state_dict())
    assert thresholds(again, 3) == thresholds(clip, 3) == pytest.approx([7.5, 6.25, 5.0])
    with pytest.raises(ValueError, match="max_norm"):
        clip.set(max_norm=-1.0)
    assert clip.parameters == {"max_norm": 10.0}
    with pytest.raises(ValueError, match="state is of another strategy"):
        clip.load_state_dict(GlobalNorm(1.0).state_dict())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Schedule("x"), TypeError, "strategy must be a Strategy, not str"),
        (lambda: Schedule(GlobalNorm(1.0), "sine"), ValueError, "shape is 'sine'; accepted: 'con"),
        (lambda: Schedule(GlobalNorm(1.0), "linear"), ValueError, "needs steps and factor"),
        (lambda: Schedule(GlobalNorm(1.0), "lr", steps=3), ValueError, "takes neither steps nor"),
        (
            lambda: Schedule(GlobalNorm(1.0), "linear", steps=0, factor=0.1),
            ValueError,
            "steps must be at least 1",
        ),
        (
            lambda: Schedule(GlobalNorm(1.0), "linear", steps=2.5, factor=0.1),
            TypeError,
            "steps must be an int, not float",
        ),
        (
            lambda: Schedule(GlobalNorm(1.0), "step", steps=2, factor=-1.0),
            ValueError,
            "factor must be a finite number above 0",
        ),
        (lambda: Schedule(GlobalNorm(1.0), warmup=-1), ValueError, "warmup must be at least 0"),
        (lambda: Schedule(GlobalNorm(1.0), start=math.nan), ValueError, "start must be a finite"),
        (lambda: Ceiling(GlobalNorm(1.0), 0.0), ValueError, "max_norm must be a finite number abo"),
        (lambda: Ceiling(GlobalNorm(1.0), "1"), TypeError, "max_norm must be"),
        (lambda: Ceiling(1.0, 1.0), TypeError, "strategy must be a Strategy, not float"),
        (
            lambda: Ceiling(Ceiling(PerParameterNorm(1.0), 1.0), 2.0),
            ValueError,
            "has a value called ceiling already",
        ),
        (lambda: divided({"*": 1.0}), TypeError, r"clip\['\*'\] must be a gradhelm.clip strategy"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_schedule_by_the_learning_rate_needs_the_optimizer():
    with pytest.raises(ValueError, match="'lr' reads the optimizer's learning rate: attach"):
        gradhelm.attach(small(), clip=Schedule(GlobalNorm(1.0), "lr"), mode="disabled")


@pytest.mark.parametrize("inner", [PerParameterNorm(1.0), Value(0.5), GlobalNorm(50.0, 1.0)])
@pytest.mark.parametrize("ceiling", [0.7, 1e6])
def test_a_ceiling_is_the_inner_clip_and_then_the_common_one(inner, ceiling):
    ours, theirs = small(), small()
    with_grads(ours)
    with_grads(theirs)
    ours, theirs = list(ours.parameters()), list(theirs.parameters())
    outcome = Ceiling(inner, ceiling).step(Gradients.of(ours))
    inner(theirs)
    between = clip_grad_norm_(theirs, ceiling)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=0)
    after = nn.utils.get_total_norm([p.grad for p in ours])
    assert outcome.post_norm == pytest.approx(after.item(), rel=1e-5)
    assert outcome.changed
    assert (after < ceiling * 1.0001) or between <= ceiling


def test_a_ceiling_that_does_not_bind_leaves_the_inner_clip_to_the_bit():
    ours, theirs = small(), small()
    for t in range(5):
        with_grads(ours, seed=t)
        with_grads(theirs, seed=t)
        Ceiling(GlobalNorm(1.0), 100.0)(ours.parameters())
        clip_grad_norm_(theirs.parameters(), 1.0)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


def test_both_values_of_a_ceiling_are_steered_and_saved():
    clip = Ceiling(BlockRMS(1.0), 5.0)
    assert clip.parameters == {"threshold": 1.0, "ceiling": 5.0}
    assert (clip.threshold_name, clip["ceiling"]) == ("threshold", 5.0)
    clip.set(ceiling=2.0, threshold=0.5)
    again = Ceiling(BlockRMS(1.0), 5.0)
    again.load_state_dict(clip.state_dict())
    assert again.parameters == {"threshold": 0.5, "ceiling": 2.0}
    with pytest.raises(ValueError, match="ceiling must be"):
        clip.set(ceiling=0.0, threshold=0.1)
    assert clip.parameters == {"threshold": 0.5, "ceiling": 2.0}


def test_patterns_clip_each_part_as_if_alone():
    ours, theirs = small(), small()
    clip = {"embedding.*": Value(0.5), "lstm.*_l0": GlobalNorm(0.3), "lstm.*": GlobalNorm(0.2)}
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0)
    run = gradhelm.attach(ours, optimizer, clip=clip, mode="disabled")
    recorded = []
    run.streams[""].recorder = type(
        "Fake", (), {"step": lambda self, step, outcome, *rest: recorded.append(outcome)}
    )()
    before = with_grads(ours)
    with_grads(theirs)
    optimizer.step()
    named = dict(theirs.named_parameters())
    first = [p for name, p in named.items() if name.startswith("lstm") and name.endswith("_l0")]
    second = [p for name, p in named.items() if name.startswith("lstm") and name.endswith("_l1")]
    clip_grad_value_([named["embedding.weight"]], 0.5)
    norms = clip_grad_norm_(first, 0.3), clip_grad_norm_(second, 0.2)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    (outcome,) = recorded
    assert [part.threshold for part in outcome.parts] == [0.5, 0.3, 0.2]
    assert torch.equal(outcome.parts[1].global_norm, norms[0])
    assert torch.equal(outcome.parts[2].global_norm, norms[1])
    assert torch.equal(outcome.global_norm, nn.utils.get_total_norm(before))
    assert torch.equal(ours.decoder.weight.grad, before[-2])  # no pattern matches: only measured


def test_patterns_with_missing_gradients_and_mixed_dtypes():
    parameters = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.zeros(4, dtype=torch.float64)),
        nn.Parameter(torch.zeros(5)),
        nn.Parameter(torch.zeros(2, dtype=torch.float64)),
    ]
    clip = Patterns({"a*": GlobalNorm(0.5), "b*": PerParameterNorm(0.25)})
    names = ["a1", "b1", "a2", "b2"]
    clip.bind([gradhelm.clip.Target(n, p) for n, p in zip(names, parameters, strict=True)])
    generator = torch.Generator().manual_seed(0)
    for missing in range(16):
        twins = []
        for i, p in enumerate(parameters):
            grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = None if missing & 1 << i else grad
            twins.append(nn.Parameter(torch.zeros_like(p)))
            twins[-1].grad = None if p.grad is None else grad.clone()
        grads = Gradients.of(parameters)
        if grads is None:
            continue
        outcome = clip.step(grads)
        clip_grad_norm_([twins[0], twins[2]], 0.5)
        for p, q in zip(parameters[::2], twins[::2], strict=True):
            assert p.grad is q.grad is None or torch.equal(p.grad, q.grad)
        held = [p.grad for p in parameters if p.grad is not None]
        after = nn.utils.get_total_norm(held).item()
        assert outcome.post_norm == pytest.approx(after, rel=1e-5)
        assert (outcome.parts[0] is None) == (missing & 0b101 == 0b101)


def test_one_part_that_skips_skips_the_step():
    model = small()
    clip = {"lstm.*": GlobalNorm(1.0, nonfinite="skip"), "*": GlobalNorm(1.0)}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with gradhelm.attach(model, optimizer, clip=clip, mode="disabled"):
        before = [p.detach().clone() for p in model.parameters()]
        with_grads(model)
        model.lstm.weight_hh_l1.grad[0, 0] = math.inf
        optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        with_grads(model)
        optimizer.step()
        assert not torch.equal(model.decoder.weight, before[-2])


def test_parameter_groups_have_their_own_thresholds():
    ours, theirs = small(), small()
    optimizers = [
        torch.optim.SGD(
            [{"params": m.lstm.parameters(), "lr": 0.1}, {"params": m.decoder.parameters()}], lr=0.5
        )
        for m in (ours, theirs)
    ]
    clip = [GlobalNorm(0.1), GlobalNorm(0.01)]
    with gradhelm.attach(ours, optimizers[0], clip=clip, mode="disabled"):
        for t in range(5):
            for m in (ours, theirs):
                with_grads(m, seed=t)
            clip_grad_norm_(theirs.lstm.parameters(), 0.1)
            clip_grad_norm_(theirs.decoder.parameters(), 0.01)
            for optimizer in optimizers:
                optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match=r"clip is a list of 1 strategies.*has 2 groups"):
        gradhelm.attach(theirs, optimizers[1], clip=[GlobalNorm(1.0)], mode="disabled")


def test_rules_state_goes_through_a_checkpoint():
    def make() -> gradhelm.Run:
        model = small()
        clip = {"lstm.*": Schedule(GlobalNorm(1.0), "linear", steps=4, factor=0.5), "*": Value(1.0)}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = gradhelm.attach(model, optimizer, clip=clip, mode="disabled")
        run.take = lambda: (with_grads(model), optimizer.step())
        return run

    run, again = make(), make()
    run.take()
    run.take()
    state = run.state_dict()
    again.load_state_dict(state)
    assert again.step == 2
    rules = again.streams[""].strategy.rules
    assert rules["lstm.*"].threshold == 0.75
    state["streams"][""]["strategy"]["rules"].pop("*")
    with pytest.raises(ValueError, match="state is of other rules"):
        again.load_state_dict(state)


def adam(model: nn.Module, clip, steps: int = 3) -> tuple[gradhelm.Run, torch.optim.Optimizer]:
    """A run attached after some steps, with gradients waiting for the next one."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for t in range(steps):
        with_grads(model, seed=t)
        optimizer.step()
    with_grads(model, seed=steps)
    return gradhelm.attach(model, optimizer, clip=clip, mode="disabled"), optimizer


def l2(model: nn.Module) -> float:
    return nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()


@pytest.mark.parametrize(
    "inner",
    [
        lambda: Preconditioned(5.0),
        lambda: Schedule(Preconditioned(5.0)),
        lambda: GlobalNorm(0.5, math.inf),
        lambda: Schedule(GlobalNorm(0.5, math.inf)),
    ],
)
@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_ceiling_holds_the_l2_norm_whatever_norm_the_inner_clip_measures(inner, share):
    bare, model = small(), small()
    run, _kept = adam(bare, inner())
    run.streams[""].clip()
    ceiling = share * l2(bare)
    run, _kept = adam(model, Ceiling(inner(), ceiling))
    told = run.threshold
    outcome = run.streams[""].clip()
    assert l2(model) == pytest.approx(min(1, share) * l2(bare), rel=1e-4)
    assert outcome.post_norm == pytest.approx(l2(model), rel=1e-4)
    # Norms of two kinds do not compare: the inner threshold stays the one that is told.
    assert outcome.threshold == told == inner().threshold


@pytest.mark.parametrize(
    "inner", [lambda: Preconditioned(5.0), lambda: Schedule(GlobalNorm(0.5, math.inf))]
)
def test_no_norm_of_another_kind_enters_the_common_norm_after_a_dict_of_patterns(inner):
    model = small()
    run, _kept = adam(model, {"lstm.*": inner(), "*": GlobalNorm(0.1)})
    outcome = run.streams[""].clip()
    assert outcome.post_norm is None or outcome.post_norm == pytest.approx(l2(model), rel=1e-4)


def test_the_ceilings_threshold_is_the_one_in_force_before_the_step_as_after_it():
    model = small()
    with_grads(model)
    for inner, ceiling in ((GlobalNorm(5.0), 1.0), (GlobalNorm(1.0), 5.0), (ZClip(warmup=9), 2.0)):
        clip = Ceiling(inner, ceiling)
        told = clip.threshold
        assert (
            clip.step(Gradients.of(list(model.parameters()))).threshold
            == told
            == min(ceiling, inner.threshold or ceiling)
        )
    assert Ceiling(PerParameterNorm(5.0), 1.0).threshold == 5.0


def test_gradients_that_a_policy_made_zero_have_the_coefficient_zero_under_a_ceiling():
    model = small()
    with_grads(model)
    model.decoder.bias.grad[0] = math.nan
    clip = Ceiling(GlobalNorm(1.0, nonfinite="zero"), 10.0)
    outcome = clip.step(Gradients.of(list(model.parameters())))
    assert (outcome.coefficient, outcome.post_norm) == (0.0, 0.0)


@pytest.mark.parametrize("make", [lambda: TargetFraction(0.3), lambda: ZClip(1.0, warmup=3)])
def test_a_scheduled_strategy_tells_the_threshold_that_it_will_clip_with(make):
    clip = Schedule(make(), "linear", steps=10, factor=0.5)
    model = small()
    for t in range(8):
        with_grads(model, seed=t, scale=1.0 + t % 3)
        told = clip.threshold
        outcome = clip.step(Gradients.of(list(model.parameters())))
        assert outcome.threshold == told or outcome.changed


def test_a_schedule_of_a_schedule_is_held_to_the_range_at_once():
    def make(factor: float) -> Schedule:
        inner = Schedule(TargetFraction(0.5), "linear", steps=4, factor=1.5)
        return Schedule(Ceiling(inner, 9.0), "linear", steps=4, factor=factor)

    with pytest.raises(ValueError, match=r"fraction must be .* not 1.125"):
        make(1.5)
    with pytest.raises(ValueError, match=r"fraction must be .* not 1.125"):
        make(1.2).set(fraction=0.75)
    assert thresholds(make(1.2), 6)


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {"strategy": "GlobalNorm", "values": {}, "state": {}},
        {"values": {}, "state": {}},
        {"values": {"max_norm": 1.0}, "state": {"history": []}},
        {"values": 3, "state": {}},
        Value(1.0).state_dict(),
        PerParameterNorm(9.0).state_dict(),
        Ceiling(GlobalNorm(9.0), 1.0).state_dict(),
    ],
)
def test_what_is_not_a_strategys_own_state_changes_nothing(state):
    for clip in (GlobalNorm(1.0), Schedule(GlobalNorm(1.0)), divided({"*": GlobalNorm(1.0)})):
        before = clip.state_dict()
        with pytest.raises(ValueError, match=r"state|needs a value for 'max_norm' as well"):
            clip.load_state_dict(state)
        assert clip.state_dict() == before
    for left in ({"values": {}}, {"inner": {}}):
        clip = Ceiling(GlobalNorm(1.0), 2.0)
        with pytest.raises(ValueError, match="state"):
            clip.load_state_dict(clip.state_dict() | left)
        assert clip.parameters == {"max_norm": 1.0, "ceiling": 2.0}


def test_values_are_set_whole():
    for clip in (AGC(0.1), Ceiling(GlobalNorm(1.0), 2.0), Schedule(AGC(0.1))):
        before = clip.parameters
        for name in before:
            some = {other: value for other, value in before.items() if other != name}
            with pytest.raises(ValueError, match=f"needs a value for '{name}' as well"):
                clip.reset(some)
        with pytest.raises(ValueError, match=f"called 'x'; accepted: {', '.join(before)}"):
            clip.set(x=1.0)
        assert clip.parameters == before


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize(
    "make",
    [
        lambda: AGC(0.01),
        lambda: SigmaClip(1.0),
        lambda: Ceiling(SpikeAware(2.0), 0.5),
        lambda: Schedule(GlobalNorm(0.1), "lr"),
        lambda: AdaGC(warmup=2),
    ],
)
def test_a_copy_of_a_strategy_goes_on_from_there_and_is_bound_to_nothing(make, copier):
    """Above all not to copies of the weights, which stay behind when the model learns."""
    model = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    clip = make()
    reads = None if isinstance(clip, AGC) else optimizer
    for t in range(30):
        with_grads(model, seed=t)
        clip(model.parameters(), reads)
        optimizer.step()
    copied = copier(clip)
    assert copied.state_dict().keys() == clip.state_dict().keys()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(50.0)
    found = []
    for one in (copied, clip):
        with_grads(model, seed=99)
        one(model.parameters(), reads)
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))


@pytest.mark.parametrize(
    "strict", [PerParameterNorm(1.0, nonfinite="raise"), Schedule(Value(0.1, nonfinite="raise"))]
)
def test_a_part_that_raises_does_so_before_any_part_is_clipped(strict):
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    run = gradhelm.attach(model, clip={"a.*": GlobalNorm(0.1), "b.*": strict}, mode="disabled")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model["b"].bias.grad[0] = math.inf
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="non-finite"):
        run.clip()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    run.close()


def test_a_call_without_a_run_tells_what_it_did():
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p])
    strategy = SpikeAware(reset_every=25, warmup=10)
    assert strategy.outcome is None
    for _ in range(26):
        p.grad = torch.ones(3)
        strategy([p], optimizer)
        optimizer.step()
    assert strategy.resets == 1
    assert 0 < strategy.outcome.lr_scale < 0.2
    clip = GlobalNorm(0.5)
    clip([p])
    assert clip.outcome.changed
    assert clip.outcome.coefficient == pytest.approx(0.5 / (3**0.5 + 1e-6))
