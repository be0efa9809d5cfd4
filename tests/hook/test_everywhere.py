"""Everywhere clipping happens: every optimizer, scaler, accumulation and step there is.

The oracle is always the loop written by hand: weights to the bit, norms as they truly were.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, prune
from torch.utils.checkpoint import checkpoint

import gradhelm
from gradhelm.clip import AGC, BlockRMS, GlobalNorm, PerParameterNorm, SigmaClip, Value

from .models import losses, small, weights

STEPS = 50
MAX_NORM = 0.15

OPTIMIZERS = {
    "sgd": lambda p, **o: optim.SGD(p, lr=0.1, momentum=0.9, **o),
    "adamw": lambda p, **o: optim.AdamW(p, lr=3e-3, **o),
    "adagrad": lambda p, **o: optim.Adagrad(p, lr=0.05, **o),
    "rmsprop": lambda p, **o: optim.RMSprop(p, lr=3e-3, **o),
    "adafactor": lambda p, **o: optim.Adafactor(p, lr=1e-2, **o),
}
FUSED = ("sgd", "adamw", "adagrad")
WAYS = [
    *itertools.product(OPTIMIZERS, ("foreach", "plain")),
    *((name, "fused") for name in FUSED),
]


def made(name: str, way: str, model: nn.Module) -> optim.Optimizer:
    options = {"foreach": {"foreach": True}, "plain": {"foreach": False}, "fused": {"fused": True}}
    return OPTIMIZERS[name](model.parameters(), **options[way])


class Listener:
    """Stands where the recorder does and keeps what is told."""

    def __init__(self, run: gradhelm.Run, stream: str = "") -> None:
        self.outcomes: list = []
        self.skipped: list[int] = []
        run.streams[stream].recorder = self

    def step(self, step, outcome, places, lr, version) -> None:
        self.outcomes.append((step, outcome, places))

    def without_gradients(self, step, *rest, skipped: bool) -> None:
        (self.skipped if skipped else []).append(step)

    def end(self) -> None:
        pass

    @property
    def norms(self) -> list[float]:
        return [outcome.global_norm.item() for _, outcome, _ in self.outcomes]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_loop_gives_the_hand_written_ones_weights_and_its_true_norms(
    name, way, scaled, accumulation
):
    """With the scaler, one step in ten overflows and is skipped."""
    ours, theirs = small(), small()
    optimizer = made(name, way, ours)
    run = gradhelm.attach(ours, optimizer, max_norm=MAX_NORM, mode="disabled")
    told = Listener(run)
    _loop(ours, optimizer, scaled, accumulation)
    expected: list[float] = []
    _loop(theirs, made(name, way, theirs), scaled, accumulation, by_hand=expected)
    assert weights(ours) == weights(theirs)
    assert told.norms == expected
    assert told.skipped == ([s for s in range(STEPS) if s % 10 == 5] if scaled else [])
    assert run.step == STEPS


def _loop(
    model: nn.Module,
    optimizer: optim.Optimizer,
    scaled: bool,
    accumulation: int,
    by_hand: list[float] | None = None,
) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10, growth_interval=7)
    source = losses(model, STEPS * accumulation)
    for step in range(STEPS):
        optimizer.zero_grad()
        for _ in range(accumulation):
            scaler.scale(next(source) / accumulation).backward()
        if scaled and step % 10 == 5:
            model.decoder.bias.grad[0] = math.inf
        if by_hand is not None:
            scaler.unscale_(optimizer)
            norm = clip_grad_norm_(model.parameters(), MAX_NORM)
            if math.isfinite(norm):
                by_hand.append(norm.item())
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_closure_clips_like_clipping_at_its_end_by_hand(line_search):
    ours, theirs = small(), small()

    def train(model: nn.Module, by_hand: bool) -> None:
        optimizer = optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn=line_search)
        run = (
            None
            if by_hand
            else gradhelm.attach(model, optimizer, max_norm=MAX_NORM, mode="disabled")
        )
        for step in range(8):

            def closure(step=step):
                optimizer.zero_grad()
                loss = next(losses(model, 1, seed=step))
                loss.backward()
                if by_hand:
                    clip_grad_norm_(model.parameters(), MAX_NORM)
                return loss

            optimizer.step(closure)
        assert run is None or run.step == 8

    train(ours, by_hand=False)
    train(theirs, by_hand=True)
    assert weights(ours) == weights(theirs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant):
    def train(model: nn.Module, checkpointed: bool) -> list[float]:
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        told = Listener(gradhelm.attach(model, optimizer, max_norm=0.05, mode="disabled"))
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
        for _ in range(5):
            optimizer.zero_grad()
            middle = (
                checkpoint(model[:2], x, use_reentrant=reentrant) if checkpointed else model[:2](x)
            )
            model[2](middle).pow(2).mean().backward()
            optimizer.step()
        return told.norms

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))

    one, other = net(), net()
    assert train(one, True) == train(other, False)
    assert weights(one) == weights(other)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own
@pytest.mark.parametrize("what", ["step", "whole", "model"])
def test_compiled_steps_are_clipped_and_counted(what):
    def train(model: nn.Module, by_hand: bool) -> list[float]:
        optimizer = optim.Adam(model.parameters(), lr=torch.tensor(1e-2), capturable=False)
        told = None
        if not by_hand:
            run = gradhelm.attach(model, optimizer, max_norm=0.05, mode="disabled")
            told = Listener(run)
        step = optimizer.step
        if what == "step":
            step = torch.compile(optimizer.step, backend="eager")
        elif what == "whole":
            step = torch.compile(lambda: optimizer.step(), backend="eager")
        net = torch.compile(model, backend="eager") if what == "model" else model
        norms = []
        for t in range(6):
            optimizer.zero_grad()
            net(torch.full((4, 3), float(t))).pow(2).mean().backward()
            if by_hand:
                norms.append(clip_grad_norm_(model.parameters(), 0.05).item())
            step()
        return norms if told is None else told.norms

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))

    torch._dynamo.reset()
    one, other = net(), net()
    assert train(one, by_hand=False) == train(other, by_hand=True)
    assert weights(one) == weights(other)


# -- optimizers inside the backward pass ----------------------------------------------------------


def in_backward(model: nn.Module, clip=None, by_hand=None):
    """The loop of torch's tutorial: one optimizer for each parameter, stepping in a hook."""
    each = {p: optim.Adam([p], lr=1e-2, foreach=False) for p in model.parameters()}

    def step(p: torch.Tensor) -> None:
        if by_hand is not None:
            by_hand(p)
        each[p].step()
        each[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    if by_hand is not None:
        return None
    return gradhelm.attach(model, list(each.values()), clip=clip, mode="disabled")


@pytest.mark.parametrize(
    ("clip", "by_hand"),
    [
        (PerParameterNorm(0.05), lambda p: PerParameterNorm(0.05)([p])),
        (Value(0.01), lambda p: clip_grad_value_([p], 0.01)),
        (BlockRMS(0.005), lambda p: BlockRMS(0.005)([p])),
    ],
)
def test_optimizers_inside_backward_are_one_stream(clip, by_hand):
    ours, theirs = small(), small()
    run = in_backward(ours, clip)
    told = Listener(run)
    in_backward(theirs, by_hand=by_hand)
    norms = []
    for loss in losses(ours, 12):
        loss.backward()
    for loss in losses(theirs, 12):
        grads = torch.autograd.grad(loss, list(theirs.parameters()), retain_graph=True)
        norms.append([g.norm().item() for g in grads])
        loss.backward()
    assert weights(ours) == weights(theirs)
    assert run.step == 12
    for (step, outcome, places), expected in zip(told.outcomes, norms, strict=True):
        assert places is None
        assert outcome.norms.tolist() == pytest.approx(expected, rel=1e-6), step
        assert outcome.global_norm.item() == pytest.approx(math.hypot(*expected), rel=1e-6)
        assert outcome.changed


def test_only_a_strategy_that_sees_one_gradient_at_a_time_works_inside_backward():
    with pytest.raises(
        ValueError, match=r"GlobalNorm needs all gradients of a step at once.*use P"
    ):
        in_backward(small(), GlobalNorm(1.0))
    with pytest.raises(ValueError, match=r"11 are given|at most 16 are streams"):
        model = nn.ParameterList([torch.zeros(1) for _ in range(20)])
        gradhelm.attach(
            model, [optim.SGD([p], lr=0.1) for p in model], max_norm=1.0, mode="disabled"
        )


def test_observing_works_inside_backward_and_a_last_short_round_is_told():
    model = small()
    run = in_backward(model)
    told = Listener(run)
    for loss in losses(model, 3):
        loss.backward()
    model.embedding(torch.tensor([1])).sum().backward()
    assert run.step == 3
    run.close()
    assert run.step == 4
    assert told.outcomes[-1][2] == [0]


def test_a_later_run_takes_over_from_a_closed_one_inside_backward_too():
    model = small()
    each = {p: optim.SGD([p], lr=0.1) for p in model.parameters()}
    norms = []

    def step(p: torch.Tensor) -> None:
        each[p].step()
        norms.append(p.grad.norm().item())
        each[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    run = gradhelm.attach(model, list(each.values()), clip=PerParameterNorm(0.01), mode="disabled")
    next(losses(model, 1, scale=100.0)).backward()
    assert norms == pytest.approx([0.01] * 11, rel=1e-5)
    with pytest.raises(ValueError, match="already; close"):
        gradhelm.attach(model, list(each.values()), clip=PerParameterNorm(0.1), mode="disabled")
    run.close()
    gradhelm.attach(model, list(each.values()), clip=PerParameterNorm(0.1), mode="disabled")
    norms.clear()
    next(losses(model, 1, scale=100.0)).backward()
    assert norms == pytest.approx([0.1] * 11, rel=1e-5)


def test_a_dict_of_patterns_works_inside_backward_when_each_rule_does():
    model, twin = small(), small()
    run = in_backward(model, {"lstm.*": Value(0.01), "dec*": PerParameterNorm(0.02)})
    told = Listener(run)
    rules = {id(p): Value(0.01) for p in twin.lstm.parameters()}
    rules |= {id(p): PerParameterNorm(0.02) for p in twin.decoder.parameters()}
    in_backward(twin, by_hand=lambda p: rules[id(p)]([p]) if id(p) in rules else None)
    for one in (model, twin):
        for loss in losses(one, 3):
            loss.backward()
    assert weights(model) == weights(twin)
    assert run.step == 3
    for _, outcome, _ in told.outcomes:
        first, second = outcome.parts
        assert (first.threshold, second.threshold) == (0.01, 0.02)
        assert first.global_norm.item() == pytest.approx(outcome.norms[1:9].norm().item(), rel=1e-6)
        assert second.changed
    with pytest.raises(ValueError, match=r"GlobalNorm needs all gradients.*a dict of patterns"):
        in_backward(small(), {"lstm.*": Value(0.01), "*": GlobalNorm(0.02)})


# -- lost hooks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copied_optimizer_has_lost_its_hooks_and_that_is_said(copier, caplog):
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with gradhelm.attach(model, optimizer, max_norm=1.0, mode="disabled"):
        model, optimizer = copier((model, optimizer))
        for loss in losses(model, 5):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    (record,) = caplog.records
    assert "attach the copy as well" in record.message


def test_two_like_optimizers_at_work_are_no_copies(caplog):
    one, other = small(), small()
    first, second = (optim.SGD(m.parameters(), lr=0.1) for m in (one, other))
    with gradhelm.attach(one, first, max_norm=1.0, mode="disabled"):
        for a, b in zip(losses(one, 9), losses(other, 9), strict=True):
            a.backward()
            b.backward()
            first.step()
            second.step()
            second.step()
    assert not caplog.records


def test_hooks_that_were_taken_off_come_back_and_that_is_said(caplog):
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with gradhelm.attach(model, optimizer, max_norm=1e-3, mode="disabled") as run:
        optimizer._optimizer_step_pre_hooks.clear()
        for loss in losses(model, 3):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 1.01e-3
    assert run.step == 3
    (record,) = caplog.records
    assert "hooks of the attached SGD were gone" in record.message


# -- sparse, pruned and odd gradients -------------------------------------------------------------


def test_sparse_gradients_are_coalesced_and_clipped_like_dense_ones():
    def net(sparse: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(30, 4, sparse=sparse), nn.Flatten(), nn.Linear(24, 2))

    text = torch.randint(30, (5, 6), generator=torch.Generator().manual_seed(1))
    for clip in (GlobalNorm(0.1), Value(0.01), PerParameterNorm(0.05), BlockRMS(0.01)):
        nets = [net(sparse) for sparse in (True, False)]
        told = []
        for model in nets:
            optimizer = optim.SGD(model.parameters(), lr=0.5)
            run = gradhelm.attach(model, optimizer, clip=copy.deepcopy(clip), mode="disabled")
            told.append(Listener(run))
            for _ in range(5):
                optimizer.zero_grad()
                model(text).pow(2).sum().backward()
                optimizer.step()
            assert model[0].weight.grad.is_sparse is (model is nets[0])
        for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        assert told[0].norms == pytest.approx(told[1].norms, rel=1e-6)
        assert all(outcome.changed for _, outcome, _ in told[0].outcomes)


def test_a_pruned_network_is_clipped_like_any_other():
    def net() -> nn.Module:
        model = small()
        prune.l1_unstructured(model.decoder, "weight", 0.5)
        return model

    ours, theirs = net(), net()
    optimizers = [optim.SGD(m.parameters(), lr=0.5) for m in (ours, theirs)]
    with gradhelm.attach(ours, optimizers[0], max_norm=0.1, mode="disabled") as run:
        names = [target.name for target in run.streams[""].layout.targets]
        for a, b in zip(losses(ours, 5), losses(theirs, 5), strict=True):
            for optimizer in optimizers:
                optimizer.zero_grad()
            a.backward()
            b.backward()
            clip_grad_norm_(theirs.parameters(), 0.1)
            for optimizer in optimizers:
                optimizer.step()
    assert weights(ours) == weights(theirs)
    assert "decoder.weight_orig" in names
    assert run.streams[""].layout.targets[names.index("decoder.weight_orig")].mask is not None


def test_scalar_empty_complex_and_half_gradients_are_clipped_together():
    def parameters() -> nn.ParameterList:
        torch.manual_seed(0)
        shapes = [
            torch.randn(()),
            torch.zeros(0, 3),
            torch.randn(4, dtype=torch.complex64),
            torch.randn(5, dtype=torch.bfloat16),
        ]
        made = nn.ParameterList(shapes)
        for p in made:
            p.grad = 3 * torch.ones_like(p)
        return made

    for clip in (GlobalNorm(1.0), PerParameterNorm(1.0), BlockRMS(0.5)):
        model = parameters()
        run = gradhelm.attach(model, clip=clip, mode="disabled")
        told = Listener(run)
        norm = run.clip()
        assert norm.item() == pytest.approx(3 * math.sqrt(1 + 4 + 5), rel=1e-6)
        (_, outcome, _) = told.outcomes[0]
        assert outcome.norms.tolist() == pytest.approx([3, 0, 6, 3 * math.sqrt(5)], rel=1e-6)
        after = math.hypot(*(p.grad.abs().double().norm().item() for p in model))
        assert outcome.post_norm == pytest.approx(after, rel=1e-2)  # bfloat16 holds 3 digits
        assert after < 3.2


def test_pruning_may_begin_and_end_while_training():
    """AGC counts a weight as its layer uses it: times the mask of that moment."""
    model = small()
    weight = model.decoder.weight
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    gradhelm.attach(model, optimizer, clip=AGC(0.01), mode="disabled")

    def rows() -> torch.Tensor:
        """The norms of the clipped rows by what AGC lets them have."""
        weight.grad = torch.full_like(weight, 9.0)
        optimizer.step()
        return weight.grad.norm(dim=1) / 0.01

    whole = weight.detach().clone()
    torch.testing.assert_close(rows(), whole.norm(dim=1))
    for amount in (0.3, 0.5):
        prune.l1_unstructured(model.decoder, "weight", amount)
        pruned = whole * model.decoder.weight_mask
        torch.testing.assert_close(rows(), pruned.norm(dim=1).clamp(min=1e-3))
    prune.remove(model.decoder, "weight")
    torch.testing.assert_close(rows(), pruned.norm(dim=1).clamp(min=1e-3))
    assert model.decoder.weight is weight


@pytest.mark.parametrize(
    "clip", [AGC(0.01), {"*": AGC(0.01)}, SigmaClip(1.0)], ids=["one", "dict", "adam"]
)
def test_a_sparse_gradient_that_comes_unannounced_is_refused_by_name(clip):
    model = nn.ParameterList([torch.ones(10, 3)])
    optimizer = optim.SparseAdam(model.parameters())
    gradhelm.attach(model, optimizer, clip=copy.deepcopy(clip), mode="disabled")
    nn.functional.embedding(torch.tensor([1]), model[0], sparse=True).sum().backward()
    with pytest.raises(ValueError, match=r"cannot clip sparse gradients.*use GlobalNorm or Value"):
        optimizer.step()


# -- parameters that come and go ------------------------------------------------------------------


def test_a_loop_of_ones_own_clips_what_it_unfreezes_later(caplog):
    model, twin = small(), small()
    model.embedding.requires_grad_(False)
    model.lstm.requires_grad_(False)
    run = gradhelm.attach(model, max_norm=0.05, mode="disabled")
    for step in range(4):
        if step >= 1:
            model.lstm.requires_grad_(step != 2)
            model.embedding.requires_grad_(step == 3)
        for one in (model, twin):
            one.zero_grad()
            next(losses(one, 1, seed=step)).backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = None if p.grad is None else q.grad
        norm = clip_grad_norm_(twin.parameters(), 0.05)
        assert run.clip().item() == pytest.approx(norm.item(), rel=1e-6)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert p.grad is q.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-6, atol=0)
    assert "added to the optimizer after attach, or unfrozen" in caplog.text


def test_parameters_that_take_the_place_of_others_are_clipped_and_the_others_count_no_more():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    run = gradhelm.attach(model, optimizer, max_norm=0.01, mode="disabled")
    told = Listener(run)
    one = next(losses(model, 1))
    one.backward()
    optimizer.step()
    model.decoder = nn.Linear(12, 20)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    optimizer.zero_grad()
    next(losses(model, 1)).backward()
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
    optimizer.step()
    assert told.norms[1] == pytest.approx(expected, rel=1e-6)
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 0.0101
