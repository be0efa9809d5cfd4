"""The cargo: what the training thread leaves behind, made into records for the outbox.

Law: every row that was handed over ends up in exactly one frame per column group, or in a gap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from . import wire
from .control import Steering
from .judge import Judge
from .notice import Notices
from .outbox import Outbox
from .ring import Batch, Group, Ring
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
    judge: Judge
    beat: Callable[[], tuple[int | None, dict[str, float]]]
    notices: Notices

    def load(self, outbox: Outbox, *, over: bool = False) -> None:
        """Moves everything that is there into ``outbox``; ``over`` says that no more is coming."""
        self._declare(outbox, over)
        for lane in self.lanes:
            for batch in lane.source.batches():
                for group in lane.groups:
                    self._put(outbox, batch, group)
        before = math.inf if over else time.monotonic() - SETTLE
        for part in self.scalars.rows(before):
            _put(outbox, part.group, part.version, part.steps, part.times, part.values)
        if self.steering.trial is not None:
            self.judge.look(before)
        if over:
            self._declare(outbox, over)  # what a device never told was given up just now

    def _put(self, outbox: Outbox, batch: Batch, group: Group) -> None:
        """The columns of ``group``; where that fails, the rows are declared missing."""
        try:
            rows = batch.rows[:, group.start : group.stop]
            _put(outbox, group.number, batch.version, batch.steps, batch.times, rows)
        except Exception as error:
            first, last = int(batch.steps[0]), int(batch.steps[-1])
            outbox.declare(first, last, len(batch.steps), "a fault of gradhelm's own")
            self.notices.fault("packing", error)

    def told(self, known: int = 0) -> Iterator[wire.Columns]:
        """The columns of every group there is, but for the first ``known`` of them."""
        groups = [
            (group.number, tuple(lane.columns[group.start : group.stop]), lane.stream)
            for lane in self.lanes
            for group in lane.groups
        ]
        groups += [(number, columns, None) for number, columns in self.scalars.groups.items()]
        for number, columns, stream in groups[known:]:
            yield from declared(number, columns, stream)

    @property
    def groups(self) -> int:
        """How many groups there are; of logged scalars ever more."""
        return sum(len(lane.groups) for lane in self.lanes) + len(self.scalars.groups)

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
