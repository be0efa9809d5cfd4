"""Rollups: the same matrix with fewer, wider steps.

The one law: ``coarsen`` merges. Coarsening by 16 and then by 8 is coarsening by 128, and
coarsening pieces apart or together gives the same minima, maxima and counts (means to rounding).
So a rollup can be built as steps arrive, bucket by bucket or all at once, or be mixed with steps at
the edges of a range, and a reader cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradhelm import wire

SIZES = (1, *(16 * 8**level for level in range(7)))
"""Steps in a bucket of each level. A view of any width is made of at most four times as many
buckets as it shows; the widest of these hold four million steps."""
SEAMS = 16
"""Up to so many buckets that are in two parts are put together one by one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Buckets x columns. ``ids`` (not decreasing) number the buckets; the rest is [bucket, column].

    ``low``, ``high`` and ``total`` are over the finite values; ``count`` says how many these are
    and ``nonfinite`` how many were NaN or infinite. Missing values are in neither. The counts may
    be one column that stands for all (a broadcast).
    """

    ids: npt.NDArray[np.int64]
    low: wire.FloatArray
    high: wire.FloatArray
    total: npt.NDArray[np.floating[Any]]
    count: npt.NDArray[np.uint32]
    nonfinite: npt.NDArray[np.uint32]

    @classmethod
    def of_steps(cls, steps: npt.NDArray[np.integer], values: wire.FloatArray) -> Piece:
        """One bucket per step of ``values`` (steps x columns)."""
        ids = steps.astype(np.int64)
        finite = np.isfinite(values)
        if finite.all():  # as almost always: the values themselves, and counts that cost nothing
            one, none = (np.broadcast_to(np.uint32(n), values.shape) for n in (1, 0))
            return cls(ids, values, values, values, one, none)
        return cls(
            ids,
            np.where(finite, values, np.float32(np.inf)),
            np.where(finite, values, np.float32(-np.inf)),
            np.where(finite, values, 0.0).astype(np.float64),
            finite.astype(np.uint32),
            (~finite & ~wire.missing(values)).astype(np.uint32),
        )

    @classmethod
    def empty(cls, columns: int) -> Piece:
        return cls.of_steps(np.empty(0, np.int64), np.empty((0, columns), np.float32))

    @classmethod
    def joined(cls, pieces: list[Piece]) -> Piece:
        """The pieces one after another; to be coarsened, their ``ids`` must not decrease."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(*(_joined([getattr(p, n) for p in pieces]) for n in cls.__slots__))

    def __len__(self) -> int:
        return len(self.ids)

    def coarsen(self, factor: int) -> Piece:
        """Buckets ``factor`` times as wide; with 1, buckets of equal id become one."""
        ids = self.ids // factor
        starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
        twice = len(ids) - len(starts)
        if twice <= 0:
            return Piece(ids, self.low, self.high, self.total, self.count, self.nonfinite)
        if twice <= SEAMS:
            return self._without_seams(ids, starts)
        head = 0
        if factor > 1 and bool((np.diff(self.ids) == 1).all()):
            head = int(starts[1]) if len(starts) > 1 else len(ids)
        even = (head, factor, starts)
        return Piece(
            ids[starts],
            _reduced(np.minimum, self.low, np.float32, *even),
            _reduced(np.maximum, self.high, np.float32, *even),
            _reduced(np.add, self.total, np.float64, *even),
            _summed(self.count, *even),
            _summed(self.nonfinite, *even),
        )

    def _without_seams(self, ids: npt.NDArray[np.int64], starts: npt.NDArray[np.intp]) -> Piece:
        """The same as ``coarsen`` where few buckets are in more than one part."""
        made = Piece(
            ids[starts],
            self.low[starts],
            self.high[starts],
            self.total[starts].astype(np.float64),
            np.array(self.count)[starts],
            np.array(self.nonfinite)[starts],
        )
        others = np.ones(len(ids), np.bool_)
        others[starts] = False
        for row in np.flatnonzero(others).tolist():
            home = int(np.searchsorted(starts, row, side="right")) - 1
            np.minimum(made.low[home], self.low[row], out=made.low[home])
            np.maximum(made.high[home], self.high[row], out=made.high[home])
            for sums, parts in (
                (made.total, self.total),
                (made.count, self.count),
                (made.nonfinite, self.nonfinite),
            ):
                sums[home] += parts[row]
        return made

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

    def planes(self) -> npt.NDArray[np.uint32]:
        """[5, column, bucket]: what is stored of the buckets (``ids`` apart), as bits."""
        floats = (plane.view(np.uint32) for plane in (self.low, self.high, self.mean()))
        return np.stack([plane.T for plane in (*floats, self.count, self.nonfinite)])

    @classmethod
    def of_planes(cls, ids: npt.NDArray[np.int64], planes: npt.NDArray[np.uint32]) -> Piece:
        """The piece that ``planes`` are of."""
        low, high, mean = (np.ascontiguousarray(plane.T).view(np.float32) for plane in planes[:3])
        count, nonfinite = (_counts(plane) for plane in planes[3:])
        with np.errstate(invalid="ignore"):
            total = mean * count.astype(np.float64)
        if not bool(count.all()):
            total[count == 0] = 0.0
        return cls(ids, low, high, total, count, nonfinite)


def _counts(plane: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """[bucket, column] of [column, bucket]; where all columns agree, one stands for all."""
    if len(plane) and bool((plane == plane[:1]).all()):
        return np.broadcast_to(plane[:1].T, plane.T.shape)
    return np.ascontiguousarray(plane.T)


def _joined(arrays: list[npt.NDArray[Any]]) -> Any:
    if arrays[0].ndim == 2 and all(a.strides[1] == 0 for a in arrays) and arrays[0].shape[1]:
        one = np.concatenate([a[:, :1] for a in arrays])
        return np.broadcast_to(one, (len(one), arrays[0].shape[1]))
    return np.concatenate(arrays)


def _reduced(
    operation: np.ufunc,
    values: npt.NDArray[Any],
    dtype: type,
    head: int,
    factor: int,
    starts: npt.NDArray[np.intp],
) -> Any:
    """``values`` [bucket, column] reduced over the groups that begin at ``starts``.

    With a ``head`` (buckets before the first whole group) the groups in between are all of
    ``factor`` buckets, which numpy reduces ten times as fast as groups of any size.
    """
    if not head:
        return operation.reduceat(values, starts, axis=0, dtype=dtype)
    whole = (len(values) - head) // factor
    tail = head + whole * factor
    columns = values.shape[1]
    parts = [operation.reduce(values[:head], axis=0, dtype=dtype, keepdims=True)]
    if whole:
        grouped = values[head:tail].reshape(whole, factor, columns)
        parts.append(operation.reduce(grouped, axis=1, dtype=dtype))
    if tail < len(values):
        parts.append(operation.reduce(values[tail:], axis=0, dtype=dtype, keepdims=True))
    return np.concatenate(parts)


def _summed(
    counts: npt.NDArray[np.uint32], head: int, factor: int, starts: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint32]:
    if counts.strides[1] == 0 and counts.shape[1]:
        one = _reduced(np.add, np.ascontiguousarray(counts[:, :1]), np.uint32, head, factor, starts)
        return np.broadcast_to(one, (len(one), counts.shape[1]))
    summed: npt.NDArray[np.uint32] = _reduced(np.add, counts, np.uint32, head, factor, starts)
    return summed
