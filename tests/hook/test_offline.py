"""Offline runs, seen from the trainer: what is measured is on disk, and training is none the wiser."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

import gradhelm
from gradhelm import spool, wire
from gradhelm.spool import Entry, Kind, Spool


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path))
    return tmp_path


def train(run: gradhelm.Run, model: torch.nn.Module, optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def kept(home: Path, run: gradhelm.Run) -> list[wire.ToServer]:
    (folder,) = spool.segments(home / "spool" / run.id)
    entries = [entry for entry in spool.read(folder) if isinstance(entry, Entry)]
    assert len(entries) == len(list(spool.read(folder)))
    return [wire.decode_from_trainer(entry.data) for entry in entries]


def steps_of(messages: list[wire.ToServer]) -> list[int]:
    found: list[int] = []
    for message in messages:
        if isinstance(message, wire.Frame):
            columns = len(message.values) // (len(message.steps) // 2)
            found += wire.unpack_frame(message, columns)[0].tolist()
    return found


def test_what_is_measured_is_on_disk_and_says_whose_it_is(home: Path) -> None:
    model, optimizer = made()
    with gradhelm.attach(model, optimizer, max_norm=1.0, name="away", mode="offline") as run:
        train(run, model, optimizer, 20)
        assert run.stats()["unsent"] <= 1
    messages = kept(home, run)
    hello, columns = messages[0], messages[1]
    assert isinstance(hello, wire.Hello)
    assert (hello.run, hello.name) == (run.id, "away")
    assert hello.limits.why_not == "the run is offline: nothing reaches it"
    assert isinstance(columns, wire.Columns)
    assert steps_of(messages) == list(range(20))
    assert messages[-1] == wire.Finish("finished", 19)


def test_a_place_that_cannot_be_written_costs_a_warning_and_no_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("GRADHELM_SPOOL", str(home / "file"))
    model, optimizer = made()
    with gradhelm.attach(model, optimizer, max_norm=0.01, mode="offline") as run:
        train(run, model, optimizer, 3)
    assert run.step == 3
    assert run.stats() == {}
    assert "cannot keep records in" in caplog.text


def test_while_the_disk_is_full_it_waits_in_memory_and_nothing_is_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = made()
    put = Spool.put
    full = True
    monkeypatch.setattr(Spool, "put", lambda self, *a: False if full else put(self, *a))
    with gradhelm.attach(model, optimizer, max_norm=1.0, mode="offline") as run:
        train(run, model, optimizer, 30)
        deadline = time.monotonic() + 10
        while "no room for more records" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        full = False
        train(run, model, optimizer, 30)
    messages = kept(home, run)
    assert steps_of(messages) == list(range(60))
    assert not [message for message in messages if isinstance(message, wire.Gap)]


def test_a_disk_that_stays_full_holds_up_no_end(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Spool, "put", lambda *_: False)
    model, optimizer = made()
    run = gradhelm.attach(model, optimizer, max_norm=1.0, mode="offline")
    train(run, model, optimizer, 30)
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 5
    assert "the end of the run was not told" in caplog.text
    assert spool.segments(home / "spool") == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_keeps_nothing(home: Path) -> None:
    model, optimizer = made()
    with gradhelm.attach(model, optimizer, max_norm=1.0, mode="offline") as run:
        train(run, model, optimizer, 10)
        child = os.fork()
        if not child:
            try:
                train(run, model, optimizer, 50)
                run.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        train(run, model, optimizer, 10)
    messages = kept(home, run)
    assert steps_of(messages) == list(range(20))
    assert sum(isinstance(message, wire.Finish) for message in messages) == 1
    assert Kind.END in [e.kind for e in spool.read(next((home / "spool" / run.id).iterdir()))]
