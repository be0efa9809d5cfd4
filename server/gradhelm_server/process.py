"""A server's process: what it takes of this machine, as Linux tells it, and what it keeps.

None where nothing is told.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_LISTENING = "0A"
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)


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
        if not wanted.isdisjoint(_opened(process)):
            return int(process.name)
    return None


def _opened(process: Path) -> Iterator[str]:
    """What a process has open; nothing if it is gone, or somebody else's."""
    try:
        for fd in os.listdir(process / "fd"):
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(process / "fd" / fd)
    except OSError:
        return


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


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes uvloop's event loop, which takes about half the CPU; None where it is not."""
    if importlib.util.find_spec("uvloop") is None:  # as on Windows
        return None
    import uvloop

    return uvloop.new_event_loop


def keep_memory() -> None:
    """Let this process keep up to 64 MB that it does not use at the moment.

    A read needs some megabytes for a few milliseconds. Left alone, glibc gives them back after each
    one, and a third of the next is spent on having them again, page by page.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        library.mallopt(_ARENA_MAX, 2)
        library.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(_TRIM_THRESHOLD, 64 * 2**20)
