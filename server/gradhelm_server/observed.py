"""What ``/metrics`` tells: this process in figures, in the form that Prometheus reads.

Law: no label names a run, a project or a person, and there are as many series with a thousand runs
as with one. Whatever is lost is counted under its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

__all__ = ["CAUSES", "CONTENT_TYPE_LATEST", "Observed"]

CAUSES: Final = {
    "ring full": "ring_full",
    "log full": "log_full",
    "kept on disk and damaged there": "damaged_on_disk",
    "the process ended": "process_ended",
    "frame refused": "refused",
}
"""How a trainer's words for why steps are missing begin -> the label; any others are "other"."""
COMMITS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Observed:
    """The figures of one server process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.points = Counter(
            "gradhelm_points_stored", "Points stored: one column at one step", registry=registry
        )
        self.frames = Counter("gradhelm_frames_stored", "Frames stored", registry=registry)
        self._missing = Counter(
            "gradhelm_gaps_declared",
            "Gaps in the steps of runs, declared by trainers or by this server, by their cause",
            ["cause"],
            registry=registry,
        )
        for cause in (*CAUSES.values(), "other"):
            self._missing.labels(cause)
        self.dropped = Counter(
            "gradhelm_viewer_frames_dropped",
            "Frames that a viewer was too slow for; the page fetches them",
            registry=registry,
        )
        self.commits = Histogram(
            "gradhelm_commit_seconds", "Time of a commit", buckets=COMMITS, registry=registry
        )

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(f"gradhelm_{name}", what, registry=self._registry).set_function(read)

    def gap(self, words: str) -> None:
        """A gap was declared, for the reason that ``words`` begin with."""
        cause = next((label for begin, label in CAUSES.items() if words.startswith(begin)), "other")
        self._missing.labels(cause).inc()

    def told(self) -> bytes:
        """All of it, as text."""
        return generate_latest(self._registry)
