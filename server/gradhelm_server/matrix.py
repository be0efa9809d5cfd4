"""The stored matrix of a run: frames of steps, rollups of buckets, and one way to read both.

A *layout* says which columns of the run a frame holds. A *segment* is one life of the trainer;
where segments overlap in steps (a resume from an older checkpoint), the newest is what a reader
gets, unless he asks for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, select

from gradhelm import wire

from .rollup import FACTOR, LEVELS, Piece
from .tables import columns as columns_table
from .tables import frames, layouts, rollups, segments

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps ``first``..``last`` (inclusive) of one segment."""

    segment: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Series:
    """One column: ``step`` is each bucket's first step; with stride 1 the value is ``mean``."""

    step: npt.NDArray[np.int64]
    low: wire.FloatArray
    mean: wire.FloatArray
    high: wire.FloatArray
    nonfinite: npt.NDArray[np.uint32]


def pack_payload(steps: wire.StepArray, times: wire.TimeArray, values: wire.FloatArray) -> bytes:
    """Steps, times, then the values column by column, so that one column is one slice."""
    return steps.tobytes() + times.tobytes() + np.ascontiguousarray(values.T).tobytes()


def unpack_payload(
    payload: bytes, count: int, take: Indices | slice
) -> tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]:
    """Steps, times and the columns ``take`` [steps x taken] of a stored frame."""
    steps = np.frombuffer(payload, "<u8", count)
    times = np.frombuffer(payload, "<f8", count, 8 * count)
    values = np.frombuffer(payload, "<f4", offset=16 * count).reshape(-1, count)
    return steps, times, values[take].T


def stride_for(first: int, last: int, points: int) -> int:
    """The smallest power of two with which ``first``..``last`` takes at most ``points`` buckets."""
    stride = 1
    while last // stride - first // stride + 1 > points:
        stride *= 2
    return stride


def stretches(
    connection: Connection,
    run: str,
    first: int,
    last: int,
    segment: str | None = None,
    stream: str = "",
) -> list[Stretch]:
    """Which segment holds which steps (those of ``stream``) of a range, in the order of steps."""
    query = (
        select(segments.c.segment, segments.c.first_step, segments.c.last_step)
        .where(
            segments.c.run_id == run,
            segments.c.stream == stream,
            segments.c.first_step.is_not(None),
        )
        .order_by(segments.c.ordinal.desc())
    )
    if segment is not None:
        query = query.where(segments.c.segment == segment)
    found: list[Stretch] = []
    before = last  # what a newer segment holds hides the older ones
    for name, begin, end in connection.execute(query):
        low, high = max(first, begin), min(before, end)
        if low <= high:
            found.append(Stretch(name, low, high))
        before = min(before, begin - 1)
    return found[::-1]


