"""The outbox: records between the ring and their acknowledgement.

Law: bounded, newest kept. A record gets its number when it is first sent and keeps it until the
server has stored it; records that must give way become one gap that says how many rows it stands
for. Nothing here knows sockets or clocks.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from .wire import MAX_NAME, Frame, Gap, encode

BUDGET: Final = 32 * 1024 * 1024
"""Bytes of frames that may wait: with the ring, well below 64 MiB."""

_OVERHEAD: Final = 400
"""Bytes that Python adds to a frame, about."""


class Outbox:
    """Unsent records in ``waiting`` (numbered at sending) and sent ones in ``flight``."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.acked = 0
        self.rows_shed = 0
        self.frames_sent = 0
        self._size = 0
        self._next = 1
        self._cursor = 1
        self._flight: dict[int, Frame | Gap] = {}
        # What gave way: it is older than all that waits.
        self._shed: Gap | None = None
        self._waiting: deque[Frame | Gap] = deque()

    def __len__(self) -> int:
        """Records not yet acknowledged."""
        return self._next - 1 - self.acked + (self._shed is not None) + len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes that wait or are in flight."""
        return self._size

    def put(self, frame: Frame) -> None:
        """Takes a frame (its ``seq`` is set when it is sent); older frames may give way."""
        self._waiting.append(frame)
        self._size += size(frame)
        while self._size > self.budget and self._waiting:
            self._give_way("outbox full")

    def declare(self, first: int, last: int, count: int, reason: str) -> None:
        """Takes the news that rows were lost before they came here."""
        gap = Gap(1, first, last, count, reason[:MAX_NAME])
        if self._waiting and isinstance(self._waiting[-1], Gap):
            gap = _merged(self._waiting.pop(), gap)
        self._waiting.append(gap)

    def abandon(self, reason: str) -> None:
        """Turns everything that was never sent into one gap."""
        while self._waiting:
            self._give_way(reason)

    def next(self, window: int) -> bytes | None:
        """The next record to send, encoded; None when all is sent or ``window`` are in flight."""
        if self.in_flight >= window:
            return None
        record: Frame | Gap | None
        if self._cursor < self._next:
            record = self._flight[self._cursor]
        else:
            record = self._oldest()
            if record is None:
                return None
            self._flight[self._next] = record
            self._take()
        self._cursor += 1
        self.frames_sent += isinstance(record, Frame)
        return encode(record)

    def ack(self, seq: int) -> None:
        """Everything up to ``seq`` is stored."""
        for number in range(self.acked + 1, min(seq + 1, self._next)):
            if number in self._flight:
                self._size -= size(self._flight.pop(number))
            self.acked = number
        self._cursor = max(self._cursor, self.acked + 1)

    def resume(self, high_water: int) -> None:
        """A new connection to a server that has everything up to ``high_water``: send the rest."""
        self.ack(high_water)
        self._cursor = self.acked + 1

    def renumber(self) -> None:
        """A new segment begins: all that is unacknowledged gets numbers from 1 on."""
        if self._shed is not None:
            self._waiting.appendleft(self._shed)
            self._shed = None
        self._waiting.extendleft(reversed(self._flight.values()))
        self._flight.clear()
        self._next = self._cursor = 1
        self.acked = 0

    @property
    def in_flight(self) -> int:
        """How many records are sent and not acknowledged."""
        return self._cursor - 1 - self.acked

    def rewind(self, seq: int) -> None:
        """Send again from ``seq`` on (or from the oldest record that is still here)."""
        self._cursor = min(self._cursor, max(seq, self.acked + 1))

    def _oldest(self) -> Frame | Gap | None:
        """The oldest record that has no number yet, under the next one; None when there is none."""
        if self._shed is None and not self._waiting:
            return None
        return msgspec.structs.replace(self._shed or self._waiting[0], seq=self._next)

    def _take(self) -> None:
        """The oldest record has its number now, and is kept elsewhere."""
        self._next += 1
        if self._shed is None:
            self._waiting.popleft()
        else:
            self._shed = None

    def _give_way(self, reason: str) -> None:
        """Turns the oldest waiting record into (part of) the gap before the others."""
        oldest = self._waiting.popleft()
        if isinstance(oldest, Frame):
            self._size -= size(oldest)
            oldest = _lost(oldest, reason)
            self.rows_shed += oldest.count
        self._shed = oldest if self._shed is None else _merged(self._shed, oldest)


def size(record: Frame | Gap) -> int:
    """Bytes that a record takes in memory."""
    if isinstance(record, Gap):
        return 0
    return _OVERHEAD + len(record.steps) + len(record.times) + len(record.values)


def _lost(frame: Frame, reason: str) -> Gap:
    first = int.from_bytes(frame.steps[:8], "little")
    last = int.from_bytes(frame.steps[-8:], "little")
    return Gap(1, first, last, len(frame.steps) // 8, reason)


def _merged(one: Frame | Gap, other: Gap) -> Gap:
    """One gap for two that follow each other; both reasons are kept."""
    assert isinstance(one, Gap)
    reasons = dict.fromkeys([*one.reason.split(", "), *other.reason.split(", ")])
    return Gap(
        1,
        min(one.first, other.first),
        max(one.last, other.last),
        one.count + other.count,
        ", ".join(reasons)[:MAX_NAME],
    )
