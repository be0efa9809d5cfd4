"""The stored matrix of a run: an inbox of frames, tiles of steps and buckets, and one way to read.

A *layout* says which columns of the run a frame holds. A *segment* is one life of the trainer;
where segments overlap in steps (a resume from an older checkpoint), the newest is what a reader
gets, unless he asks for another.

Law: of each segment and layout, tiles hold all steps up to some step and frames all that come
after; the buckets of every level are those of exactly the steps that are in tiles. So whatever is
read is put together from buckets, from steps at the edges where a bucket would hold too much, and
from the inbox; a view takes as long as it is wide, however many steps it covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, bindparam, func, select

from gradhelm import wire

from .rollup import SIZES, Piece
from .tables import columns as columns_table
from .tables import frames, layouts, segments, tiles
from .tiles import BUCKETS, INDEX, unpack_buckets, unpack_column, unpack_columns, unpack_index

Indices = npt.NDArray[np.int64]
LOOKED_INTO = 256
"""Tiles of a stretch that are looked into for when its steps were taken."""
BLOCKS = 8
"""Blocks that are one at the levels from 2 on."""
TOGETHER = 16
"""Tiles of which a single column is handed out at once: what the processor's cache holds."""
CLOSED = 1000
"""Steps after which nobody logs a scalar for a step any more."""

# What every read asks, made once: putting the words together takes as long as the answer.
_of = (
    tiles.c.run_id == bindparam("b_run"),
    tiles.c.segment == bindparam("b_segment"),
    tiles.c.layout == bindparam("b_layout"),
)
_index = (*_of, tiles.c.level == 0, tiles.c.block == INDEX)
_newest = select(func.max(tiles.c.first)).where(*_index).scalar_subquery()
# Two searches: asked for both at once, SQLite looks at every tile.
_EXTENT: Final = select(
    select(func.min(tiles.c.first)).where(*_index).scalar_subquery(),
    select(tiles.c.last).where(*_index, tiles.c.first == _newest).limit(1).scalar_subquery(),
)
# Tiles follow one another, so the search begins at the last one that begins in time.
_start = select(func.max(tiles.c.first)).where(
    *_of,
    tiles.c.level == bindparam("b_level"),
    tiles.c.block == bindparam("b_block"),
    tiles.c.first <= bindparam("b_first"),
)
_TILES: Final = select(
    tiles.c.first, tiles.c.id, tiles.c.last, tiles.c.size, tiles.c.payload
).where(
    *_of,
    tiles.c.level == bindparam("b_level"),
    tiles.c.block.in_(bindparam("b_blocks", expanding=True)),
    tiles.c.first >= func.coalesce(_start.scalar_subquery(), bindparam("b_first")),
    tiles.c.first <= bindparam("b_last"),
    tiles.c.last >= bindparam("b_first"),
)
_LAYOUTS: Final = select(layouts).where(layouts.c.run_id == bindparam("b_run"))
_SEGMENTS: Final = (
    select(
        segments.c.segment,
        segments.c.stream,
        segments.c.first_step,
        segments.c.last_step,
        segments.c.kept_since,
        segments.c.high_water,
    )
    .where(segments.c.run_id == bindparam("b_run"), segments.c.first_step.is_not(None))
    .order_by(segments.c.ordinal, segments.c.stream)
)
_COLUMNS: Final = (
    select(columns_table.c.name, columns_table.c.idx)
    .where(columns_table.c.run_id == bindparam("b_run"))
    .order_by(columns_table.c.idx)
)
_INBOX: Final = (
    select(frames.c.payload, frames.c.steps)
    .where(
        frames.c.run_id == bindparam("b_run"),
        frames.c.segment == bindparam("b_segment"),
        frames.c.layout == bindparam("b_layout"),
        frames.c.last_step >= bindparam("b_first"),
        frames.c.first_step <= bindparam("b_last"),
    )
    .order_by(frames.c.seq)
)


