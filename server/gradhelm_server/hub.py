"""The hub: what is stored goes from here to everybody who watches.

Law: a slow viewer slows nobody. Each has a mailbox of bounded size: of summaries the newest is
kept, of frames the newest are, and what was dropped is named, so that the page can fetch it.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from gradhelm import wire

MAILBOX_BYTES = 4 * 1024 * 1024
MAILBOX_EVENTS = 256
PACE_WATCHED, PACE_ALONE = 100, 1000
"""Milliseconds between a trainer's frames, while somebody watches and otherwise."""


class Trainer(Protocol):
    """The connection of a run's trainer, as the hub needs it."""

    def tell(self, message: wire.ToTrainer) -> None: ...


class Viewer:
    """One open page's mailbox."""

    def __init__(self) -> None:
        self._latest: dict[str, str] = {}
        self._events: deque[str] = deque(maxlen=MAILBOX_EVENTS)
        self._frames: deque[tuple[int, int, bytes]] = deque()
        self._bytes = 0
        self._layouts: set[int] = set()
        self._lost: tuple[int, int] | None = None
        self._something = asyncio.Event()
        self.stale = True  # the run's summary has changed since it was sent

    def put(self, kind: str, message: dict[str, Any]) -> None:
        """A text message; of each ``kind`` but events the newest replaces the ones before."""
        text = json.dumps({"type": kind, **message})
        if kind in ("event", "columns"):
            self._events.append(text)
        else:
            self._latest[kind] = text
        self._something.set()

    def put_frame(self, frame: bytes, layout: int, columns: list[int], span: range) -> int:
        """How many older ones had to give way."""
        gone = 0
        if layout not in self._layouts:
            self._layouts.add(layout)
            self._events.append(
                json.dumps({"type": "layout", "layout": layout, "columns": columns})
            )
        self._frames.append((span.start, span.stop - 1, frame))
        self._bytes += len(frame)
        while self._bytes > MAILBOX_BYTES:
            first, last, dropped = self._frames.popleft()
            self._bytes -= len(dropped)
            low, high = self._lost or (first, last)
            self._lost = (min(low, first), max(high, last))
            gone += 1
        self._something.set()
        return gone

    async def take(self, patience: float) -> list[str | bytes]:
        """What has come, texts first; empty when nothing did within ``patience`` seconds."""
        try:
            await asyncio.wait_for(self._something.wait(), patience)
        except TimeoutError:
            return []
        self._something.clear()
        taken: list[str | bytes] = [*self._events, *self._latest.values()]
        if self._lost is not None:
            first, last = self._lost
            taken.append(json.dumps({"type": "lost", "first": first, "last": last}))
        taken += [frame for _, _, frame in self._frames]
        self._events.clear()
        self._latest.clear()
        self._frames.clear()
        self._bytes, self._lost = 0, None
        return taken


class Hub:
    """Who watches which run, and who trains it. Lives on the event loop."""

    def __init__(self) -> None:
        self.dropped: Callable[[int], object] = lambda frames: None
        """Called with how many frames a viewer was too slow for."""
        self._viewers: dict[str, set[Viewer]] = {}
        self.trainers: dict[str, Trainer] = {}
        self.replays: set[str] = set()
        """Segments that were kept on disk and are being delivered."""

    @property
    def viewers(self) -> int:
        """How many watch, all runs together."""
        return sum(map(len, self._viewers.values()))

    def pace(self, run: str) -> int:
        """Milliseconds between a trainer's frames."""
        return PACE_WATCHED if self._viewers.get(run) else PACE_ALONE

    def watch(self, run: str, viewer: Viewer) -> None:
        self._viewers.setdefault(run, set()).add(viewer)
        self._tell_pace(run)

    def leave(self, run: str, viewer: Viewer) -> None:
        left = self._viewers.get(run, set())
        left.discard(viewer)
        if not left:
            self._viewers.pop(run, None)
            self._tell_pace(run)

    def publish(self, run: str, kind: str, message: dict[str, Any]) -> None:
        for viewer in self._viewers.get(run, ()):
            viewer.put(kind, message)

    def publish_all(self, run: str, kind: str, messages: Iterable[dict[str, Any]]) -> None:
        for message in messages:
            self.publish(run, kind, message)

    def publish_frame(
        self, run: str, frame: wire.Frame, layout: int, columns: list[int], now: float
    ) -> None:
        """A stored frame; it is put into the browser's form once for all viewers."""
        viewers = self._viewers.get(run)
        if not viewers:
            return
        message = browser_frame(frame, layout, now)
        steps = struct.unpack_from("<Q", frame.steps)[0], struct.unpack("<Q", frame.steps[-8:])[0]
        for viewer in viewers:
            viewer.stale = True
            span = range(steps[0], steps[1] + 1)
            if gone := viewer.put_frame(message, layout, columns, span):
                self.dropped(gone)

    def changed(self, run: str) -> None:
        """The run's summary is not what it was."""
        for viewer in self._viewers.get(run, ()):
            viewer.stale = True

    def _tell_pace(self, run: str) -> None:
        trainer = self.trainers.get(run)
        if trainer is not None:
            trainer.tell(wire.Pace(self.pace(run)))


def browser_frame(frame: wire.Frame, layout: int, now: float) -> bytes:
    """A header's length, the header (JSON), steps and times (float64), values (float32)."""
    steps = struct.unpack(f"<{len(frame.steps) // 8}Q", frame.steps)
    header = json.dumps(
        {"layout": layout, "n": len(steps), "version": frame.version, "sent": now}
    ).encode()
    header += b" " * (-(4 + len(header)) % 8)
    return b"".join(
        (
            struct.pack("<I", len(header)),
            header,
            struct.pack(f"<{len(steps)}d", *steps),
            frame.times,
            frame.values,
        )
    )
