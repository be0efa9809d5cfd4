"""CPU time of whole families of processes, as Linux counts it (in hundredths of a second)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")


class _Process(NamedTuple):
    parent: int
    session: int
    own: float
    gone: float  # of its children that have ended


def _processes() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        times = [int(word) / TICK for word in words[11:15]]
        found[int(folder.name)] = _Process(
            int(words[1]), int(words[3]), times[0] + times[1], times[2] + times[3]
        )
    return found


def family(*pids: int) -> float:
    """Seconds used by these processes, their descendants and all of their sessions."""
    processes = _processes()
    sessions = {processes[pid].session for pid in pids if pid in processes}
    inside = {pid for pid, p in processes.items() if pid in pids or p.session in sessions}
    grown = True
    while grown:
        more = {pid for pid, p in processes.items() if p.parent in inside} - inside
        inside |= more
        grown = bool(more)
    return sum(processes[pid].own + processes[pid].gone for pid in inside)


def alone(pid: int) -> float:
    """Seconds used by one process."""
    found = _processes().get(pid)
    return found.own if found else 0.0
