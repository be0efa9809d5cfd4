"""What the ranks of test_sharded.py do: all checks for two ranks in one pair of processes, those
for four in another job.

``python -m hook.shards RANK RANKS FOLDER``: writes ``FOLDER/RANK.json``, for each check "" or what
went wrong. A rank that fails a check would leave the other waiting in a collective: both give up there,
and what was not reached is said to be so.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import io
import json
import logging
import math
import os
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.utils import clip_grad_norm_, get_total_norm

import gradhelm
from gradhelm import clip, notice, unread
from gradhelm.clip import (
    AGC,
    Ceiling,
    GlobalNorm,
    Gradients,
    Outcome,
    PerParameterNorm,
    Preconditioned,
    Schedule,
    SpikeAware,
    Strategy,
    UpdateClipped,
    Value,
)

from .fake_server import fake_server
from .test_every_strategy import Sophia
from .test_everywhere import Listener

STEPS = 50
CLOSE = 1e-6
"""How far norms and weights may be from those of one process, relative to their size."""
CHECKS: dict[str, Callable[[], None]] = {}
FOUR: dict[str, Callable[[], None]] = {}
"""Those of meshes with two dimensions, for four ranks."""
STRATEGIES: dict[str, Callable[[], object]] = {
    "AGC": lambda: AGC(0.02, exclude=["head.weight"]),
    "AdaGC": lambda: clip.AdaGC(warmup=5),
    "AutoClip": lambda: clip.AutoClip(30, window=20),
    "BlockRMS": lambda: clip.BlockRMS(0.01),
    "Ceiling": lambda: Ceiling(Value(0.03), 0.1),
    "Curvature": lambda: clip.Curvature(0.5),
    "GlobalNorm": lambda: GlobalNorm(0.2),
    "Normalize": lambda: clip.Normalize(0.1),
    "PerModuleNorm": lambda: clip.PerModuleNorm(0.05),
    "PerParameterNorm": lambda: PerParameterNorm(0.05),
    "Preconditioned": lambda: Preconditioned(5.0),
    "Schedule": lambda: Schedule(clip.TargetFraction(0.3), "cosine", steps=20, factor=0.5),
    "SigmaClip": lambda: clip.SigmaClip(1.0, warmup=5),
    "SkipStep": lambda: clip.SkipStep(1.0, window=20),
    "SoftNorm": lambda: clip.SoftNorm(0.1, kind="tanh"),
    "SpikeAware": lambda: SpikeAware(2.0, reset_every=25, warmup=10),
    "TargetFraction": lambda: clip.TargetFraction(0.3),
    "UpdateRMS": lambda: clip.UpdateRMS(0.5),
    "Value": lambda: Value(0.03),
    "ZClip": lambda: clip.ZClip(1.5, warmup=5),
}
PUT_TOGETHER: dict[str, Callable[[], object]] = {
    "patterns": lambda: {"embedding.*": Value(0.03), "conv.*": AGC(0.01), "*": GlobalNorm(0.1)},
    "some patterns": lambda: {"conv.*": GlobalNorm(0.05, norm_type=1.0), "head.*": Value(0.01)},
    "largest": lambda: GlobalNorm(0.05, norm_type=math.inf),
}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def check_of_four(function: Callable[[], None]) -> Callable[[], None]:
    FOUR[function.__name__] = function
    return function


class Net(nn.Module):
    """No dimension can be halved evenly, and of two parameters the second rank has nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.conv = nn.Conv1d(5, 7, 2)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 1)

    def forward(self, text: Tensor) -> Tensor:
        seen = self.conv(self.embedding(text).transpose(1, 2)).transpose(1, 2)
        return self.head(torch.tanh(self.norm(seen))).mean(1)


def net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def sharded(
    mesh: DeviceMesh | None = None, nested: bool = False, dtype: torch.dtype = torch.float32
) -> Net:
    model = net(dtype)
    options = {} if mesh is None else {"mesh": mesh}
    if nested:
        fully_shard(model.conv, **options)
    return fully_shard(model, **options)


def loss(model: nn.Module, step: int, part: int, spiky: bool = True) -> Tensor:
    """One rank's part of a step's batch; now and then the targets are far off."""
    generator = torch.Generator().manual_seed(1000 * step + part)
    text = torch.randint(11, (4, 6), generator=generator)
    aims = torch.randn(4, 1, generator=generator) * (8.0 if spiky and step % 7 == 3 else 1.0)
    found = model(text)
    return nn.functional.mse_loss(found, aims.to(found.dtype))


