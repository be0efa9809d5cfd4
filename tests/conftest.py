"""Fixtures for all tests; what they are made of stands in support.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import Program, Running, free_port, running

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests that bring their own runs."""
    with running(tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home", free_port())
    yield made
    made.stop()


@pytest.fixture
def here(server: Running) -> Program:
    """The command line of the user whose server this is."""
    return Program(server.home, int(server.url.rsplit(":", 1)[1]))
