"""What a server's process takes of this machine, as Linux tells it; None where nothing is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_LISTENING = "0A"


class Usage(NamedTuple):
    """``memory`` is what is resident, in bytes; ``cpu`` what was used so far, in seconds."""

    memory: int
    fds: int
    threads: int
    cpu: float


def listening_on(port: int) -> int | None:
    """The process of this user that listens on a TCP port of this machine."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return None
    for process in PROC.glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return None


def _inodes(port: int) -> list[str]:
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found.append(words[9])
    return found


def usage(pid: int) -> Usage | None:
    process = PROC / str(pid)
    try:
        status = dict(
            line.split(":", 1) for line in (process / "status").read_text().splitlines() if line
        )
        # The name, in brackets, may hold anything; what is counted comes after it.
        times = (process / "stat").read_text().rpartition(")")[2].split()
        fds = sum(1 for _ in (process / "fd").iterdir())
    except OSError:
        return None
    return Usage(
        memory=int(status["VmRSS"].split()[0]) * 1024,
        fds=fds,
        threads=int(status["Threads"]),
        cpu=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
    )
