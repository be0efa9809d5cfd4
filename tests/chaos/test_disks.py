"""Disks that are full, and a database that somebody else has locked."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support import Running, eventually, running

import gradhelm
from gradhelm import link

from .proxy import Bytes
from .proxy import running as proxied

STEPS = 3000


class Disk:
    """A file system of its own, as small as one likes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()

    def size(self, kilobytes: int) -> None:
        again = "remount," if os.path.ismount(self.place) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={kilobytes}k", "tmpfs"]
        subprocess.run([*command, str(self.place)], check=True, capture_output=True)

    def full(self) -> bool:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_bsize < 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    try:
        made.size(1024)
    except (OSError, subprocess.CalledProcessError):
        if os.geteuid() == 0 and "CI" in os.environ:
            raise
        pytest.skip("this user may not mount a small file system")
    yield made
    subprocess.run(["umount", "--lazy", str(made.place)], check=True)


def train(
    each: Callable[[int], object], steps: int = STEPS, **options: object
) -> tuple[list[torch.Tensor], gradhelm.Run]:
    torch.manual_seed(4)
    model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(60)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with gradhelm.attach(model, optimizer, max_norm=0.1, **options) as run:
        for step in range(steps):
            optimizer.zero_grad()
            (model(torch.ones(2, 4)) + 1).square().sum().backward()
            optimizer.step()
            each(step)
        until = time.monotonic() + 60
        while run.stats().get("unsent") and time.monotonic() < until:
            time.sleep(0.02)
    return [parameter.detach().clone() for parameter in model.parameters()], run


@pytest.fixture(scope="module")
def plain() -> list[torch.Tensor]:
    """The weights of a run that nobody watches."""
    return train(lambda step: None, mode="disabled")[0]


def is_whole(server: Running, run: str, steps: int = STEPS) -> None:
    eventually(lambda: server.get(f"runs/{run}")["status"] == "finished", 30, "the end")
    found = server.get(f"runs/{run}/series", columns="global_norm", points=20_000)
    assert found["columns"]["global_norm"]["step"] == list(range(steps))
    assert server.get(f"runs/{run}/events", kind="gap")["events"] == []


def test_a_full_disk_of_the_trainer(
    server: Running, disk: Disk, plain: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHELM_SPOOL", str(disk.place / "spool"))
    monkeypatch.setattr(link, "LAST_DELAY", 0.3)
    was_full = threading.Event()
    with proxied(Bytes(int(server.url.rsplit(":", 1)[1]), away=True)) as proxy:

        def each(step: int) -> None:
            if step % 100 == 0:
                time.sleep(0.1)
                if disk.full():
                    was_full.set()
            if step == STEPS - 200:
                proxy.away = False

        weights, run = train(each, server=proxy.url, token=server.token)
    assert was_full.is_set()
    for ours, theirs in zip(weights, plain, strict=True):
        assert torch.equal(ours, theirs)
    is_whole(server, run.id)
    assert not list(disk.place.rglob("*.spool"))


def test_a_full_disk_of_the_server(disk: Disk, plain: list[torch.Tensor]) -> None:
    disk.size(2048)
    was_full = threading.Event()
    with running(disk.place / "home") as server:

        def each(step: int) -> None:
            if step % 20 == 0:
                time.sleep(0.02)
            if disk.full():
                was_full.set()
            if step == STEPS - 100:
                eventually(disk.full, 20, "a full disk")
                was_full.set()
                disk.size(64 * 1024)

        weights, run = train(each, server=server.url, token=server.token)
        assert was_full.is_set()
        for ours, theirs in zip(weights, plain, strict=True):
            assert torch.equal(ours, theirs)
        is_whole(server, run.id)


def test_a_database_that_somebody_else_has_locked(
    tmp_path: Path, plain: list[torch.Tensor]
) -> None:
    with running(tmp_path / "home") as server:
        locked, free = threading.Event(), threading.Event()

        def lock() -> None:
            with closing(sqlite3.connect(server.home / "gradhelm.db", timeout=10)) as other:
                other.execute("BEGIN IMMEDIATE")
                locked.set()
                free.wait(280)  # a busy machine takes a while to the last steps
                other.rollback()

        thread = threading.Thread(target=lock)
        acknowledged: list[int] = []

        def each(step: int) -> None:
            time.sleep(0.001)
            if step == 500:
                thread.start()
                assert locked.wait(20)
            if step == STEPS - 100:
                time.sleep(6)  # longer than the server itself waits for a lock
                acknowledged.append(server.get(f"runs/{run_id()}")["last_step"])
                free.set()

        def run_id() -> str:
            return str(server.get("runs")["runs"][0]["id"])

        weights, run = train(each, server=server.url, token=server.token)
        thread.join()
        assert acknowledged[0] < STEPS - 100
        for ours, theirs in zip(weights, plain, strict=True):
            assert torch.equal(ours, theirs)
        is_whole(server, run.id)