def backward(model: nn.Module, step: int, whole: bool, ranks: int = 2) -> None:
    """Gradients averaged over the ranks, by ``fully_shard`` or (``whole``) in one process."""
    if not whole:
        loss(model, step, dist.get_rank()).backward()
        return
    for part in range(ranks):
        (loss(model, step, part) / ranks).backward()


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def close(found: Tensor, expected: Tensor, what: object = "") -> None:
    found, expected = full(found.detach()).double(), expected.detach().double()
    assert found.shape == expected.shape, what
    apart = torch.linalg.vector_norm(found - expected)
    size = torch.linalg.vector_norm(expected)
    assert apart <= CLOSE * size, (what, (apart / size).item(), found, expected)


def alike(one: nn.Module, other: nn.Module) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        close(p, q, name)


@contextlib.contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    with pytest.raises(kind) as raised:
        yield
    assert all(word in str(raised.value) for word in words), raised.value


def counted() -> list[Tensor]:
    """The all-reduces from here on."""
    seen: list[Tensor] = []

    def counting(tensor: Tensor, *rest: object, **named: object) -> object:
        seen.append(tensor.clone())
        return ALL_REDUCE(tensor, *rest, **named)

    dist.all_reduce = counting
    return seen


ALL_REDUCE = dist.all_reduce


def given(model: nn.Module, value: Callable[[Tensor], Tensor] = torch.ones_like) -> None:
    """Gradients without a forward pass."""
    for p in model.parameters():
        p.grad = value(p.detach())


# Of DTensors this takes a third of the plain loop's time.
adam = functools.partial(optim.AdamW, foreach=True)
sophia = functools.partial(Sophia, foreach=True)


# -- as in one process ----------------------------------------------------------------------------


def trained(
    whole: bool,
    made: Callable[[], object],
    kind: Callable[..., optim.Optimizer] = adam,
    steps: int = STEPS,
) -> tuple[nn.Module, list[tuple[int, Outcome, object]], gradhelm.Run]:
    model = net() if whole else sharded()
    optimizer = kind(model.parameters(), lr=1e-2)
    run = gradhelm.attach(model, optimizer, clip=made(), mode="disabled")
    told = Listener(run)
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step, whole)
        optimizer.step()
    return model, told.outcomes, run


def as_one_process(made: Callable[[], object], kind: Callable[..., optim.Optimizer]) -> None:
    ours, told, run = trained(False, made, kind)
    theirs, expected, _ = trained(True, made, kind)
    assert run.step == STEPS
    assert [step for step, *_ in told] == [step for step, *_ in expected]
    acted = False
    for (step, a, _), (_, b, _) in zip(told, expected, strict=True):
        same_outcome(a, b, step)
        acted |= bool(b.changed or b.skipped or b.share or (b.coefficients is not None))
    assert acted
    alike(ours, theirs)
    for target, p in zip(run.streams[""].layout.targets, theirs.parameters(), strict=True):
        assert target.parameter.shape == p.shape
    columns = {c.name: c for c in run.streams[""].columns}
    assert columns["norm/conv.weight"].shape == (7, 5, 2)


def same_outcome(a: Outcome, b: Outcome, step: object) -> None:
    close(a.norms, b.norms, step)
    close(a.global_norm, b.global_norm, step)
    assert (a.changed, a.skipped, a.lr_scale) == (b.changed, b.skipped, b.lr_scale), step
    assert a.share == b.share, (step, a.share, b.share)
    for one, other in ((a.threshold, b.threshold), (a.coefficient, b.coefficient)):
        assert (one is None) is (other is None), step
        assert one is None or math.isclose(one, other, rel_tol=CLOSE), (step, one, other)
    # Where that costs a pass it is measured now and then.
    if a.post_norm is not None and b.post_norm is not None:
        assert math.isclose(a.post_norm, b.post_norm, rel_tol=CLOSE), step
    for one, other in ((a.coefficients, b.coefficients), (a.thresholds, b.thresholds)):
        if other is None:
            assert one is None, step
        else:
            close(one.nan_to_num(7.0), other.nan_to_num(7.0), step)
    for one, other in zip(a.parts, b.parts, strict=True):
        same_outcome(one, other, step)


for _name, _made in STRATEGIES.items():
    CHECKS[f"strategy {_name}"] = (
        lambda made=_made, kind=(Sophia if _name == "Curvature" else optim.AdamW): as_one_process(
            made, kind
        )
    )
