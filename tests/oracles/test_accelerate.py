"""Accelerate: same weights as by its own clip, one clip a step, and a threshold that moves."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import ClassVar

import accelerate
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from support import ROOT, ROOTS, Running, free_port
from torch import Tensor, nn

import gradhelm
from gradhelm import notice
from gradhelm.clip import Value
from gradhelm.integrations import accelerate as ours

from .frameworks import CODED, bits, remote, runs_named, series

TESTS = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notice, "strict", True)
    ours._warn.cache_clear()
    yield
    while Loop.runs:
        Loop.runs.pop().close()
    reset()


def reset() -> None:
    """Accelerate's settings are of the process; here each loop has its own."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Speaker(nn.Module):
    """A small recurrent model; its loss on made-up text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 12, 2)
        self.decoder = nn.Linear(12, 20)

    def forward(self, text: Tensor) -> Tensor:
        logits = self.decoder(self.lstm(self.embedding(text[:-1]))[0])
        return 30 * nn.functional.cross_entropy(logits.flatten(0, 1).float(), text[1:].flatten())


def text(step: int) -> Tensor:
    return torch.randint(20, (8, 4), generator=torch.Generator().manual_seed(step))


class Loop:
    """A training loop as Accelerate's guide has it; ``own`` is the threshold of its own clip."""

    runs: ClassVar[list[gradhelm.Run]] = []

    def __init__(self, accumulate: int = 1, precision: str = "no", fused: bool = False) -> None:
        reset()
        torch.manual_seed(0)
        self.accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate
        )
        model = Speaker()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        assert isinstance(self.optimizer, AcceleratedOptimizer)
        self.norms: list[float] = []

    def step(self, number: int, own: float | None) -> None:
        with self.accelerator.accumulate(self.model):
            self.accelerator.backward(self.model(text(number)))
            if self.accelerator.sync_gradients and own is not None:
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), own)
                self.norms.append(norm.item())
            self.optimizer.step()
            self.optimizer.zero_grad()

    def train(self, steps: int = 24, own: float | None = None) -> Loop:
        for number in range(steps):
            self.step(number, own)
        return self

    def attach(self, **options: object) -> gradhelm.Run:
        options = {"mode": "disabled", **options}
        run = ours.attach(self.accelerator, self.model, self.optimizer, **options)
        self.runs.append(run)
        return run


