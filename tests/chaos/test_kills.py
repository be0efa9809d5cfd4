"""Kill -9 of either side at random moments: nothing acknowledged is lost, nothing is stored twice,
and whatever is missing is declared."""

from __future__ import annotations

from pathlib import Path

from .kills import rehearse


def test_nothing_acknowledged_is_lost_when_either_side_is_killed(tmp_path: Path) -> None:
    arena, verdict, kills = rehearse(tmp_path / "home", cycles=60, seed=4, changes=40, least=15)
    assert min(kills.values()) > 10
    assert verdict.stored > 1000
    assert verdict.acknowledged > 10_000
    assert verdict.sound, verdict.told
    assert arena.changes["made"] >= 15
    assert arena.changes["applied"] > 5