for _name, _made in PUT_TOGETHER.items():
    CHECKS[f"together {_name}"] = lambda made=_made: as_one_process(made, adam)


@check
def sgd_with_momentum() -> None:
    as_one_process(lambda: GlobalNorm(0.2), lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9))


@check
def a_ceiling_over_units() -> None:
    """By SGD: Adam makes much of the rounding where a gradient is next to nothing."""
    as_one_process(lambda: Ceiling(AGC(0.02), 0.05), optim.SGD)


@check
def parameter_groups() -> None:
    def grouped(parameters, lr):
        held = list(parameters)
        return optim.AdamW([{"params": held[:3]}, {"params": held[3:]}], lr=lr)

    as_one_process(lambda: [Value(0.03), GlobalNorm(0.05)], grouped)


@check
def torchs_own_clip_is_the_oracle() -> None:
    """Of DTensors, by all-reduces of its own. (Its largest norm is no oracle: of a shard without
    elements it raises, on that rank alone.)"""
    for norm_type in (2.0, 1.0):
        ours, theirs = sharded(), sharded()
        for step in range(5):
            for model in (ours, theirs):
                model.zero_grad()
                backward(model, step, whole=False)
            norm = clip_grad_norm_(theirs.parameters(), 0.1, norm_type).full_tensor()
            found = GlobalNorm(0.1, norm_type)(ours.parameters())
            assert type(found) is Tensor
            close(found, norm, norm_type)
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                close(p.grad, full(q.grad))


@check
def every_norm_type() -> None:
    """Against the whole gradients, each shard's and all together; the second rank has nothing of
    two of them."""
    for norm_type in (2.0, 1.0, 0.0, 0.5, 3.5, -1.0, -2.0, math.inf, -math.inf):
        model = sharded()
        backward(model, 0, whole=False)
        assert norm_type >= 0 or (model.embedding.weight.grad.full_tensor() != 0).any()
        whole = [full(p.grad) for p in model.parameters()]
        strategy = GlobalNorm(1e9, norm_type)
        total = strategy(model.parameters())
        expected = [torch.linalg.vector_norm(g, norm_type) for g in whole]
        close(strategy.outcome.norms, torch.stack(expected), norm_type)
        close(total, get_total_norm(whole, norm_type), norm_type)


@check
def a_parameter_without_elements() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for norm_type in (2.0, math.inf, -math.inf, -1.0):
        empty, one = (
            nn.Parameter(distribute_tensor(t, mesh, [Shard(0)]))
            for t in (torch.zeros(0, 3), torch.full((1, 2), 3.0))
        )
        for p in (empty, one):
            p.grad = distribute_tensor(full(p.detach()), mesh, [Shard(0)])
        strategy = GlobalNorm(1e9, norm_type)
        total = strategy([empty, one])
        wanted = torch.linalg.vector_norm(torch.full((2,), 3.0), norm_type)
        close(total, wanted)
        assert strategy.outcome.norms.tolist() == [0.0, wanted.item()]


# -- what is replicated counts once ---------------------------------------------------------------


@check
def replicas_of_shards() -> None:
    """HSDP: two replicas of one shard each; and both over a mesh of two dimensions."""
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    for made in (lambda: GlobalNorm(0.1), lambda: Value(0.01), lambda: AGC(0.02)):
        ours, theirs = sharded(mesh, nested=True), net()
        mine, other = made(), made()
        for step in range(3):
            ours.zero_grad()
            theirs.zero_grad()
            backward(ours, step, whole=False)
            backward(theirs, step, whole=True)
            mine(ours.parameters())
            other(theirs.parameters())
            same_outcome(mine.outcome, other.outcome, step)
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                close(p.grad, q.grad)


