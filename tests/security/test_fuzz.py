"""Every parser of what comes from outside, fuzzed for half a minute; ``make fuzz`` takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from .fuzz import MEMORY, TARGETS, Report, fuzz, target

SECONDS = 30
LEAST = {"wire": 1000, "spool": 1000, "control": 500, "queries": 500}
"""Executions, which half a minute of one core makes; where others use it too, it takes longer."""


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[dict[str, Future[list[Report]]]]:
    """All targets, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(enough, name) for name in TARGETS}


def enough(name: str) -> list[Report]:
    """Half a minute, and by other dice as often again as it takes; four times at most."""
    reports: list[Report] = []
    while len(reports) < 4 and sum(one.executions for one in reports) < LEAST[name]:
        reports.append(fuzz(name, SECONDS, seed=len(reports)))
        if reports[-1].crash is not None:
            break
    return reports


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
def test_nothing_is_found(fuzzing: dict[str, Future[list[Report]]], name: str) -> None:
    reports = fuzzing[name].result()
    for report in reports:
        print(f"\n{report}")
        assert report.crash is None, report.crash
        assert 0 < report.peak < MEMORY
    assert sum(report.executions for report in reports) >= LEAST[name]
