"""Every parser of what comes from outside, fuzzed for half a minute; ``make fuzz`` takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from .fuzz import MEMORY, TARGETS, Report, fuzz, target

SECONDS = 30
LEAST = {"wire": 1000, "spool": 1000, "control": 500, "queries": 500}
"""Executions that half a minute makes even of a machine that is busy."""


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[dict[str, Future[Report]]]:
    """All targets at once, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(fuzz, name, SECONDS) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_what_broke_it_once_and_what_it_begins_with_holds(name: str) -> None:
    with target(name) as module:
        assert module.seeds()
        for data in [b"", *module.seeds(), *module.FOUND]:
            module.one(data)


def test_a_fault_is_found() -> None:
    report = fuzz("fault", 20)
    assert report.crash is not None
    assert "here it is" in report.crash
    assert "b'eve" in report.crash


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(fuzzing: dict[str, Future[Report]], name: str) -> None:
    report = fuzzing[name].result()
    print(f"\n{report}")
    assert report.crash is None, report.crash
    assert report.executions >= LEAST[name]
    assert 0 < report.peak < MEMORY