def mixed() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Shards of two meshes, along either dimension, replicas and plain parameters; and all whole."""
    torch.manual_seed(3)
    first, second = (init_device_mesh("cpu", (2,)) for _ in range(2))
    layouts = [
        (torch.randn(5, 3), first, [Shard(0)]),
        (torch.randn(4, 3), second, [Shard(1)]),
        (torch.randn(6), first, [Replicate()]),
        (torch.randn(2, 2), None, []),
        (torch.randn(3, dtype=torch.float64), first, [Shard(0)]),
    ]
    ours, theirs = [], []
    for weight, mesh, placements in layouts:
        grad = 3 * torch.randn_like(weight)
        theirs.append(nn.Parameter(weight.clone()))
        theirs[-1].grad = grad.clone()
        if mesh is not None:
            weight = distribute_tensor(weight, mesh, placements)
            grad = distribute_tensor(grad, mesh, placements)
        ours.append(nn.Parameter(weight))
        ours[-1].grad = grad
    return ours, theirs


@check
def meshes_and_whole_parameters_together() -> None:
    for made in (
        lambda: GlobalNorm(1.0),
        lambda: GlobalNorm(1.0, math.inf),
        lambda: PerParameterNorm(2.0),
        lambda: Value(1.0),
        lambda: AGC(0.05, exclude="1"),
        lambda: clip.BlockRMS(2.0),
    ):
        (ours, theirs), mine, other = mixed(), made(), made()
        close(mine(ours), other(theirs))
        same_outcome(mine.outcome, other.outcome, mine)
        assert mine.outcome.changed
        for p, q in zip(ours, theirs, strict=True):
            close(p.grad, q.grad)


@check
def gradients_that_are_still_sums_are_made_whole() -> None:
    mesh = init_device_mesh("cpu", (2,))
    weight = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Replicate()]))
    weight.grad = DTensor.from_local(torch.full((4,), 1.0 + dist.get_rank()), mesh, [Partial()])
    norm = GlobalNorm(0.6)([weight])
    close(norm, torch.tensor(6.0))
    close(weight.grad, torch.full((4,), 0.3))


@check_of_four
def two_replicas_of_two_shards() -> None:
    """HSDP on four ranks, each with its part of the batch."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for made in (lambda: GlobalNorm(0.2), lambda: AGC(0.02), lambda: {"*": Value(0.01)}):
        # Four parts are added in another order than one process adds them.
        ours, theirs = sharded(mesh, dtype=torch.float64), net(torch.float64)
        told = []
        for model in (ours, theirs):
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            told.append(Listener(gradhelm.attach(model, optimizer, clip=made(), mode="disabled")))
            for step in range(15):
                optimizer.zero_grad()
                backward(model, step, whole=model is theirs, ranks=4)
                optimizer.step()
        for (step, a, _), (_, b, _) in zip(*(one.outcomes for one in told), strict=True):
            same_outcome(a, b, step)
        alike(ours, theirs)


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(self.norm(x)))).clone()


