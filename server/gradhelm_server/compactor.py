"""The compactor: a thread that turns the inbox of frames into tiles, behind everybody's back.

It also lets go, by and by, of what is not to be kept any longer.

Law: what a reader sees does not change by compacting. Frames go and tiles come in one transaction, and the
buckets of every level are again those of exactly the steps that are in tiles. Nobody waits for it:
frames are acknowledged when they are in the inbox.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from sqlalchemy import Connection, delete, func, insert, or_, select
from sqlalchemy.exc import DBAPIError

from gradhelm import wire

from . import lost, tables
from .matrix import Layout, Reader, unpack_payload
from .retention import prune
from .rollup import SIZES, Piece
from .settings import Policy
from .store import Store
from .tiles import BUCKETS, INDEX, pack_buckets, pack_columns, pack_index, steps_of

log = logging.getLogger(__name__)
LOOK_AROUND: Final = 300.0
"""Seconds between two looks for what nobody woke it for: runs that fell silent."""
KEEP_ALL: Final = Policy()
FRAMES: Final = 4096
"""Frames of one tile at most."""


class Inbox(NamedTuple):
    """The frames of one layout of one segment."""

    run: str
    segment: str
    layout: int


class Compactor:
    """Runs between ``start`` and ``stop``."""

    def __init__(self, store: Store, silent_after: float, policy: Policy = KEEP_ALL) -> None:
        self._store = store
        self._policy = policy
        self._silent_after = silent_after
        self._queue: queue.SimpleQueue[tuple[str, str, int | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="gradhelm-compactor", daemon=True)
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the tile at hand."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()

    def wake(self, run: str, segment: str, layout: int | None = None) -> None:
        """There is enough for a tile of ``layout``; without one, the segment is over."""
        self._queue.put((run, segment, layout))

    def _work(self) -> None:
        looked = -LOOK_AROUND
        while not self._stopping:
            patience = looked + LOOK_AROUND - time.monotonic()
            if patience <= 0:
                self._try(self._look_around)
                looked = time.monotonic()
                continue
            with suppress(queue.Empty):
                asked = self._queue.get(timeout=patience)
                if asked is not None:
                    self._try(self._compact_asked, *asked)

    def _try(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except DBAPIError as error:  # a full disk, a locked database: the inbox keeps it all
            log.warning("cannot compact at the moment: %s", error.orig)
        except Exception:
            log.exception("cannot compact %s", arguments or "what is left over")

    def _look_around(self) -> None:
        for inbox, over in self._left_over():
            self.compact(inbox, over=over)
        now = time.time()
        since = now - self._silent_after
        self._store.submit(lambda c: lost.declare_silent(c, since, now)).result()
        if self._policy != KEEP_ALL:
            prune(self._store, self._policy)

    def _left_over(self) -> list[tuple[Inbox, bool]]:
        """Inboxes that may hold a tile, and those of runs that have ended or fallen silent."""
        frames, runs = tables.frames, tables.runs
        silent = time.time() - self._silent_after
        with self._store.reading() as connection:
            over = {
                run
                for (run,) in connection.execute(
                    select(runs.c.id).where(
                        or_(runs.c.ended.is_not(None), runs.c.last_heard_at < silent)
                    )
                )
            }
            rows = connection.execute(
                select(frames.c.run_id, frames.c.segment, frames.c.layout).group_by(
                    frames.c.run_id, frames.c.segment, frames.c.layout
                )
            )
            return [(Inbox(*row), row[0] in over) for row in rows]

    def _compact_asked(self, run: str, segment: str, layout: int | None) -> None:
        if layout is not None:
            self.compact(Inbox(run, segment, layout), over=False)
            return
        with self._store.reading() as connection:
            layouts = list(Reader(connection, run).layouts)
        for number in layouts:
            self.compact(Inbox(run, segment, number), over=True)

    def compact(self, inbox: Inbox, *, over: bool) -> None:
        """Make tiles of an inbox as long as it holds enough for one; ``over``: of what is left, too."""
        while not self._stopping:
            with self._store.reading() as connection:
                made = _tile(connection, inbox, over=over)
            if made is None:
                return
            self._store.submit(made.put).result()


class _Made(NamedTuple):
    """A tile that is ready to take the place of its frames."""

    inbox: Inbox
    frames: list[int]
    rows: list[dict[str, Any]]
    replaced: list[tuple[int, int]]
    """Level and first bucket of the tiles that are among ``rows`` again, with more in them."""

    def put(self, connection: Connection) -> None:
        tiles, frames = tables.tiles, tables.frames
        mine = [getattr(tiles.c, name) == value for name, value in _keys(self.inbox).items()]
        for level, first in self.replaced:
            connection.execute(
                delete(tiles).where(*mine, tiles.c.level == level, tiles.c.first == first)
            )
        connection.execute(insert(tiles), self.rows)
        gone = 0
        for start in range(0, len(self.frames), 500):
            some = self.frames[start : start + 500]
            gone += connection.execute(delete(frames).where(frames.c.id.in_(some))).rowcount
        if gone != len(self.frames):
            raise RuntimeError(f"somebody else has compacted frames of {self.inbox}")


def _keys(inbox: Inbox) -> dict[str, Any]:
    return {"run_id": inbox.run, "segment": inbox.segment, "layout": inbox.layout}


def _tile(connection: Connection, inbox: Inbox, *, over: bool) -> _Made | None:
    """The next tile of an inbox; None when it does not hold enough for one."""
    frames = tables.frames
    reader = Reader(connection, inbox.run, inbox.segment)
    layout = reader.layouts[inbox.layout]
    wanted = steps_of(len(layout.columns))
    mine = (
        frames.c.run_id == inbox.run,
        frames.c.segment == inbox.segment,
        frames.c.layout == inbox.layout,
    )
    held = connection.scalar(select(func.sum(frames.c.steps)).where(*mine)) or 0
    if not held or (held < wanted and not over):
        return None
    ids: list[int] = []
    parts: list[_Steps] = []
    there = 0
    for row in connection.execute(
        select(frames.c.id, frames.c.version, frames.c.steps, frames.c.payload)
        .where(*mine)
        .order_by(frames.c.seq)
        .limit(FRAMES)
    ):
        if there >= wanted:
            break
        steps, times, values = unpack_payload(row.payload, row.steps, slice(None))
        versions = np.full(row.steps, row.version, np.uint64)
        parts.append(_Steps(steps, times, versions, values))
        ids.append(row.id)
        there += row.steps
    matrix = _Steps(*map(np.concatenate, zip(*parts, strict=True))).merged()
    rows = []
    for part in matrix.cut(wanted):
        rows += _level_0(part, layout)
    buckets, replaced = _levels(reader, inbox, layout, matrix)
    return _Made(inbox, ids, [{**_keys(inbox), **row} for row in rows + buckets], replaced)


class _Steps(NamedTuple):
    """Steps, times, versions, values [step, column]."""

    steps: wire.StepArray
    times: wire.TimeArray
    versions: wire.StepArray
    values: wire.FloatArray

    def merged(self) -> _Steps:
        """Rows of the same step as one; of what stands twice the last word counts."""
        steps = self.steps
        again = np.flatnonzero(steps[1:] == steps[:-1]) + 1
        if not len(again):
            return self
        values = self.values.copy()
        for row in again.tolist():
            values[row] = np.where(wire.missing(values[row]), values[row - 1], values[row])
        kept = np.append(steps[1:] != steps[:-1], True)
        return _Steps(steps[kept], self.times[kept], self.versions[kept], values[kept])

    def cut(self, wanted: int) -> list[_Steps]:
        """Even parts of about ``wanted`` steps: a frame alone may hold more than a tile."""
        count = max(1, round(len(self.steps) / wanted))
        return [
            _Steps(*part) for part in zip(*(np.array_split(a, count) for a in self), strict=True)
        ]


def _level_0(part: _Steps, layout: Layout) -> list[dict[str, Any]]:
    values = np.ascontiguousarray(part.values.T)
    packed = {INDEX: pack_index(part.steps, part.times, part.versions)}
    for block, (start, end) in enumerate(layout.spans(0)):
        packed[block] = pack_columns(values[start:end])
    shared = {
        "level": 0,
        "first": int(part.steps[0]),
        "last": int(part.steps[-1]),
        "size": len(part.steps),
    }
    return [{**shared, "block": block, "payload": payload} for block, payload in packed.items()]


def _levels(
    reader: Reader, inbox: Inbox, layout: Layout, matrix: _Steps
) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """The tiles of buckets that these steps make or change, and the changed ones as they were."""
    rows: list[dict[str, Any]] = []
    replaced: list[tuple[int, int]] = []
    everything = np.arange(len(layout.columns))
    piece = Piece.of_steps(matrix.steps, matrix.values)
    for level, (size, below) in enumerate(zip(SIZES[1:], SIZES, strict=False), 1):
        piece = piece.coarsen(size // below)
        # Only the newest stored tile can go on: what comes is later than all that is in it.
        tile = int(piece.ids[0]) // BUCKETS
        before = reader.buckets(
            inbox.segment, inbox.layout, everything, level, tile * BUCKETS, (tile + 1) * BUCKETS - 1
        )
        whole = piece
        if before:
            replaced.append((level, int(before[0].ids[0])))
            whole = Piece.joined([*before, piece]).coarsen(1)
        homes = whole.ids // BUCKETS
        for begin, end in _runs(homes):
            part = whole.rows(slice(begin, end))
            planes = part.planes()
            shared = {
                "level": level,
                "first": int(part.ids[0]),
                "last": int(part.ids[-1]),
                "size": len(part),
            }
            rows += [
                {**shared, "block": block, "payload": pack_buckets(part.ids, planes[:, start:stop])}
                for block, (start, stop) in enumerate(layout.spans(level))
            ]
    return rows, replaced


def _runs(values: Sequence[int] | Any) -> list[tuple[int, int]]:
    """Where runs of equal values begin and end."""
    return list(
        pairwise([0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)])
    )
