"""Networks that misbehave while a run is watched: training ends as it would, and all arrives."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import Running, eventually

import gradhelm
from gradhelm import dial, link, wire

from .proxy import Bytes, Messages, running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead connection is noticed within a second, and another is tried at once."""
    monkeypatch.setattr(dial, "SILENCE_LIMIT", 1)
    monkeypatch.setattr(dial, "BEAT", 0.5)
    monkeypatch.setattr(link, "LAST_DELAY", 0.3)


KEPT = {False: "memory", True: "spool"}


def kept(chosen: bool) -> pytest.MarkDecorator:
    """Records are kept in memory, or on disk: one of them, both in the long run."""
    both = [True, False] if os.environ.get("CHAOS") == "long" else [chosen]
    return pytest.mark.parametrize("spool", both, ids=[KEPT[one] for one in both])


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path / "spool"))
    yield
    assert not list(tmp_path.rglob("*.spool"))


def weights_after(
    steps: int, each: Callable[[int], object] = lambda step: None, **options: object
) -> tuple[list[torch.Tensor], gradhelm.Run]:
    """A small model that was trained for so many steps."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with gradhelm.attach(model, optimizer, max_norm=0.2, **options) as run:
        for step in range(steps):
            optimizer.zero_grad()
            loss = (model(torch.randn(8, 6)) ** 2).mean()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            each(step)
        # Nothing of the fault is left, so all there is gets through.
        until = time.monotonic() + 30
        while run.stats().get("unsent") and time.monotonic() < until:
            time.sleep(0.02)
    return [parameter.detach().clone() for parameter in model.parameters()], run


def arrives_whole(
    server: Running,
    url: str,
    spool: bool,
    each: Callable[[int], object],
    steps: int = 400,
) -> None:
    """``each`` is called after every step, and breaks what it wants to."""
    plain, _ = weights_after(steps, mode="disabled")
    found, run = weights_after(steps, each, server=url, token=server.token, spool=spool)
    for ours, theirs in zip(found, plain, strict=True):
        assert torch.equal(ours, theirs)
    eventually(lambda: server.get(f"runs/{run.id}")["status"] == "finished", what="the end")
    for column in ("global_norm", "loss"):
        series = server.get(f"runs/{run.id}/series", columns=column, points=10_000)
        assert series["columns"][column]["step"] == list(range(steps))
    assert server.get(f"runs/{run.id}")["steps"] == steps
    assert server.get(f"runs/{run.id}/events", kind="gap")["events"] == []


def port_of(server: Running) -> int:
    return int(server.url.rsplit(":", 1)[1])


@kept(True)
def test_a_slow_network(server: Running, spool: bool) -> None:
    with running(Bytes(port_of(server), rate=60_000, delay=0.02)) as proxy:
        arrives_whole(server, proxy.url, spool, lambda step: time.sleep(0.002))


@kept(False)
def test_a_network_that_passes_single_bytes(server: Running, spool: bool) -> None:
    with running(Bytes(port_of(server), piece=1)) as proxy:
        arrives_whole(server, proxy.url, spool, lambda step: time.sleep(0.002), steps=100)


@kept(True)
def test_a_half_open_connection(server: Running, spool: bool) -> None:
    """It is there, and nothing passes: for longer than a trainer waits, and then again."""
    with running(Bytes(port_of(server))) as proxy:

        def each(step: int) -> None:
            time.sleep(0.005)
            proxy.blackhole = 100 <= step < 420 or 500 <= step < 560

        arrives_whole(server, proxy.url, spool, each, steps=600)
        assert proxy.connections > 1


@kept(True)
def test_a_network_that_is_cut_and_resets(server: Running, spool: bool) -> None:
    dice = random.Random(5)
    with running(Bytes(port_of(server))) as proxy:

        def each(step: int) -> None:
            time.sleep(0.005)
            proxy.away = 200 <= step < 280
            if dice.random() < 0.05:
                proxy.reset()

        arrives_whole(server, proxy.url, spool, each)
        assert proxy.connections > 3


def records(data: bytes) -> bool:
    return isinstance(wire.decode_from_trainer(data), wire.Frame | wire.Gap)


@kept(False)
def test_messages_that_come_twice(server: Running, spool: bool) -> None:
    with running(Messages(port_of(server), up=lambda d: [d, d] if records(d) else [d])) as proxy:
        arrives_whole(server, proxy.url, spool, lambda step: time.sleep(0.002))


@kept(True)
def test_messages_that_change_places(server: Running, spool: bool) -> None:
    held: list[bytes] = []

    def up(data: bytes) -> list[bytes]:
        if not records(data):
            return [data]
        if held:
            return [data, held.pop()]
        held.append(data)
        return []

    with running(Messages(port_of(server), up=up)) as proxy:
        proxy_up = proxy.up

        def each(step: int) -> None:
            time.sleep(0.002)
            if step == 350:  # the last may not be held back for ever
                proxy.up = lambda data: [*([held.pop()] if held else []), data]

        assert proxy_up is up
        arrives_whole(server, proxy.url, spool, each)


@kept(False)
def test_messages_that_do_not_come(server: Running, spool: bool) -> None:
    count = itertools.count()

    def up(data: bytes) -> list[bytes]:
        return [] if records(data) and next(count) in (0, 2) else [data]

    with running(Messages(port_of(server), up=up)) as proxy:
        arrives_whole(server, proxy.url, spool, lambda step: time.sleep(0.01))


@kept(True)
def test_acknowledgements_that_do_not_come(server: Running, spool: bool) -> None:
    count = itertools.count()

    def down(data: bytes) -> list[bytes]:
        acks = isinstance(wire.decode_from_server(data), wire.Ack)
        return [] if acks and next(count) % 3 else [data]

    with running(Messages(port_of(server), down=down)) as proxy:

        def each(step: int) -> None:
            time.sleep(0.005)
            if step == 390:
                proxy.down = lambda data: [data]

        arrives_whole(server, proxy.url, spool, each)