@check_of_four
def tensor_parallel_layers_that_are_sharded_besides() -> None:
    """Weights sharded along both dimensions, a bias that is a replica, and plain layers."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    part = mesh["data"].get_local_rank()

    def batch(step: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(10 * step + number)
        return torch.randn(4, 6, generator=generator, dtype=torch.float64)

    for made in (
        lambda: GlobalNorm(0.2),
        lambda: GlobalNorm(0.05, math.inf),
        lambda: PerParameterNorm(0.05),
        lambda: Value(0.01),
        lambda: AGC(0.02, exclude="down.weight"),
    ):
        torch.manual_seed(0)
        ours = Parallel().double()  # tensor parallelism adds in another order
        theirs = copy.deepcopy(ours)
        parallelize_module(
            ours, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()}
        )
        fully_shard(ours, mesh=mesh["data"])
        assert len(ours.down.weight.placements) == 2
        told = []
        for model in (ours, theirs):
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            told.append(Listener(gradhelm.attach(model, optimizer, clip=made(), mode="disabled")))
            for step in range(10):
                optimizer.zero_grad()
                if model is ours:
                    model(batch(step, part)).square().mean().backward()
                else:
                    for number in range(2):
                        (model(batch(step, number)).square().mean() / 2).backward()
                optimizer.step()
        for (step, a, _), (_, b, _) in zip(*(one.outcomes for one in told), strict=True):
            same_outcome(a, b, step)
            assert a.changed
        alike(ours, theirs)


# -- all ranks do the same ------------------------------------------------------------------------


@check
def one_all_reduce_a_step_however_many_parameters() -> None:
    wanted = {
        "GlobalNorm": 1,
        "PerParameterNorm": 1,
        "AdaGC": 1,
        "ZClip": 1,
        "BlockRMS": 1,
        "Preconditioned": 1,
        "UpdateRMS": 2,  # the norms, and the sums
        "Value": 2,  # the norms, and the elements
        "SigmaClip": 2,
        "AGC": 2,  # the units that no rank has alone, and all norms and elements
    }
    for name, count in wanted.items():
        model = sharded()
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        gradhelm.attach(model, optimizer, clip=STRATEGIES[name](), mode="disabled")
        for step in range(3):
            optimizer.zero_grad()
            backward(model, step, whole=False)
            seen = counted()
            try:
                optimizer.step()
            finally:
                dist.all_reduce = ALL_REDUCE
            # Every tenth step also measures what is left.
            assert len(seen) == count + (name == "Value" and step == 0), (name, step, len(seen))
            assert all(one.dtype == torch.float64 for one in seen)
    for name, made in STRATEGIES.items():
        if name not in ("AGC", "Curvature"):  # by names, and of another optimizer
            model, strategy = sharded(), made()
            backward(model, 0, whole=False)
            with CommDebugMode() as told:
                strategy(model.parameters(), optim.AdamW(model.parameters()))
            # A ceiling measures what the value clip has left.
            most = 3 if name == "Ceiling" else 2
            assert 1 <= told.get_total_counts() <= most, (name, told.get_comm_counts())
            assert list(told.get_comm_counts()) == [torch.ops.c10d.allreduce_], name
    ours, _ = mixed()
    seen = counted()
    try:
        GlobalNorm(1.0)(ours)
    finally:
        dist.all_reduce = ALL_REDUCE
    groups = {p.device_mesh.get_group(0).group_name for p in ours if isinstance(p, DTensor)}
    assert len(seen) == len(groups), (len(seen), groups)


@check
def whole_gradients_are_never_told_to_others() -> None:
    model = net()
    seen = counted()
    try:
        backward(model, 0, whole=True)
        strategy = GlobalNorm(0.1)
        strategy(model.parameters())
    finally:
        dist.all_reduce = ALL_REDUCE
    assert not seen
    assert strategy._gather == Gradients.of


@check
def what_is_not_finite_in_one_shard_is_seen_by_all() -> None:
    """The second rank has it; the first acts on it all the same."""
    for bad in (math.nan, math.inf):
        for norm_type in (2.0, math.inf):
            for policy in ("zero", "skip", "raise", "propagate"):
                model = sharded()
                optimizer = optim.SGD(model.parameters(), lr=0.1)
                gradhelm.attach(
                    model,
                    optimizer,
                    clip=GlobalNorm(0.1, norm_type, nonfinite=policy),
                    mode="disabled",
                )
                before = [full(p.detach()).clone() for p in model.parameters()]
                backward(model, 0, whole=False)
                if dist.get_rank() == 1:
                    model.conv.weight.grad.to_local()[-1] = bad
                if policy == "raise":
                    with refused(RuntimeError, "non-finite"):
                        optimizer.step()
                    continue
                optimizer.step()
                now = [full(p.detach()) for p in model.parameters()]
                if policy in ("zero", "skip"):
                    assert all(map(torch.equal, before, now)), (bad, norm_type, policy)
                elif bad != bad:
                    assert all(p.isnan().all() for p in now), norm_type
                else:
                    assert now[1].isnan().any()
                    assert torch.equal(now[0], before[0])


@check
def skipped_and_spiked_steps_are_the_same_on_all_ranks() -> None:
    strategies = [clip.SkipStep(0.5, window=20), clip.ZClip(1.0, warmup=4), clip.AutoClip(20)]
    for strategy in strategies:
        _, told, run = trained(False, lambda one=strategy: one, optim.SGD, steps=40)
        mine = [(o.changed, o.skipped, o.threshold, o.global_norm.item()) for _, o, _ in told]
        both: list = [None, None]
        dist.all_gather_object(both, (mine, run.state_dict()["streams"][""]["strategy"]["values"]))
        assert both[0] == both[1]
        assert any(changed or skipped for changed, skipped, *_ in mine)


# -- loops ----------------------------------------------------------------------------------------


@check
def gradients_accumulated_without_synchronising() -> None:
    def loop(whole: bool) -> nn.Module:
        model = net() if whole else sharded(nested=True)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        run = gradhelm.attach(model, optimizer, max_norm=0.1, mode="disabled")
        for step in range(10):
            optimizer.zero_grad()
            for micro in range(3):
                if not whole:
                    model.set_requires_gradient_sync(micro == 2)
                backward(model, 3 * step + micro, whole)
            optimizer.step()
        assert run.step == 10
        return model

    alike(loop(False), loop(True))


@check
def attached_after_a_forward_pass_alone() -> None:
    """It leaves the outermost module with gathered parameters, which nobody steps."""
    for with_optimizer in (False, True):
        model, twin = sharded(nested=True), net()
        optimizer = optim.SGD(model.parameters(), lr=0.1) if with_optimizer else None
        with torch.no_grad():
            loss(model, 0, 0)
        assert not isinstance(model.head.weight, DTensor)
        run = gradhelm.attach(model, optimizer, max_norm=0.05, mode="disabled")
        assert all(isinstance(t.parameter, DTensor) for t in run.streams[""].layout.targets)
        names = [t.name for t in run.streams[""].layout.targets]
        assert names == [name for name, _ in twin.named_parameters()]
        backward(model, 0, whole=False)
        backward(twin, 0, whole=True)
        optimizer.step() if with_optimizer else run.clip()
        clip_grad_norm_(twin.parameters(), 0.05)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            close(p.grad, q.grad)


@check
def a_loop_of_ones_own_with_frozen_and_thawed_parameters() -> None:
    def loop(whole: bool) -> tuple[nn.Module, list[float]]:
        model = net()
        model.embedding.requires_grad_(False)
        if not whole:
            fully_shard(model)
        run = gradhelm.attach(model, max_norm=0.05, mode="disabled")
        norms = []
        for step in range(6):
            if step == 3:
                model.embedding.requires_grad_(True)
            model.zero_grad()
            backward(model, step, whole)
            norms.append(run.clip().item())
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.1 * p.grad
        return model, norms

    logging.disable(logging.WARNING)
    try:
        (ours, found), (theirs, expected) = loop(False), loop(True)
    finally:
        logging.disable(logging.NOTSET)
    alike(ours, theirs)
    close(torch.tensor(found), torch.tensor(expected))


@check
def parameters_without_a_gradient_on_a_step() -> None:
    def loop(whole: bool) -> tuple[nn.Module, list]:
        model = net() if whole else sharded()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        run = gradhelm.attach(
            model, optimizer, clip={"head.*": Value(0.01), "*": GlobalNorm(0.1)}, mode="disabled"
        )
        told = Listener(run)
        for step in range(6):
            optimizer.zero_grad()
            backward(model, step, whole)
            if step % 2:
                model.conv.weight.grad = model.head.bias.grad = None
            if step == 4:
                model.head.weight.grad = None
            optimizer.step()
        return model, told.outcomes

    (ours, told), (theirs, expected) = loop(False), loop(True)
    alike(ours, theirs)
    for (step, a, places), (_, b, others) in zip(told, expected, strict=True):
        assert places == others
        same_outcome(a, b, step)


@check
def a_scaler_that_finds_infinite_gradients_skips_on_all_ranks() -> None:
    for fused in (False, True):

        def loop(whole: bool, fused: bool = fused) -> tuple[nn.Module, Listener]:
            model = net() if whole else sharded(nested=True)
            optimizer = optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
            told = Listener(gradhelm.attach(model, optimizer, max_norm=0.1, mode="disabled"))
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            for step in range(8):
                optimizer.zero_grad()
                if whole:
                    for part in range(2):
                        scaler.scale(loss(model, step, part) / 2).backward()
                else:
                    scaler.scale(loss(model, step, dist.get_rank())).backward()
                if step == 5:
                    grad = model.conv.weight.grad
                    if whole:
                        grad[-1] = math.inf
                    elif dist.get_rank() == 1:
                        grad.to_local()[-1] = math.inf
                scaler.step(optimizer)
                scaler.update()
            return model, told

        (ours, told), (theirs, expected) = loop(False), loop(True)
        alike(ours, theirs)
        assert told.skipped == expected.skipped == [5]
        close(torch.tensor(told.norms), torch.tensor(expected.norms))


@check
def an_adam_whose_updates_are_clipped() -> None:
    def loop(whole: bool) -> nn.Module:
        model = net() if whole else sharded()
        optimizer = UpdateClipped(optim.AdamW(model.parameters(), lr=1e-2), d=0.7)
        for step in range(12):
            optimizer.zero_grad()
            backward(model, step, whole)
            optimizer.step()
        return model

    alike(loop(False), loop(True))


@check
def a_stopped_run_goes_on() -> None:
    _, _, run = trained(False, lambda: clip.AdaGC(warmup=3), steps=12)
    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    file.seek(0)
    model = sharded()
    again = gradhelm.attach(
        model, optim.AdamW(model.parameters()), clip=clip.AdaGC(warmup=3), mode="disabled"
    )
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.step == 12
    assert torch.equal(again.streams[""].strategy.gammas, run.streams[""].strategy.gammas)


@check
def strategies_that_clipped_shards_can_be_copied() -> None:
    model = sharded()
    backward(model, 0, whole=False)
    strategy = GlobalNorm(0.1)
    norm = strategy(model.parameters())
    strategy.outcome = None
    for other in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert other(model.parameters()).item() < norm.item()


@check
def a_gpus_steps_are_clipped_without_reading_a_number() -> None:
    """On CPU tensors: the path that is taken on a GPU."""
    unread.DEVICES.append("cpu")
    try:
        ours, told, _ = trained(False, lambda: GlobalNorm(0.2), optim.SGD, steps=5)
    finally:
        unread.DEVICES.remove("cpu")
    theirs, expected, _ = trained(True, lambda: GlobalNorm(0.2), optim.SGD, steps=5)
    for (step, a, _), (_, b, _) in zip(told, expected, strict=True):
        assert a.coefficient is None
        close(a.norms, b.norms, step)
        close(a.global_norm, b.global_norm, step)
        close(a.factor, torch.tensor(b.coefficient), step)
    alike(ours, theirs)


@check
def verify_sees_a_backward_pass_after_the_clip() -> None:
    for late in (False, True):
        model = sharded()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        run = gradhelm.attach(model, max_norm=0.05, mode="disabled")
        seen = gradhelm.verify(run, steps=2)
        for step in range(2):
            optimizer.zero_grad()
            backward(model, step, whole=False)
            run.clip()
            if late:
                backward(model, step + 10, whole=False)
            optimizer.step()
        assert seen.done
        assert [finding.kind for finding in seen.findings] == ["before_backward"] * late


@check
def the_first_rank_reports_whole_norms() -> None:
    """It alone has a recorder: it must not be the only one to measure anything."""
    first = dist.get_rank() == 0
    theirs = net()
    with fake_server() if first else contextlib.nullcontext() as server:
        ours = sharded()
        optimizer = optim.SGD(ours.parameters(), lr=0.1)
        url = server.url if server else "http://127.0.0.1:9"
        run = gradhelm.attach(ours, optimizer, clip=Value(0.01), server=url)
        assert (run.streams[""].recorder is not None) is first
        for step in range(25):
            optimizer.zero_grad()
            backward(ours, step, whole=False)
            optimizer.step()
        run.close()
        table = server.table() if server else {}
    stepped = optim.SGD(theirs.parameters(), lr=0.1)
    twin = Value(0.01)
    for step in range(25):
        stepped.zero_grad()
        backward(theirs, step, whole=True)
        twin(theirs.parameters())
        stepped.step()
        if first:
            row, outcome = table[step], twin.outcome
            close(torch.tensor(row["global_norm"]), outcome.global_norm)
            for (name, _), norm in zip(theirs.named_parameters(), outcome.norms, strict=True):
                close(torch.tensor(row[f"norm/{name}"]), norm, name)
            assert math.isclose(row["clip_share"], outcome.share, rel_tol=CLOSE)
            left = get_total_norm([p.grad for p in theirs.parameters()]).item()
            assert ("post_norm" in row) is (step % 10 == 0)
            assert step % 10 or math.isclose(row["post_norm"], left, rel_tol=CLOSE)
    assert not first or sorted(table) == list(range(25))


@check
def a_watching_run_measures_and_changes_nothing() -> None:
    model, twin = sharded(), sharded()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    told = Listener(gradhelm.attach(model, optimizer, mode="disabled"))
    backward(model, 0, whole=False)
    backward(twin, 0, whole=False)
    optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(full(p.grad), full(q.grad))
    close(
        torch.tensor(told.norms[0]),
        get_total_norm([full(p.grad) for p in twin.parameters()]),
    )


# -- one of the user's own ------------------------------------------------------------------------


class Halve(Strategy):
    threshold_name = "above"

    def __init__(self, above: float) -> None:
        super().__init__(above=above)

    def clip(self, grads: Gradients) -> Outcome:
        above = bool(grads.global_norm > self["above"])
        return grads.by_norm(self["above"], torch.tensor(0.5 if above else 1.0))


class HalveShards(Halve):
    takes_sharded = True


class Loose(HalveShards):
    """Counts what it changes, but not by gradients."""

    def clip(self, grads: Gradients) -> Outcome:
        return grads.by_elements(1, self["above"])


@check
def a_strategy_of_ones_own_says_that_it_takes_shards() -> None:
    model = sharded()
    backward(model, 0, whole=False)
    whole = get_total_norm([full(p.grad) for p in model.parameters()])
    with refused(ValueError, "Halve does not say", "takes_sharded", "sharded"):
        Halve(0.01)(model.parameters())
    with refused(ValueError, "Halve does not say", "embedding.weight"):
        gradhelm.attach(model, clip={"*": Halve(0.01)}, mode="disabled")
    close(HalveShards(0.01)(model.parameters()), whole)
    close(GlobalNorm(9.0)(model.parameters()), whole / 2)
    with refused(ValueError, "by_elements needs the number of changed elements of each"):
        Loose(0.01)(model.parameters())


# -- refused --------------------------------------------------------------------------------------


@check
def what_cannot_be_done_with_shards_is_refused_by_name() -> None:
    model = sharded()
    fused = optim.AdamW(model.parameters(), fused=True)
    with refused(ValueError, "exact=False is for whole gradients", "embedding.weight"):
        gradhelm.attach(model, fused, clip=GlobalNorm(1.0, exact=False), mode="disabled")
    with refused(ValueError, "measure_every must be 0", "embedding.weight"):
        gradhelm.attach(model, fused, max_norm=1.0, measure_every=5, mode="disabled")
    each = [optim.SGD([p], lr=0.1) for p in model.parameters()]
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: None)
    with refused(ValueError, "inside backward cannot be used with sharded", "embedding.weight"):
        gradhelm.attach(model, each, clip=Value(1.0), mode="disabled")

    class Factored(optim.SGD):
        pass

    factored = Factored(model.parameters(), lr=0.1)
    factored.defaults["matrix_eps"] = 1e-6
    with refused(ValueError, "cannot read the factors of Factored", "Adam and its kin"):
        gradhelm.attach(model, factored, clip=Preconditioned(1.0), mode="disabled")


@check
def layouts_that_cannot_be_clipped_are_refused_by_name() -> None:
    mesh = init_device_mesh("cpu", (2,))
    odd = nn.ParameterList([DTensor.from_local(torch.ones(2), mesh, [Partial()])])
    with refused(ValueError, "the DTensor 0, which is", "accepted: Shard and Replicate"):
        gradhelm.attach(odd, max_norm=1.0, mode="disabled")
    across = nn.ParameterDict({"w": distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)])})
    with refused(ValueError, "w, which is sharded within its units", "along dimension 0"):
        gradhelm.attach(across, clip=AGC(0.01), mode="disabled")
    gradhelm.attach(across, clip=AGC(0.01, exclude="w"), mode="disabled")

    pruned = net()
    nn.utils.prune.l1_unstructured(pruned.head, "weight", 0.5)
    fully_shard(pruned)
    with refused(ValueError, "head.weight_orig, which is both pruned and sharded"):
        gradhelm.attach(pruned, clip=AGC(0.01), mode="disabled")


@check
def flat_parameters_are_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in ({}, {"use_orig_params": True}):
            model = nn.Sequential(
                FullyShardedDataParallel(net(), device_id=torch.device("cpu"), **options)
            )
            with refused(
                ValueError, "FullyShardedDataParallel", "torch.distributed.fsdp.fully_shard"
            ):
                gradhelm.attach(model, max_norm=1.0, mode="disabled")


@check
def deepspeed_is_refused_by_name() -> None:
    class DeepSpeedZeroOptimizer:
        __module__ = "deepspeed.runtime.zero.stage_1_and_2"

    model = net()
    for optimizer in (DeepSpeedZeroOptimizer(), {"one": DeepSpeedZeroOptimizer()}):
        with refused(ValueError, "DeepSpeedZeroOptimizer", "torch.distributed.fsdp.fully_shard"):
            gradhelm.attach(model, optimizer, max_norm=1.0, mode="disabled")
    model.head.weight.ds_id = 3
    with refused(ValueError, "ZeRO stage 3", "torch.distributed.fsdp.fully_shard"):
        gradhelm.attach(model, max_norm=1.0, mode="disabled")


def main() -> None:
    rank, ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    checks = FOUR if ranks == 4 else CHECKS
    notice.strict = True
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meet").as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=20),
    )
    only = os.environ.get("SHARDS_ONLY")
    found = dict.fromkeys(checks, "not reached: an earlier check failed")
    for name, function in checks.items():
        if only and re.search(only, name) is None:
            continue
        try:
            function()
            dist.barrier()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
            break
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
