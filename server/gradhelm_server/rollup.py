"""Rollups: the same matrix with fewer, wider steps.

The one law: ``coarsen`` merges. Coarsening by 16 and then by 16 is coarsening by 256, and
coarsening pieces apart or together gives the same minima, maxima and counts (means to rounding).
So a rollup can be built as frames arrive, rebuilt from frames, or mixed with them at the edges of
a range, and a reader cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradhelm import wire

FACTOR = 16
LEVELS = 5
"""A bucket of level n holds 16**n steps; level 5 is about a million."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Buckets x columns. ``ids`` (increasing) number the buckets; the rest is [bucket, column].

    ``low``, ``high`` and ``total`` are over the finite values; ``count`` says how many these are
    and ``nonfinite`` how many were NaN or infinite. Missing values are in neither.
    """

    ids: npt.NDArray[np.int64]
    low: wire.FloatArray
    high: wire.FloatArray
    total: npt.NDArray[np.float64]
    count: npt.NDArray[np.uint32]
    nonfinite: npt.NDArray[np.uint32]

    @classmethod
    def of_steps(cls, steps: wire.StepArray, values: wire.FloatArray) -> Piece:
        """One bucket per step of ``values`` (steps x columns)."""
        finite = np.isfinite(values)
        return cls(
            steps.astype(np.int64),
            np.where(finite, values, np.float32(np.inf)),
            np.where(finite, values, np.float32(-np.inf)),
            np.where(finite, values, 0.0).astype(np.float64),
            finite.astype(np.uint32),
            (~finite & ~wire.missing(values)).astype(np.uint32),
        )

    @classmethod
    def empty(cls, columns: int) -> Piece:
        return cls.of_steps(np.empty(0, np.uint64), np.empty((0, columns), np.float32))

    @classmethod
    def joined(cls, pieces: list[Piece]) -> Piece:
        """The pieces one after another; to be coarsened, their ``ids`` must not decrease."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(*(np.concatenate([getattr(p, n) for p in pieces]) for n in cls.__slots__))

    def __len__(self) -> int:
        return len(self.ids)

    def coarsen(self, factor: int) -> Piece:
        """Buckets ``factor`` times as wide; with 1, buckets of equal id become one."""
        ids = self.ids // factor
        if len(ids) < 2:
            return Piece(ids, self.low, self.high, self.total, self.count, self.nonfinite)
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        if len(starts) == len(ids):
            return Piece(ids, self.low, self.high, self.total, self.count, self.nonfinite)
        return Piece(
            ids[starts],
            np.minimum.reduceat(self.low, starts),
            np.maximum.reduceat(self.high, starts),
            np.add.reduceat(self.total, starts),
            np.add.reduceat(self.count, starts, dtype=np.uint32),
            np.add.reduceat(self.nonfinite, starts, dtype=np.uint32),
        )

    def rows(self, part: slice | npt.NDArray[np.intp]) -> Piece:
        """Some of the buckets."""
        return Piece(*(getattr(self, name)[part] for name in self.__slots__))

    def column(self, at: int) -> Piece:
        """One of the columns, as a piece that is one column wide."""
        planes = (getattr(self, name)[:, at, None] for name in self.__slots__[1:])
        return Piece(self.ids, *planes)

    def mean(self) -> wire.FloatArray:
        """float32 [bucket, column]; NaN where no value was finite."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.total / self.count).astype(np.float32)

    def pack(self) -> bytes:
        """Little-endian planes, column by column, so that a reader can take a column alone."""
        planes = (self.low, self.high, self.mean(), self.count, self.nonfinite)
        return self.ids.tobytes() + b"".join(np.ascontiguousarray(p.T).tobytes() for p in planes)

    @classmethod
    def unpack(cls, payload: bytes, columns: int, take: npt.NDArray[np.int64]) -> Piece:
        """The columns ``take`` of what ``pack`` made of a piece with ``columns`` columns."""
        n = len(payload) // (8 + 20 * columns)
        ids = np.frombuffer(payload, "<i8", n)
        planes = np.frombuffer(payload, "<u4", 5 * columns * n, 8 * n).reshape(5, columns, n)
        low, high, mean = (planes[i, take].T.view(np.float32) for i in range(3))
        count, nonfinite = planes[3, take].T, planes[4, take].T
        total = np.where(count > 0, mean.astype(np.float64) * count, 0.0)
        return cls(ids, low, high, total, count, nonfinite)


class Pyramid:
    """The open (last, unfinished) bucket of each level of one layout of one segment."""

    def __init__(self) -> None:
        self.open: list[Piece | None] = [None] * LEVELS

    def push(self, piece: Piece) -> list[tuple[int, Piece]]:
        """Take the next buckets of one step each; return the buckets that closed, per level."""
        closed = []
        for level in range(LEVELS):
            piece = piece.coarsen(FACTOR)
            before = self.open[level]
            if before is not None:
                piece = Piece.joined([before, piece]).coarsen(1)
            if not len(piece):
                break
            self.open[level] = piece.rows(slice(len(piece) - 1, None))
            piece = piece.rows(slice(0, len(piece) - 1))
            if not len(piece):
                break
            closed.append((level + 1, piece))
        return closed