# Without what they hold: of a long run only some are looked into.
_CLOCK: Final = (
    select(tiles.c.id)
    .where(*_index, tiles.c.first <= bindparam("b_last"), tiles.c.last >= bindparam("b_first"))
    .order_by(tiles.c.first, tiles.c.id)
)
_PAYLOADS: Final = (
    select(tiles.c.payload)
    .where(tiles.c.id.in_(bindparam("b_ids", expanding=True)))
    .order_by(tiles.c.first, tiles.c.id)
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps ``first``..``last`` (inclusive) of one segment.

    Of steps before ``kept`` the norms were dropped, and only their buckets are left.
    """

    segment: str
    first: int
    last: int
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Series:
    """One column: ``step`` is each bucket's first step; with stride 1 the value is ``mean``."""

    step: npt.NDArray[np.int64]
    low: wire.FloatArray
    mean: wire.FloatArray
    high: wire.FloatArray
    nonfinite: npt.NDArray[np.uint32]


class Layout(NamedTuple):
    """The run's columns that a layout holds, in order, and where each block of them begins."""

    columns: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    stream: str

    def spans(self, level: int) -> list[tuple[int, int]]:
        """Where each block begins and ends.

        Of the levels from 2 on there is so little that eight blocks are one.
        """
        starts = self.starts.tolist()[:: 1 if level < 2 else BLOCKS]
        return list(zip(starts, [*starts[1:], len(self.columns)], strict=True))

    def droppable(self, at: Indices) -> bool:
        """Whether any of the columns ``at`` is in a block of several, which retention may drop."""
        return any(width > 1 for _, width, *_ in self.blocks(at, 0))

    def blocks(self, at: Indices, level: int) -> list[tuple[int, int, Indices, Indices]]:
        """The blocks that hold the columns ``at``: its number, its width, which of its columns
        these are, and their places in ``at``."""
        spans = self.spans(level)
        home = np.searchsorted([start for start, _ in spans], at, side="right") - 1
        found = []
        for block in np.unique(home).tolist():
            places = np.flatnonzero(home == block)
            start, end = spans[block]
            found.append((block, end - start, at[places] - start, places))
        return found


def pack_payload(frame: wire.Frame) -> bytes:
    """Steps, times and values as they came."""
    return b"".join((frame.steps, frame.times, frame.values))


def unpack_payload(
    payload: bytes, count: int, take: Indices | slice
) -> tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]:
    """Steps, times and the columns ``take`` [steps x taken] of a stored frame."""
    steps = np.frombuffer(payload, "<u8", count)
    times = np.frombuffer(payload, "<f8", count, 8 * count)
    values = np.frombuffer(payload, "<f4", offset=16 * count).reshape(count, -1)
    return steps, times, values[:, take]


def stride_for(first: int, last: int, points: int) -> int:
    """The smallest power of two with which ``first``..``last`` takes at most ``points`` buckets."""
    stride = 1
    while last // stride - first // stride + 1 > points:
        stride *= 2
    return stride


def layouts_of(connection: Connection, run: str) -> dict[int, Layout]:
    """The layouts of a run by their numbers."""
    return {
        row.layout: Layout(
            np.frombuffer(row.columns, "<i4"), np.frombuffer(row.blocks, "<i4"), row.stream
        )
        for row in connection.execute(_LAYOUTS, {"b_run": run})
    }


