"""Tiles: how steps and buckets are stored once they are compacted. Pure: arrays and bytes.

Law: lossless to the bit, and a column is read without its neighbours. The columns of a layout are
divided into blocks; a tile is one row for each block. Norms differ in their low bits and agree in
their high ones: with the bits of a column sorted by rank, LZ4 takes off what they agree in at the
speed of reading memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import blosc
import numpy as np
import numpy.typing as npt
from blosc import blosc_extension

from gradhelm import wire

BLOCK: Final = 8
"""Columns of a block: as many as are read in vain when only one of them is wanted."""
STEPS: Final = 4096
"""Steps of a tile, about."""
MEMORY: Final = 32 * 1024 * 1024
"""Bytes of a tile's values: a run of very many columns has shorter tiles."""
BUCKETS: Final = 256
"""Buckets of a tile above level 0; bucket b is in the tile b // BUCKETS."""
INDEX: Final = -1
"""The block of level 0 that holds steps, times and versions."""

Bits = npt.NDArray[np.uint32]

blosc.set_nthreads(1)  # there are more tiles than processors
blosc.set_releasegil(True)


def steps_of(columns: int) -> int:
    """How many steps a tile of so many columns has, about."""
    return max(64, min(STEPS, MEMORY // (4 * max(1, columns))))


def blocks(kinds: Sequence[str]) -> npt.NDArray[np.int32]:
    """Where each block of a layout with columns of these ``kinds`` begins.

    A scalar is a block by itself: it is kept when norms are dropped, and what-if reads it alone.
    """
    starts = [0]
    for place, (before, kind) in enumerate(pairwise(kinds), 1):
        full = place - starts[-1] == BLOCK
        if full or kind != before or kind in ("scalar", "log"):
            starts.append(place)
    return np.array(starts, np.int32)


def pack_columns(values: wire.FloatArray) -> bytes:
    """The values [column, step] of a block, each column compressed by itself."""
    chunks = [_pack(column, 4) for column in values]
    ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.uint32)
    return b"".join((ends.tobytes(), *chunks))


def unpack_columns(
    payload: bytes, width: int, take: Sequence[int], into: wire.FloatArray, places: Sequence[int]
) -> None:
    """Put the columns ``take`` of a block of ``width`` columns into the columns ``places`` (both
    increasing) of ``into`` [steps x columns]."""
    held = np.empty((len(take), len(into)), np.float32)
    for row, column in zip(held, take, strict=True):
        _unpack_column(payload, width, column, row)
    # All columns of a tile turned about at once would miss the processor's cache at every value.
    if places[-1] - places[0] == len(places) - 1:
        into[:, places[0] : places[-1] + 1] = held.T
    else:
        into[:, places] = held.T


def unpack_column(
    payloads: Sequence[bytes], width: int, column: int, sizes: Sequence[int]
) -> wire.FloatArray:
    """One column of these blocks, which have so many steps each, one after another."""
    into = np.empty(sum(sizes), np.float32)
    begin = 0
    for payload, size in zip(payloads, sizes, strict=True):
        _unpack_column(payload, width, column, into[begin : begin + size])
        begin += size
    return into


def _unpack_column(payload: bytes, width: int, column: int, into: wire.FloatArray) -> None:
    """Into an array without gaps."""
    ends = 4 * column
    begin = int.from_bytes(payload[ends - 4 : ends], "little") if column else 0
    end = int.from_bytes(payload[ends : ends + 4], "little")
    chunk = payload[4 * width + begin : 4 * width + end]
    if int.from_bytes(chunk[4:8], "little") != into.nbytes:
        raise ValueError("a stored column has not as many steps as its tile")
    blosc_extension.decompress_ptr(chunk, into.ctypes.data)


def pack_index(steps: wire.StepArray, times: wire.TimeArray, versions: wire.StepArray) -> bytes:
    """Steps, times and versions of the steps of a tile."""
    return _pack(np.stack([steps.view("<u8"), times.view("<u8"), versions.view("<u8")]), 8)


def unpack_index(payload: bytes) -> tuple[wire.StepArray, wire.TimeArray, wire.StepArray]:
    steps, times, versions = np.frombuffer(
        blosc_extension.decompress(payload, False), "<u8"
    ).reshape(3, -1)
    return steps, times.view("<f8"), versions


def pack_buckets(ids: npt.NDArray[np.int64], planes: Bits) -> bytes:
    """The buckets of a block: ``planes`` [5, column, bucket] of :meth:`Piece.planes`."""
    within = (ids % BUCKETS).astype("<u4")
    return _pack(np.concatenate([within, planes.reshape(-1)]), 4)


def unpack_buckets(payload: bytes, width: int, tile: int) -> tuple[npt.NDArray[np.int64], Bits]:
    """What ``pack_buckets`` was given, of a block of ``width`` columns in the tile ``tile``."""
    cells = np.frombuffer(blosc_extension.decompress(payload, False), "<u4")
    count = len(cells) // (5 * width + 1)
    return cells[:count].astype(np.int64) + tile * BUCKETS, cells[count:].reshape(5, width, count)


def _pack(cells: npt.NDArray[np.generic], size: int) -> bytes:
    # blosc.compress() parses the library's version at each call, which takes longer than the rest.
    packed: bytes = blosc_extension.compress(cells.tobytes(), size, 5, blosc.BITSHUFFLE, "lz4")
    return packed
