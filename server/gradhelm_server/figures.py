"""What a load was like: counted as it happens, read at moments, told as the difference of two."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from . import process

Counts = npt.NDArray[np.int64]

LEAST: Final = 1e-5
"""Seconds below which nothing is told apart."""
WIDTH: Final = math.log(1.02)
BUCKETS: Final = 1024


class Spread(NamedTuple):
    """Of times in milliseconds."""

    p50: float
    p99: float
    max: float


class Times:
    """A histogram of durations; it does not grow with their number. Buckets are 2 % wide."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(BUCKETS, np.int64)

    def add(self, seconds: float) -> None:
        bucket = int(math.log(max(seconds, LEAST) / LEAST) / WIDTH)
        self._counts[min(bucket, BUCKETS - 1)] += 1

    def counts(self) -> Counts:
        return self._counts.copy()

    def spread(self, since: Counts | None = None) -> Spread | None:
        """Of what was added after ``since``, an earlier ``counts()``; None of nothing."""
        sums = np.cumsum(self._counts if since is None else self._counts - since)
        if not sums[-1]:
            return None
        found = (int(np.searchsorted(sums, part * sums[-1])) for part in (0.5, 0.99, 1.0))
        return Spread(*(1000 * LEAST * math.exp(WIDTH * (bucket + 0.5)) for bucket in found))


class Tally:
    """What happened so far, to all trainers and viewers together."""

    def __init__(self) -> None:
        self.connected = 0
        self.points = 0
        self.frames = 0
        self.views = 0
        self.reconnects = 0
        self.errors: Counter[str] = Counter()
        self.acks = Times()
        self.sights = Times()

    def read(self, pid: int | None) -> Reading:
        """Now, with the process of the server, if it is known."""
        return Reading(
            at=time.monotonic(),
            points=self.points,
            frames=self.frames,
            views=self.views,
            acks=self.acks.counts(),
            sights=self.sights.counts(),
            cpu=time.process_time(),
            server=None if pid is None else process.usage(pid),
        )

    def figures(self, before: Reading, now: Reading) -> Figures:
        """Of what happened between two readings; errors are all so far."""
        seconds = max(1e-9, now.at - before.at)
        was, server = before.server, now.server
        return Figures(
            seconds=seconds,
            connected=self.connected,
            points=now.points - before.points,
            points_per_second=(now.points - before.points) / seconds,
            frames_per_second=(now.frames - before.frames) / seconds,
            views_per_second=(now.views - before.views) / seconds,
            ack_ms=self.acks.spread(before.acks),
            view_ms=self.sights.spread(before.sights),
            reconnects=self.reconnects,
            errors=dict(self.errors),
            generator_cpu=(now.cpu - before.cpu) / seconds,
            server_cpu=(server.cpu - was.cpu) / seconds if server and was else None,
            server_memory=server.memory if server else None,
            server_fds=server.fds if server else None,
            server_threads=server.threads if server else None,
        )


class Reading(NamedTuple):
    """A tally and the machine at one moment."""

    at: float
    points: int
    frames: int
    views: int
    acks: Counts
    sights: Counts
    cpu: float
    server: process.Usage | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Rates are per second, CPU is in cores, memory in bytes.

    ``points`` are those acknowledged. ``ack_ms``: from a frame's first sending to its
    acknowledgement. ``view_ms``: from a step to where a viewer has it. The server's own are None
    unless it runs on this machine, as this user.
    """

    seconds: float
    connected: int
    points: int
    points_per_second: float
    frames_per_second: float
    views_per_second: float
    ack_ms: Spread | None
    view_ms: Spread | None
    reconnects: int
    errors: dict[str, int]
    generator_cpu: float
    server_cpu: float | None
    server_memory: int | None
    server_fds: int | None
    server_threads: int | None

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        for name in ("ack_ms", "view_ms"):
            spread: Spread | None = getattr(self, name)
            told[name] = None if spread is None else spread._asdict()
        return told