class Reader:
    """Reads of one run's matrix over one connection."""

    def __init__(self, connection: Connection, run: str, segment: str | None = None) -> None:
        self.connection = connection
        self.run = run
        self.segment = segment
        self.layouts = layouts_of(connection, run)
        self.segments = connection.execute(_SEGMENTS, {"b_run": run}).all()
        self.streams: dict[str, list[int]] = {}
        for number, layout in self.layouts.items():
            self.streams.setdefault(layout.stream, []).append(number)

    # -- what one asks for ------------------------------------------------------------------------

    def series(self, wanted: list[int], first: int, last: int, stride: int) -> dict[int, Series]:
        """Each wanted column as buckets of ``stride`` steps (a power of two), holes left out."""
        found: dict[int, list[tuple[Piece, int]]] = {column: [] for column in wanted}
        made: dict[int, Series] = {}
        for piece, columns in self._all(wanted, first, last, stride):
            for position, column in enumerate(columns):
                found[column].append((piece, position))
            made.update(_whole(piece, columns, stride))
        return {
            column: made[column] if len(pieces) == 1 and column in made else _series(pieces, stride)
            for column, pieces in found.items()
        }

    def heatmap(
        self, wanted: list[int], first: int, last: int, stride: int
    ) -> tuple[wire.FloatArray, int]:
        """Maxima [column, bucket] and the step of bucket 0; +Inf where anything was non-finite."""
        origin = first // stride
        buckets = max(0, last // stride - origin + 1)
        image = np.full((len(wanted), buckets), wire.MISSING, np.float32)
        row_of = {column: row for row, column in enumerate(wanted)}
        for piece, columns in self._all(wanted, first, last, stride):
            cells = piece.high.T
            if not bool(piece.count.all()):
                cells = np.where(piece.count.T == 0, wire.MISSING, cells)
            if bool(piece.nonfinite.any()):
                cells = np.where(piece.nonfinite.T > 0, np.float32(np.inf), cells)
            rows = np.array([row_of[column] for column in columns], np.intp)
            target = np.ix_(rows, piece.ids - origin)
            there = image[target]
            # A column may have been in several layouts, which meet in a bucket.
            image[target] = np.where(wire.missing(there), cells, np.fmax(there, cells))
        return image, origin * stride

    def values(self, column: int, first: int, last: int) -> Iterator[wire.FloatArray]:
        """All that a column holds in a range of steps, in their order, many at a time."""
        for layout, at, part in self._holding(column, first, last):
            ((block, width, (take,), _),) = self.layouts[layout].blocks(at, 0)
            rows = self._tile_rows(part, layout, 0, [block], part.first, part.last)
            whole = [row for row in rows if part.first <= row.first and row.last <= part.last]
            # Of the first and the last tile there may be more than was asked for.
            end = whole[0].first - 1 if whole else part.last
            for _, values in self._tiled_steps(replace(part, last=end), layout, at):
                yield values[:, 0]
            for begin in range(0, len(whole), TOGETHER):
                some = whole[begin : begin + TOGETHER]
                sizes = [row.size for row in some]
                yield unpack_column([row.payload for row in some], width, int(take), sizes)
            if whole and rows[-1] is not whole[-1]:
                rest = replace(part, first=whole[-1].last + 1)
                for _, values in self._tiled_steps(rest, layout, at):
                    yield values[:, 0]
            for _, _, values in self._inbox(part, layout, at):
                yield values[:, 0]

    def ones(self, column: int, first: int, last: int) -> int:
        """How many steps of a range have a one in a column of zeros and ones."""
        found = 0
        for layout, at, part in self._holding(column, first, last):
            # By buckets whose means, kept in float32, still tell a one more from a one less.
            for piece in self._pieces(part, layout, at, SIZES[6]):
                found += int(np.rint(piece.total).sum())
        return found

    def rows(
        self, part: Stretch, layout: int, at: Indices
    ) -> list[tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]]:
        """The steps of a stretch as (steps, times, values [steps x at]), in their order."""
        indices = self._tile_rows(part, layout, 0, [INDEX], part.first, part.last)
        found = []
        for (steps, values), index in zip(
            self._tiled_steps(part, layout, at, cut=False), indices, strict=True
        ):
            times = unpack_index(index.payload)[1]
            inside = _inside(steps, part)
            found.append((steps[inside], times[inside], values[inside]))
        for steps, times, values in self._inbox(part, layout, at):
            found.append((steps, times, values))
        return [row for row in found if len(row[0])]

    def times(
        self, column: int, first: int, last: int, points: int
    ) -> tuple[wire.StepArray, wire.TimeArray]:
        """When the steps of a range were taken that have a value of ``column``'s layout, as Unix
        seconds: at most ``points`` of them, the first and the last among them."""
        found = []
        for layout, _, part in self._holding(column, first, last):
            key = {**self._key(part.segment, layout), "b_first": part.first, "b_last": part.last}
            ids = self.connection.execute(_CLOCK, key).scalars().all()
            looked = [ids[at] for at in _spread(len(ids), LOOKED_INTO)]
            for payload in self.connection.execute(_PAYLOADS, {"b_ids": looked}).scalars():
                steps, times, _ = unpack_index(payload)
                inside = _inside(steps, part)
                found.append((steps[inside], times[inside]))
            found += [(s, t) for s, t, _ in self._inbox(part, layout, np.array([], np.int64))]
        found = [one for one in found if len(one[0])]
        if not found:
            return np.empty(0, np.uint64), np.empty(0, np.float64)
        steps = np.concatenate([one[0] for one in found])
        times = np.concatenate([one[1] for one in found])
        # A column may have been in several layouts, which follow one another in no order.
        order = np.argsort(steps, kind="stable")
        some = order[_spread(len(order), points)]
        return steps[some], times[some]

    def stretches(self, first: int, last: int, stream: str) -> list[Stretch]:
        """Which segment holds which steps (those of ``stream``) of a range, in their order."""
        found: list[Stretch] = []
        before = last  # what a newer segment holds hides the older ones
        for row in reversed(self.segments):
            if row.stream != stream or self.segment not in (None, row.segment):
                continue
            low, high = max(first, row.first_step), min(before, row.last_step)
            if low <= high:
                found.append(Stretch(row.segment, low, high, row.kept_since))
            before = min(before, row.first_step - 1)
        return found[::-1]

    def stamp(self, first: int, last: int) -> tuple[object, ...]:
        """What the answers about a range follow from: equal stamps, equal answers.

        A range is closed once there are steps behind it; what is logged late for its last steps
        still changes it, so a range ends only when CLOSED more steps were taken.
        """
        found: list[object] = [first, last]
        for segment, stream, begin, end, _, high_water in self.segments:
            if begin <= last and end >= first:
                closed = end >= last + CLOSED
                found.append((segment, stream, begin, last if closed else (end, high_water)))
        return tuple(found)

    def finest(self, wanted: list[int], first: int, last: int) -> int:
        """The finest stride that these columns can be read with: 1, but where their steps were
        dropped and only buckets are left."""
        finest = 1
        if not any(row.kept_since for row in self.segments):
            return finest
        for stream, mine in self.streams.items():
            for layout in mine:
                at = np.flatnonzero(np.isin(self.layouts[layout].columns, wanted))
                if not self.layouts[layout].droppable(at):
                    continue
                for part in self.stretches(first, last, stream):
                    if part.first < part.kept:
                        finest = SIZES[1]
        return finest

    def _holding(
        self, column: int, first: int, last: int
    ) -> Iterator[tuple[int, Indices, Stretch]]:
        """Where a column is in a range of steps: layout, its place in there, and the stretch."""
        for stream, mine in self.streams.items():
            for layout in mine:
                at = np.flatnonzero(self.layouts[layout].columns == column)
                if not len(at):
                    continue
                for part in self.stretches(first, last, stream):
                    yield layout, at, part

    # -- how it is put together -------------------------------------------------------------------

    def _all(
        self, wanted: list[int], first: int, last: int, stride: int
    ) -> Iterator[tuple[Piece, list[int]]]:
        """All that there is of these columns: for each layout a piece, and the columns it holds."""
        for stream, mine in self.streams.items():
            held = [
                (layout, at)
                for layout in mine
                if len(at := np.flatnonzero(np.isin(self.layouts[layout].columns, wanted)))
            ]
            if not held:
                continue
            parts = self.stretches(first, last, stream)
            for layout, at in held:
                pieces = [p for part in parts for p in self._pieces(part, layout, at, stride)]
                if pieces:
                    piece = Piece.joined(pieces)
                    if stride > 1:
                        piece = piece.coarsen(1)
                    yield piece, self.layouts[layout].columns[at].tolist()

    def _pieces(self, part: Stretch, layout: int, at: Indices, stride: int) -> list[Piece]:
        """Buckets of ``stride`` steps (a power of two) of a stretch."""
        level = max(level for level, size in enumerate(SIZES) if size <= stride)
        found = []
        extent = self.extent(part.segment, layout)
        if extent is not None and part.first <= extent[1] and part.last >= extent[0]:
            low, high = max(part.first, extent[0]), min(part.last, extent[1])
            kept = part.kept if self.layouts[layout].droppable(at) else 0
            inside = Stretch(part.segment, low, high, kept)
            found = self._tiled(inside, layout, at, level, stride, extent)
        for steps, _times, values in self._inbox(part, layout, at):
            found.append(_bucketed(steps, values, stride))
        return found

    def _tiled(
        self,
        part: Stretch,
        layout: int,
        at: Indices,
        level: int,
        stride: int,
        extent: tuple[int, int],
    ) -> list[Piece]:
        """The same of what is in tiles; where a bucket would hold steps beyond the stretch, its
        steps are taken from the level below, as long as there is one."""
        if part.first > part.last:
            return []
        if level == 0:
            steps = self._tiled_steps(part, layout, at)
            return [_bucketed(step, values, stride) for step, values in steps]
        size = SIZES[level]
        begin = part.first // size if part.first <= extent[0] else -(-part.first // size)
        end = part.last // size if part.last >= extent[1] else (part.last + 1) // size - 1
        if level == 1 and part.first < part.kept:  # a bucket that holds more than asked for
            begin, end = part.first // size, part.last // size
        if begin > end:
            return self._tiled(part, layout, at, level - 1, stride, extent)
        left = replace(part, last=begin * size - 1)
        right = replace(part, first=(end + 1) * size)
        inner = self.buckets(part.segment, layout, at, level, begin, end)
        return [
            *self._tiled(left, layout, at, level - 1, stride, extent),
            *(piece.coarsen(stride // size) for piece in inner),
            *self._tiled(right, layout, at, level - 1, stride, extent),
        ]

    def extent(self, segment: str, layout: int) -> tuple[int, int] | None:
        """The first and the last step that is in tiles."""
        low, high = self.connection.execute(_EXTENT, self._key(segment, layout)).one()
        return None if low is None else (int(low), int(high))

    def _key(self, segment: str, layout: int) -> dict[str, Any]:
        return {"b_run": self.run, "b_segment": segment, "b_layout": layout}

    def _tile_rows(
        self, part: Stretch, layout: int, level: int, blocks: list[int], first: int, last: int
    ) -> list[Any]:
        """The tiles of these blocks that reach into ``first``..``last``, in their order."""
        rows = self.connection.execute(
            _TILES,
            {
                **self._key(part.segment, layout),
                "b_level": level,
                "b_blocks": blocks,
                "b_block": blocks[0],
                "b_first": first,
                "b_last": last,
            },
        )
        # Rows of a tile were put in one after another. Sorted here, since a database that sorts
        # moves the payloads about.
        return sorted(rows.all(), key=lambda row: (row.first, row.id))

    def buckets(
        self, segment: str, layout: int, at: Indices, level: int, first: int, last: int
    ) -> list[Piece]:
        """The stored buckets ``first``..``last`` of a level above 0, as the columns ``at``."""
        blocks = self.layouts[layout].blocks(at, level)
        rows = self._tile_rows(
            Stretch(segment, first, last), layout, level, [b[0] for b in blocks], first, last
        )
        found = []
        for tile in range(0, len(rows), len(blocks)):
            planes = np.empty((5, len(at), rows[tile].size), np.uint32)
            for (_, width, take, places), row in zip(
                blocks, rows[tile : tile + len(blocks)], strict=True
            ):
                ids, held = unpack_buckets(row.payload, width, row.first // BUCKETS)
                planes[:, places] = held[:, take]
            inside = slice(
                int(np.searchsorted(ids, first)), int(np.searchsorted(ids, last, side="right"))
            )
            found.append(Piece.of_planes(ids[inside], planes[:, :, inside]))
        return found

    def _tiled_steps(
        self, part: Stretch, layout: int, at: Indices, *, cut: bool = True
    ) -> Iterator[tuple[wire.StepArray, wire.FloatArray]]:
        """The steps of a stretch that are in tiles; without ``cut`` of whole tiles."""
        blocks = self.layouts[layout].blocks(at, 0)
        rows = self._tile_rows(part, layout, 0, [b[0] for b in blocks], part.first, part.last)
        for tile in range(0, len(rows), len(blocks)):
            row = rows[tile]
            values = np.empty((row.size, len(at)), np.float32)
            for (_, width, take, places), one in zip(
                blocks, rows[tile : tile + len(blocks)], strict=True
            ):
                unpack_columns(one.payload, width, take.tolist(), values, places.tolist())
            if row.last - row.first + 1 == row.size:
                steps = np.arange(row.first, row.last + 1, dtype=np.uint64)
            else:
                (index,) = self._tile_rows(part, layout, 0, [INDEX], row.first, row.first)
                steps = unpack_index(index.payload)[0]
            inside = _inside(steps, part) if cut else slice(None)
            yield steps[inside], values[inside]

    def _inbox(
        self, part: Stretch, layout: int, at: Indices
    ) -> list[tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]]:
        """The steps of a stretch that are not in tiles yet."""
        rows = self.connection.execute(
            _INBOX,
            {**self._key(part.segment, layout), "b_first": part.first, "b_last": part.last},
        )
        found = []
        for payload, count in rows:
            steps, times, values = unpack_payload(payload, count, at)
            inside = _inside(steps, part)
            if inside.start < inside.stop:
                found.append((steps[inside], times[inside], values[inside]))
        return found


def _spread(count: int, most: int) -> Indices:
    """At most ``most`` places of ``count``, evenly spread, both ends among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, max(2, most)).round().astype(np.int64))


def _inside(steps: wire.StepArray, part: Stretch) -> slice:
    return slice(
        int(np.searchsorted(steps, part.first)),
        int(np.searchsorted(steps, part.last, side="right")),
    )


def _bucketed(steps: wire.StepArray, values: wire.FloatArray, stride: int) -> Piece:
    piece = Piece.of_steps(steps, values)
    return piece if stride == 1 else piece.coarsen(stride)


def _whole(piece: Piece, columns: list[int], stride: int) -> dict[int, Series]:
    """The series of all columns of a piece at once, if none of them has a hole in it."""
    if not len(piece) or not bool((np.diff(piece.ids) > 0).all()):
        return {}
    there = piece.count + piece.nonfinite
    if not bool(there.all()):
        return {}
    steps = piece.ids * stride
    mean = np.ascontiguousarray(piece.mean().T)
    if not bool(piece.count.all()):
        empty = piece.count == 0
        nan = np.float32(np.nan)
        low, high = np.where(empty, nan, piece.low), np.where(empty, nan, piece.high)
    else:
        low, high = piece.low, piece.high
    low, high = np.ascontiguousarray(low.T), np.ascontiguousarray(high.T)
    nonfinite = np.ascontiguousarray(piece.nonfinite.T)
    return {
        column: Series(steps, low[at], mean[at], high[at], nonfinite[at])
        for at, column in enumerate(columns)
    }


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
    return {name: index for name, index in connection.execute(_COLUMNS, {"b_run": run})}
