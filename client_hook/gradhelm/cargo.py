"""The cargo: what the training thread leaves behind, made into records for the outbox.

Law: every row that was handed over ends up in exactly one frame per column group, or in a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from . import wire
from .control import Steering
from .outbox import Outbox
from .ring import Group, Ring
from .scalars import Scalars

if TYPE_CHECKING:
    from .recorder import Recorder

SETTLE: Final = 0.05
"""Seconds that logged scalars wait for others of their step, so that they travel as one row."""


class Lane(NamedTuple):
    """Where rows come from, their columns, the groups these are sent in, and the rows' stream."""

    source: Recorder | Ring
    groups: list[Group]
    columns: list[wire.Column]
    stream: str | None


@dataclass(frozen=True)
class Cargo:
    """The lanes between the two threads.

    beat: the last step taken and the run's own statistics; called by the sender thread.
    """

    lanes: list[Lane]
    scalars: Scalars
    steering: Steering
    beat: Callable[[], tuple[int | None, dict[str, float]]]

    def load(self, outbox: Outbox, *, over: bool = False) -> None:
        """Moves everything that is there into ``outbox``; ``over`` says that no more is coming."""
        self._declare(outbox, over)
        for lane in self.lanes:
            for batch in lane.source.batches():
                for group in lane.groups:
                    rows = batch.rows[:, group.start : group.stop]
                    _put(outbox, group.number, batch.version, batch.steps, batch.times, rows)
        for part in self.scalars.rows(before=time.time() - (-1.0 if over else SETTLE)):
            _put(outbox, part.group, part.version, part.steps, part.times, part.values)
        if over:
            self._declare(outbox, over)  # what a device never told was given up just now

    def _declare(self, outbox: Outbox, over: bool) -> None:
        lossy = [(lane.source.losses, "ring full") for lane in self.lanes]
        for losses, reason in (*lossy, (self.scalars.losses, "log full")):
            if over:
                losses.end()
            for lost in losses.take():
                outbox.declare(lost.first, lost.last, lost.rows, reason)


def _put(
    outbox: Outbox,
    group: int,
    version: int,
    steps: wire.StepArray,
    times: wire.TimeArray,
    rows: wire.FloatArray,
) -> None:
    # Steps and times take 16 bytes a row, and the whole message has to stay below MAX_MESSAGE.
    most = max(1, wire.MAX_FRAME // (4 * rows.shape[1] + 16))
    for first in range(0, len(steps), most):
        part = slice(first, first + most)
        outbox.put(wire.pack_frame(1, group, version, steps[part], times[part], rows[part]))


def declared(
    group: int, columns: tuple[wire.Column, ...], stream: str | None = None
) -> Iterator[wire.Columns]:
    """``columns`` of a group in messages that stay well below MAX_MESSAGE."""
    first = size = 0
    for index, column in enumerate(columns):
        cost = 4 * len(column.name) + 10 * len(column.shape) + 60
        if size + cost > 200 * 1024:
            yield wire.Columns(group, first, columns[first:index], stream)
            first, size = index, 0
        size += cost
    yield wire.Columns(group, first, columns[first:], stream)
