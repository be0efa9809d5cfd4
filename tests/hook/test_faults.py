"""Faults of gradhelm's own: wherever one is met, training goes on as it would have without."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import gradhelm
from gradhelm import notice, recorder
from gradhelm.wire import Change, Frame, Gap, Rule

from .fake_server import FakeServer

HOOK = Path(gradhelm.__file__).parent
THE_CLIP_ITSELF = {
    # What stands between optimizer.step() and the first guard: the clip's own way, on which a fault
    # must be heard, and the entries that a user calls.
    "stepper.py": None,
    "scaler.py": None,
    "copies.py": None,
    "steps.py": None,
    "unread.py": None,
    "stream.py": None,
    "run.py": {"log", "close", "_end", "_silence", "__exit__", "_end_by", "__enter__", "step"},
    "notice.py": None,
}
STEPS = 4


class Fault(Exception):
    pass


class Nth:
    """Raises at the n-th call of a function of the hook, in the thread it is set in; or at the first
    of one that is named."""

    def __init__(self, number: int | None, *, everywhere: bool, name: str = "") -> None:
        self.number = number
        self.name = name
        self.calls = 0
        self.called: set[str] = set()
        self.met = ""
        self._everywhere = everywhere

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        file = Path(code.co_filename)
        if file.parent != HOOK or code.co_name.startswith("<"):
            return
        entries = THE_CLIP_ITSELF.get(file.name, set())
        if not self._everywhere and (entries is None or code.co_name in entries):
            return
        if self._everywhere and (file.name == "notice.py" or code.co_name in ("_run", "_keep")):
            return
        self.calls += 1
        name = f"{file.name}:{code.co_name}"
        self.called.add(name)
        if not self.met and (self.calls == self.number or name == self.name):
            self.met = name
            raise Fault(self.met)


@pytest.fixture(autouse=True)
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for users: faults are told, not raised."""
    monkeypatch.setattr(notice, "strict", False)


def trained(
    before: Callable[[gradhelm.Run], None] = lambda run: None,
    after: Callable[[], None] = lambda: None,
    **options: object,
) -> list[float]:
    """The losses of a few steps, and the sum of the weights after them."""
    torch.manual_seed(2)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with gradhelm.attach(model, optimizer, max_norm=0.5, **options) as run:
        before(run)
        try:
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss = (model(torch.ones(2, 5)) ** 2).sum()
                loss.backward()
                optimizer.step()
                run.log(loss=loss)
                losses.append(loss.item())
        finally:
            after()
    return [*losses, sum(p.sum().item() for p in model.parameters())]


def change(run: gradhelm.Run) -> None:
    """Something to apply, which leaves the clipping as it is."""
    run._steering.receive(Change(1, (Rule({"max_norm": 0.5}),)))


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "spool"])
def test_a_fault_at_any_call_of_a_step_changes_nothing(
    server: FakeServer, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path))
    plain = trained(mode="disabled")
    met = []
    number = 0
    while True:
        number += 1
        nth = Nth(number, everywhere=False)

        def before(run: gradhelm.Run, nth: Nth = nth) -> None:
            change(run)
            sys.setprofile(nth)

        found = trained(before, lambda: sys.setprofile(None), server=server.url, spool=kept)
        if not nth.met:
            break
        assert found == plain, nth.met
        met.append(nth.met)
    assert len(met) > 6 * STEPS
    assert {"recorder.py:step", "recorder.py:_put", "control.py:take", "scalars.py:put"} <= set(met)


def declared(server: FakeServer) -> tuple[set[int], set[int]]:
    """Steps of the clip's own rows that are stored, and those that are declared missing."""
    stored, missing = set(), set()
    for record in server.stored.values():
        if isinstance(record, Gap):
            missing |= set(range(record.first, record.last + 1))
        elif isinstance(record, Frame) and record.group == 0:
            steps = memoryview(record.steps).cast("Q")
            stored |= set(steps)
    return stored, missing


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "spool"])
def test_a_fault_at_any_call_of_the_sender_loses_nothing_silently(
    server: FakeServer, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path))
    plain = trained(mode="disabled")
    met = []
    number = 0
    while True:
        number += 1
        nth = Nth(number, everywhere=True)
        server.stored.clear()
        threading.setprofile(nth)
        try:
            found = trained(server=server.url, spool=kept)
        finally:
            threading.setprofile(None)
        if not nth.met:
            break
        assert found == plain, nth.met
        stored, missing = declared(server)
        assert stored | missing >= set(range(STEPS)) or list(tmp_path.rglob("*.spool")), nth.met
        met.append(nth.met)
    assert len(met) > 50
    # With a spool, the thread that ends the run is the first that loads.
    loading = {"cargo.py:load", "outbox.py:put", "recorder.py:batches", "outbox.py:next"}
    assert ({"link.py:_greet", "shelf.py:next"} if kept else loading) <= set(met)


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "spool"])
def test_a_fault_at_any_call_of_the_end_loses_nothing_silently(
    server: FakeServer, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path))
    plain = trained(mode="disabled")
    met: set[str] = set()
    called: set[str] = set()

    def meets(nth: Nth) -> bool:
        server.stored.clear()
        found = trained(after=partial(sys.setprofile, nth), server=server.url, spool=kept)
        sys.setprofile(None)
        assert found == plain, nth.met
        stored, missing = declared(server)
        assert stored | missing >= set(range(STEPS)) or list(tmp_path.rglob("*.spool")), nth.met
        met.add(nth.met)
        called.update(nth.called)
        return bool(nth.met)

    # How many calls there are depends on how far the sender is: what the numbers passed over is
    # called by its name.
    numbers = itertools.count(1)
    while any(meets(Nth(number, everywhere=False)) for number in itertools.islice(numbers, 10)):
        pass
    for name in sorted(called - met):
        meets(Nth(None, everywhere=False, name=name))
    assert ({"wire.py:encode", "spool.py:put"} if kept else {"link.py:finish"}) <= met


def test_a_sender_that_is_stuck_does_not_stop_a_step(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def batches(self: recorder.Recorder) -> Iterator[Any]:
        stuck.set()
        go_on.wait(60)
        return iter(())

    monkeypatch.setattr(recorder.Recorder, "batches", batches)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradhelm.attach(model, optimizer, max_norm=1.0, server=server.url) as run:
        assert stuck.wait(20)
        room = run._first.recorder.capacity
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for _ in range(room + 100):
            optimizer.step()
        assert run.stats()["dropped"] >= 100
        go_on.set()