class Reader:
    """Reads of one run's matrix over one connection."""

    def __init__(self, connection: Connection, run: str, segment: str | None = None) -> None:
        self.connection = connection
        self.run = run
        self.segment = segment
        self.layouts: dict[int, npt.NDArray[np.int32]] = {}
        self.streams: dict[str, list[int]] = {}
        for row in connection.execute(select(layouts).where(layouts.c.run_id == run)):
            self.layouts[row.layout] = np.frombuffer(row.columns, "<i4")
            self.streams.setdefault(row.stream, []).append(row.layout)

    def series(self, wanted: list[int], first: int, last: int, stride: int) -> dict[int, Series]:
        """Each wanted column as buckets of ``stride`` steps (a power of two), holes left out."""
        pieces: dict[int, list[tuple[Piece, int]]] = {column: [] for column in wanted}
        for piece, columns in self._all(wanted, first, last, stride):
            for position, column in enumerate(columns):
                pieces[column].append((piece, position))
        return {column: _series(found, stride) for column, found in pieces.items()}

    def heatmap(
        self, wanted: list[int], first: int, last: int, stride: int
    ) -> tuple[wire.FloatArray, int]:
        """Maxima [column, bucket] and the step of bucket 0; +Inf where anything was non-finite."""
        origin = first // stride
        image = np.full((len(wanted), last // stride - origin + 1), wire.MISSING, np.float32)
        row_of = {column: row for row, column in enumerate(wanted)}
        for piece, columns in self._all(wanted, first, last, stride):
            rows = np.array([row_of[column] for column in columns], np.intp)
            cells = np.where(piece.nonfinite > 0, np.float32(np.inf), piece.high)
            cells[(piece.count == 0) & (piece.nonfinite == 0)] = wire.MISSING
            target = np.ix_(rows, piece.ids - origin)
            there = image[target]
            # At the seam of two segments a bucket has a part in each.
            image[target] = np.where(wire.missing(cells.T), there, np.fmax(there, cells.T))
        return image, origin * stride

    def _all(
        self, wanted: list[int], first: int, last: int, stride: int
    ) -> Iterator[tuple[Piece, list[int]]]:
        """All that there is of these columns: pieces, each with the columns it holds."""
        for stream, mine in self.streams.items():
            found = [
                (layout, at)
                for layout in mine
                if len(at := np.flatnonzero(np.isin(self.layouts[layout], wanted)))
            ]
            if not found:
                continue
            parts = stretches(self.connection, self.run, first, last, self.segment, stream)
            for part in parts:
                for layout, at in found:
                    columns = self.layouts[layout][at].tolist()
                    yield self._buckets(part, layout, at, stride), columns

    def _buckets(self, part: Stretch, layout: int, at: Indices, stride: int) -> Piece:
        level = 0
        while level < LEVELS and FACTOR ** (level + 1) <= stride:
            level += 1
        found = self._pieces(part, layout, at, level, stride)
        if not found:
            return Piece.empty(len(at))
        piece = Piece.joined(found)
        return piece if stride == 1 else piece.coarsen(1)

    def _pieces(
        self, part: Stretch, layout: int, at: Indices, level: int, stride: int
    ) -> list[Piece]:
        """Buckets of ``stride`` steps from the rollups of ``level``, the edges from lower ones."""
        if part.first > part.last:
            return []
        if level == 0:
            return self._raw(part, layout, at, stride)
        size = FACTOR**level
        begin, end = -(-part.first // size), (part.last + 1) // size  # buckets wholly inside
        inner = self.closed(part.segment, layout, at, level, begin, end - 1)
        closed = (int(inner[-1].ids[-1]) + 1) * size if inner else part.first
        opened = begin * size if inner else part.last + 1
        left = Stretch(part.segment, part.first, min(opened - 1, part.last))
        right = Stretch(part.segment, closed, part.last) if inner else None
        return [
            *self._pieces(left, layout, at, level - 1, stride),
            *(piece.coarsen(stride // size) for piece in inner),
            *(self._pieces(right, layout, at, level - 1, stride) if right else []),
        ]

    def closed(
        self, segment: str, layout: int, at: Indices, level: int, first: int, last: int
    ) -> list[Piece]:
        """The stored buckets ``first``..``last`` of a level, as the columns ``at``."""
        if first > last:
            return []
        rows = self.connection.execute(
            select(rollups.c.payload)
            .where(
                rollups.c.run_id == self.run,
                rollups.c.segment == segment,
                rollups.c.layout == layout,
                rollups.c.level == level,
                rollups.c.first_bucket <= last,
                rollups.c.last_bucket >= first,
            )
            .order_by(rollups.c.first_bucket)
        )
        width = len(self.layouts[layout])
        found = []
        for (payload,) in rows:
            piece = Piece.unpack(payload, width, at)
            inside = np.flatnonzero((piece.ids >= first) & (piece.ids <= last))
            if len(inside):
                found.append(piece.rows(slice(int(inside[0]), int(inside[-1]) + 1)))
        return found

    def _raw(self, part: Stretch, layout: int, at: Indices, stride: int) -> list[Piece]:
        found = []
        for steps, _times, values in self.frames(part, layout, at):
            found.append(Piece.of_steps(steps // np.uint64(stride), values).coarsen(1))
        return found

    def frames(
        self, part: Stretch, layout: int, at: Indices
    ) -> list[tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]]:
        """The steps of a stretch as (steps, times, values [steps x at]), in their order."""
        mine = (
            (frames.c.run_id == self.run)
            & (frames.c.segment == part.segment)
            & (frames.c.layout == layout)
        )
        # Frames of a layout follow one another, so the search begins at the first one that
        # reaches the stretch instead of reading all that lie before it.
        start = (
            select(frames.c.first_step)
            .where(mine, frames.c.last_step >= part.first)
            .order_by(frames.c.last_step, frames.c.first_step)
            .limit(1)
        )
        rows = self.connection.execute(
            select(frames.c.payload, frames.c.steps)
            .where(
                mine,
                frames.c.first_step >= func.coalesce(start.scalar_subquery(), part.first),
                frames.c.first_step <= part.last,
            )
            .order_by(frames.c.first_step, frames.c.seq)
        )
        found = []
        for payload, count in rows:
            steps, times, values = unpack_payload(payload, count, at)
            inside = slice(
                int(np.searchsorted(steps, part.first)),
                int(np.searchsorted(steps, part.last, side="right")),
            )
            if inside.start < inside.stop:
                found.append((steps[inside], times[inside], values[inside]))
        return found


def _series(found: list[tuple[Piece, int]], stride: int) -> Series:
    """One column out of the pieces that hold it, each at a position of its own."""
    piece = Piece.empty(1)
    if found:
        piece = Piece.joined([piece.column(at) for piece, at in found])
        piece = piece.rows(np.flatnonzero((piece.count + piece.nonfinite)[:, 0] > 0))
        piece = piece.rows(np.argsort(piece.ids, kind="stable"))
        if stride == 1:  # a scalar may be logged again for the same step: the last word wins
            last = np.append(piece.ids[1:] != piece.ids[:-1], True)
            piece = piece.rows(np.flatnonzero(last[: len(piece)]))
        else:
            piece = piece.coarsen(1)
    # A NaN or infinite value has no place in minima and maxima; the non-finite count tells it.
    empty = piece.count[:, 0] == 0
    nan = np.float32(np.nan)
    return Series(
        piece.ids * stride,
        np.where(empty, nan, piece.low[:, 0]),
        piece.mean()[:, 0],
        np.where(empty, nan, piece.high[:, 0]),
        piece.nonfinite[:, 0],
    )


def column_names(connection: Connection, run: str) -> dict[str, int]:
    """Name -> index of every column of a run, in the order of declaration."""
    rows = connection.execute(
        select(columns_table.c.name, columns_table.c.idx)
        .where(columns_table.c.run_id == run)
        .order_by(columns_table.c.idx)
    )
    return {name: index for name, index in rows}