@pytest.mark.parametrize("asks", [True, False], ids=["loop-still-clips", "loop-does-not"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
def test_weights_are_those_of_accelerates_own_clip(
    fused: bool, accumulate: int, precision: str, asks: bool
) -> None:
    wanted = Loop(accumulate, precision, fused).train(own=CODED)
    assert max(wanted.norms) > CODED
    found = Loop(accumulate, precision, fused)
    run = found.attach(max_norm=CODED)
    # What the loop asks for is not what is done: the run's threshold is.
    found.train(own=CODED / 10 if asks else None)
    assert bits(found.model) == bits(wanted.model)
    assert bits(found.model) != bits(Loop(accumulate, precision, fused).train().model)
    assert run.step == 24 // accumulate
    if asks:
        assert found.norms == wanted.norms


def with_a_scaler(loop: Loop) -> Loop:
    """As on a GPU in fp16: Accelerate makes no GradScaler on a CPU, torch has one that works."""
    loop.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    loop.accelerator.native_amp = True
    loop.accelerator.state._mixed_precision = "fp16"
    bare = loop.optimizer.optimizer
    loop.accelerator._optimizers.clear()
    loop.optimizer = AcceleratedOptimizer(bare, scaler=loop.accelerator.scaler)
    loop.accelerator._optimizers.append(loop.optimizer)
    return loop


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("asks", [True, False])
def test_with_a_grad_scaler_too(accumulate: int, asks: bool) -> None:
    wanted = with_a_scaler(Loop(accumulate)).train(own=CODED)
    found = with_a_scaler(Loop(accumulate))
    run = found.attach(max_norm=CODED)
    found.train(own=CODED / 10 if asks else None)
    assert bits(found.model) == bits(wanted.model)
    assert run.step == 24 // accumulate


def test_a_step_that_the_scaler_skips_is_reported_as_skipped(server: Running) -> None:
    loop = with_a_scaler(Loop())
    with loop.attach(max_norm=CODED, mode="online", server=server.url, token=server.token) as run:
        loop.step(0, 1.0)
        before = bits(loop.model)
        loop.accelerator.scaler.update(new_scale=torch.tensor(2.0**127))
        loop.step(1, 1.0)
        assert loop.optimizer.step_was_skipped
        assert bits(loop.model) == before
        loop.accelerator.scaler.update(new_scale=torch.tensor(2.0**8))
        loop.step(2, 1.0)
    found = series(server, run.id, "skipped")["skipped"]
    assert (found["step"], found["mean"]) == ([0, 1, 2], [0, 1, 0])


def test_an_infinite_gradient_keeps_the_meaning_of_torchs_clip() -> None:
    """Measuring by a clip at infinity would make every gradient NaN before the run sees them."""
    found, wanted = Loop(), Loop()
    run = found.attach(max_norm=CODED)
    for loop in (found, wanted):
        for p in loop.model.parameters():
            p.grad = torch.ones_like(p)
        loop.model.decoder.bias.grad[0] = torch.inf
    assert found.accelerator.clip_grad_norm_(found.model.parameters(), torch.inf) == torch.inf
    assert found.model.decoder.bias.grad[1] == 1
    torch.nn.utils.clip_grad_norm_(wanted.model.parameters(), CODED)
    for loop in (found, wanted):
        loop.optimizer.step()
    assert bits(found.model) == bits(wanted.model)
    assert run.step == 1


def test_what_another_optimizer_steps_is_clipped_as_before() -> None:
    loop = Loop()
    loop.attach(max_norm=CODED)
    other = nn.Linear(3, 3)
    for p in (*other.parameters(), *loop.model.parameters()):
        p.grad = torch.ones_like(p)
    loop.accelerator.clip_grad_norm_(other.parameters(), 0.1)
    assert other.weight.grad[0, 0] == pytest.approx(0.1 / 12**0.5, rel=1e-4)
    other.weight.grad.fill_(1.0)
    other.bias.grad.fill_(1.0)
    both = [*loop.model.parameters(), *other.parameters()]
    norm = loop.accelerator.clip_grad_norm_(both, 0.1)
    assert norm == pytest.approx(sum(p.numel() for p in both) ** 0.5)
    assert other.weight.grad[0, 0] == pytest.approx(0.1 / 12**0.5, rel=1e-4)
    assert all(p.grad.eq(1).all() for p in loop.model.parameters())


def test_without_a_threshold_the_loops_own_clip_stays_and_one_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = Loop().train(own=CODED)
    found = Loop()
    run = found.attach()
    with caplog.at_level(logging.WARNING, "gradhelm"):
        found.train(own=CODED)
    assert bits(found.model) == bits(wanted.model)
    assert found.norms == wanted.norms
    assert run.step == 24
    assert [r.getMessage()[:59] for r in caplog.records] == [
        "accelerator.clip_grad_norm_ clips before gradhelm looks: th"
    ]


def test_a_detached_run_gives_clipping_back() -> None:
    wanted = Loop().train(24, own=CODED)
    found = Loop()
    run = found.attach(max_norm=CODED)
    found.train(12)
    run.detach()
    for number in range(12, 24):
        found.step(number, CODED)
    assert run.step == 12
    assert bits(found.model) == bits(wanted.model)


def test_the_state_travels_with_accelerates_own(tmp_path) -> None:
    loop = Loop()
    run = loop.attach(max_norm=CODED)
    loop.accelerator.register_for_checkpointing(run)
    loop.train(5)
    loop.accelerator.save_state(str(tmp_path))
    again = Loop()
    resumed = again.attach(max_norm=CODED, run_id=run.id, resume=True)
    again.accelerator.register_for_checkpointing(resumed)
    again.accelerator.load_state(str(tmp_path))
    assert (resumed.id, resumed.step) == (run.id, 5)


def test_arguments_reach_attach(server: Running) -> None:
    loop = Loop()
    with loop.attach(
        clip=Value(0.25),
        name="passed on",
        project="integrations",
        config={"total_steps": 3},
        tags=["a", "b"],
        control=gradhelm.Control.none(),
        every=2,
        mode="online",
        server=server.url,
        token=server.token,
    ) as run:
        loop.train(3)
    found = server.get(f"runs/{run.id}")
    told = {key: found[key] for key in ("name", "project", "config", "tags", "strategy")}
    assert told == {
        "name": "passed on",
        "project": "integrations",
        "config": {"total_steps": 3},
        "tags": ["a", "b"],
        "strategy": "Value",
    }
    assert server.put_control(run.id, 0, clip_value=1.0).status_code in (409, 422)


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"])
def test_sharded_training_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"cannot clip under {kind}: no process has the whole"):
        ours.refuse(DistributedType(kind))
    for fine in ("NO", "MULTI_CPU", "MULTI_GPU"):
        ours.refuse(DistributedType(fine))


def test_the_package_itself_loads_no_framework() -> None:
    program = (
        "import sys, gradhelm\n"
        "gradhelm.attach, gradhelm.clip, gradhelm.Control, gradhelm.Run\n"
        "frameworks = {'accelerate', 'transformers', 'lightning', 'pytorch_lightning'}\n"
        "print(*sorted(frameworks & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(ROOTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


RANK = """
import sys, torch
from oracles.test_accelerate import CODED, Loop, bits
found = Loop(accumulate=2)
assert found.accelerator.num_processes == 2
step = found.step
if sys.argv[1] == "ours":
    run = found.attach(max_norm=CODED, mode="online", name="two ranks")
for number in range(12):
    found.step(2 * number + found.accelerator.process_index, CODED)
if sys.argv[1] == "ours":
    assert run.step == 6
    run.close()
print(hash(tuple(bits(found.model))))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_of_two_processes_both_clip_and_the_first_reports(server: Running) -> None:
    def ranks(how: str) -> set[str]:
        port = free_port()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, how],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([*ROOTS, *TESTS]),
                    "PYTHONHASHSEED": "0",
                    "GRADHELM_SERVER": server.url,
                    "GRADHELM_TOKEN": server.token,
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "WORLD_SIZE": "2",
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        told = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        return set(told)

    wanted = ranks("theirs")
    assert len(wanted) == 1
    assert ranks("ours") == wanted
    (run,) = runs_named(server, "two ranks")
    assert (run["status"], run["steps"]) == ("finished", 6)


def test_a_threshold_set_from_outside_takes_hold_at_the_step_that_is_reported(
    server: Running,
) -> None:
    loop = Loop(accumulate=2)
    options = {"mode": "online", "server": server.url, "token": server.token}
    with (
        remote(server, "accelerate steered") as person,
        loop.attach(max_norm=CODED, name="accelerate steered", **options) as run,
    ):
        step = 0
        while not person.done(run.step):
            loop.step(step, CODED)
            step += 1
            time.sleep(0.002)
    person.check()
    assert [found["id"] for found in runs_named(server, "accelerate steered")] == [run.id]


@pytest.mark.parametrize("named", [False, True], ids=["list", "dict"])
def test_several_optimizers_are_unwrapped_each(named: bool) -> None:
    reset()
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    bare = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model]
    model, *prepared = accelerator.prepare(model, *bare)
    given = dict(zip("ab", prepared, strict=True)) if named else prepared
    run = ours.attach(accelerator, model, given, max_norm=CODED, mode="disabled")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    norm = accelerator.clip_grad_norm_(model.parameters(), 0.01)
    assert norm == pytest.approx(40**0.5)
    for optimizer in prepared:
        optimizer.step()
    run.close()
    for layer in model:
        assert layer.weight.grad[0, 0] == pytest.approx(CODED / 20**0.5, rel=1e-4)
    assert [stream.step for stream in run.streams.values()] == [1, 1]
