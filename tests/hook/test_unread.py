"""The way of a GPU's steps, walked on a CPU: its own event, and no number asked for on the way."""

from __future__ import annotations

import math
import threading
import time

import pytest
import torch
from torch import optim
from torch.nn.utils import clip_grad_norm_

import gradhelm
from gradhelm import recorder, unread
from gradhelm.clip import AutoClip, GlobalNorm, Outcome, Value

from .models import losses, small, weights


class Device:
    """A device whose work is done when :meth:`pass_` says so, and that nobody may wait for."""

    def __init__(self) -> None:
        self.queued = 0
        self.passed = 0
        self.asked: list[str] = []

    def event(self) -> unread.Event:
        device = self

        class Event:
            def record(self) -> None:
                device.queued += 1
                self.number = device.queued

            def query(self) -> bool:
                return self.number <= device.passed

        return Event()


@pytest.fixture
def device(monkeypatch) -> Device:
    """CPU tensors count as a device's; whoever reads one on the training thread is noted."""
    made = Device()
    monkeypatch.setattr(unread, "DEVICES", ["cpu"])
    monkeypatch.setattr(unread, "_event", made.event)
    return made


@pytest.fixture
def unasked(device, monkeypatch) -> Device:
    """A device that must not be asked for a number by the thread that trains."""
    trains = threading.current_thread()

    def guarded(name: str):
        real = getattr(torch.Tensor, name)

        def asked(self, *args, **kwargs):
            if threading.current_thread() is trains and getattr(device, "watched", False):
                device.asked.append(name)
            return real(self, *args, **kwargs)

        return asked

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, guarded(name))
    return device


def test_no_number_is_read_by_the_thread_that_trains(unasked, server, monkeypatch):
    # On a CPU the norms are put together by way of Python's numbers; on a device they are not.
    from gradhelm.clip import gradients

    monkeypatch.setattr(gradients, "_stacked", lambda norms: torch.stack(list(norms)))
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    run = gradhelm.attach(model, optimizer, max_norm=0.3, server=server.url)
    for loss in losses(model, 20):
        optimizer.zero_grad()
        loss.backward()
        unasked.watched = True
        optimizer.step()
        unasked.watched = False
    unasked.passed = unasked.queued
    run.close()
    assert unasked.queued == 20
    assert unasked.asked == []
    assert sorted(server.table()) == list(range(20))


def test_weights_and_what_is_told_are_those_of_the_other_way(device, monkeypatch):
    from .fake_server import fake_server

    def trained(way: list[str]):
        monkeypatch.setattr(unread, "DEVICES", way)
        model = small()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        with fake_server() as server:
            run = gradhelm.attach(model, optimizer, max_norm=0.3, server=server.url, every=3)
            for loss in losses(model, 40):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            device.passed = device.queued
            run.close()
            return weights(model), server.table()

    (ours, rows), (theirs, expected) = trained(["cpu"]), trained([])
    assert ours == theirs
    assert sorted(rows) == sorted(expected)
    for step, row in rows.items():
        assert row == pytest.approx(expected[step], rel=1e-6)


def test_rows_wait_for_their_event_in_order_and_the_next_may_not_overtake(device):
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    run = gradhelm.attach(model, optimizer, max_norm=0.3, mode="disabled")
    ((source, _),) = run.streams[""].record()
    for loss in losses(model, 5):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert list(source.batches()) == []
    device.passed = 3
    (batch,) = source.batches()
    assert batch.steps.tolist() == [0, 1, 2]
    device.passed = 5
    (batch,) = source.batches()
    assert batch.steps.tolist() == [3, 4]


def test_what_never_arrives_is_declared_lost_and_holds_nobody_up(device, server, monkeypatch):
    monkeypatch.setattr(recorder, "ARRIVAL", 0.05)
    model = small()
    run = gradhelm.attach(model, max_norm=0.3, server=server.url)
    for loss in losses(model, 4):
        model.zero_grad()
        loss.backward()
        run.clip()
    device.passed = 2
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 5
    assert sorted(server.table()) == [0, 1]
    (gap,) = server.gaps()
    assert (gap.first, gap.last, gap.count) == (2, 3, 2)


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaled_step_that_overflows_is_skipped_and_told_so(device, server, fused):
    def trained(attached: bool):
        model = small()
        optimizer = optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        run = None
        if attached:
            run = gradhelm.attach(model, optimizer, max_norm=0.3, server=server.url)
        for step, loss in enumerate(losses(model, 12)):
            optimizer.zero_grad()
            scaler.scale(loss * (math.inf if step == 5 else 1.0)).backward()
            if run is None:
                scaler.unscale_(optimizer)
                clip_grad_norm_(model.parameters(), 0.3)
            scaler.step(optimizer)
            scaler.update()
        if run is not None:
            device.passed = device.queued
            run.close()
        return weights(model)

    assert trained(True) == trained(False)
    rows = server.table()
    assert sorted(rows) == list(range(12))
    assert [step for step, row in rows.items() if row["skipped"]] == [5]
    assert "clip_coef" not in rows[5]


def test_folding_leaves_the_divisor_on_the_device(device):
    def stepped(exact: bool):
        model = small()
        optimizer = optim.AdamW(model.parameters(), lr=0.01, fused=True)
        gradhelm.attach(model, optimizer, clip=GlobalNorm(1e-3, exact=exact), mode="disabled")
        next(losses(model, 1)).backward()
        optimizer.step()
        return [p.grad for p in model.parameters()]

    for ours, theirs in zip(stepped(False), stepped(True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)


def test_only_a_global_norm_that_never_looks_goes_this_way():
    cuda = torch.device("cuda")
    assert unread.possible(GlobalNorm(1.0), cuda)
    assert not unread.possible(GlobalNorm(1.0), torch.device("cpu"))
    assert not unread.possible(GlobalNorm(1.0, nonfinite="skip"), cuda)
    assert not unread.possible(AutoClip(10), cuda)
    assert not unread.possible(Value(1.0), cuda)


def test_an_arrival_is_read_as_it_was_when_it_left(device):
    norms, total = torch.tensor([3.0, 4.0]), torch.tensor(5.0)
    outcome = Outcome(norms, total, threshold=1.0, factor=torch.tensor(0.2))
    arrival = unread.Arrival(outcome)
    norms.zero_()
    device.passed = 1
    assert arrival.here
    found = arrival.outcome()
    assert found.norms.tolist() == [3.0, 4.0]
    assert found.global_norm.item() == 5.0
    assert found.coefficient == pytest.approx(0.2)
    assert found.post_norm == pytest.approx(1.0)
    assert found.changed
