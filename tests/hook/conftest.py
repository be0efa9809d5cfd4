"""Faults of the hook's own are raised here, and no test inherits the machine's settings."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from gradhelm import notice
from gradhelm.settings import TABLE

from .fake_server import FakeServer, fake_server


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    for name in TABLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(notice, "strict", True)
    torch.set_num_threads(1)
    yield
    logging.getLogger("gradhelm").setLevel(logging.NOTSET)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running
