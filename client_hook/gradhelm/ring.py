"""The ring: rows of measures on their way from the training thread to the sender thread.

Law: one producer, one consumer, no lock, no allocation per step; pushing never blocks. A full ring
refuses the newest row, and what it refused is known exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from .wire import MISSING_BITS, FloatArray, StepArray, TimeArray

BUDGET: Final = 16 * 1024 * 1024
"""Bytes of values that a ring may hold."""


def room(columns: int) -> int:
    """The rows of so many columns that may wait for the sender."""
    return max(64, min(8192, BUDGET // (4 * columns)))


class Lost(NamedTuple):
    """``rows`` rows of the steps ``first``..``last`` that found no room."""

    first: int
    last: int
    rows: int


class Losses:
    """What one producer had to refuse, handed over span by span.

    A span ends when a row finds room again, so that a consumer who sees a row after a loss also
    sees the loss.
    """

    def __init__(self) -> None:
        self.count = 0
        self._open: Lost | None = None
        self._spans: deque[Lost] = deque()

    def refuse(self, step: int) -> None:
        """Counts one row of ``step`` as lost."""
        self.count += 1
        span = self._open
        self._open = Lost(step, step, 1) if span is None else Lost(span[0], step, span[2] + 1)

    def end(self) -> None:
        """The span is over; called by the producer before the next row, and at the end."""
        if self._open is not None:
            self._spans.append(self._open)
            self._open = None

    def take(self) -> Iterator[Lost]:
        """The ended spans, each once; called by the consumer."""
        while self._spans:
            yield self._spans.popleft()


class Group(NamedTuple):
    """The columns ``start``..``stop`` of a ring's rows, sent as one column group."""

    number: int
    start: int
    stop: int


class Batch(NamedTuple):
    """Consecutive rows under one control version, as views that are valid until the next one."""

    version: int
    steps: StepArray
    times: TimeArray
    rows: FloatArray


class Ring:
    """A matrix of ``capacity`` rows x ``columns`` in float32, with step, time and version of each.

    The producer fills the slot that :meth:`reserve` gives, through :attr:`rows` or their bytes in
    :attr:`memory` (``row_bytes`` each), and hands it over with :meth:`commit`.
    """

    def __init__(self, columns: int) -> None:
        self.capacity = room(columns)
        self.losses = Losses()
        self.rows: FloatArray = np.empty((self.capacity, columns), np.float32)
        self.row_bytes = 4 * columns
        self._bits = self.rows.view(np.uint32)
        self._steps = np.zeros(self.capacity, np.uint64)
        self._times = np.zeros(self.capacity, np.float64)
        self._versions = np.zeros(self.capacity, np.uint64)
        # Single numbers are written through memoryviews: a tenth of the time of numpy's scalars.
        self.memory = self.rows.data.cast("B")
        self._step_cells = self._steps.data
        self._time_cells: memoryview[float] = self._times.data.cast("B").cast("d")
        self._version_cells = self._versions.data
        self._slot = 0
        # Both only grow; each is written by one thread and read by the other.
        self._head = 0
        self._tail = 0

    def __len__(self) -> int:
        return self._head - self._tail

    @property
    def fill(self) -> float:
        """The share of the ring that waits for the sender, 0 to 1."""
        return len(self) / self.capacity

    def reserve(self, step: int, *, blank: bool) -> int | None:
        """The slot to fill for ``step``; None (and a loss) when the ring is full.

        ``blank`` makes it all MISSING first, for those who do not fill the whole of it.
        """
        if self._head - self._tail >= self.capacity:
            self.losses.refuse(step)
            return None
        self._slot = slot = self._head % self.capacity
        if blank:
            self._bits[slot].fill(MISSING_BITS)
        return slot

    def commit(self, step: int, time: float, version: int) -> None:
        """Hands the reserved slot over; from here on it belongs to the consumer."""
        slot = self._slot
        self._step_cells[slot] = step
        self._time_cells[slot] = time
        self._version_cells[slot] = version
        self.losses.end()
        self._head += 1

    def batches(self, limit: int | None = None) -> Iterator[Batch]:
        """Takes rows (at most ``limit``, default: all there are now), oldest first.

        Rows of one batch have one version and increasing steps. A batch is released when the next
        one is asked for.
        """
        end = self._head if limit is None else min(self._head, self._tail + limit)
        while self._tail < end:
            first = self._tail % self.capacity
            last = min(first + end - self._tail, self.capacity)
            steps, versions = self._steps[first:last], self._versions[first:last]
            breaks = np.flatnonzero((versions[1:] != versions[:-1]) | (steps[1:] <= steps[:-1]))
            if breaks.size:
                last = first + int(breaks[0]) + 1
            yield Batch(
                int(self._versions[first]),
                self._steps[first:last],
                self._times[first:last],
                self.rows[first:last],
            )
            self._tail += last - first
