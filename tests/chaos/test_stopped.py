"""A server that is stopped while a run goes on: training does not notice, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

from .stopped import rehearse


def test_a_stopped_server_costs_a_run_nothing_and_all_is_delivered_later(tmp_path: Path) -> None:
    found = rehearse(tmp_path / "home", 2000)
    assert found["stored"] == found["steps"]
    assert found["dropped"] == 0
    close = found["close_seconds"]
    assert isinstance(close, float)
    assert close < 5.5  # the drain limit, and what it takes to notice
