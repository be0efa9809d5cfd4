"""A run as a table to take along: one row for each step, one column for each column of the run.

Every cell is the float32 that was measured, written so that reading it gives the same float32 again.
A cell is empty where nothing was measured; NaN and infinities are what they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from gradhelm import wire

from .errors import ApiError
from .matrix import Reader

if TYPE_CHECKING:
    import pyarrow

CELLS: Final = 1_000_000
"""Cells of one block: what is read, and held in memory, at once."""
MOST_STEPS: Final = 1 << 16
LEAST_STEPS: Final = 64
FORMULA: Final = tuple("'=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the beginning of a formula; and the sign that is put before it, so
that it can be taken away again."""


class Block(NamedTuple):
    """Some steps of a run: ``times`` as Unix seconds, ``values`` [steps x columns], MISSING where
    there is none."""

    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    values: wire.FloatArray


class Writer(Protocol):
    """One format. What its methods return, in their order, is the file."""

    media_type: str

    def begin(self) -> bytes: ...

    def block(self, block: Block) -> bytes: ...

    def end(self) -> bytes: ...


def ranges(first: int, last: int, columns: int) -> Iterator[tuple[int, int]]:
    """The steps ``first``..``last`` a block at a time."""
    size = min(MOST_STEPS, max(LEAST_STEPS, CELLS // max(1, columns)))
    for low in range(first, last + 1, size):
        yield low, min(last, low + size - 1)


def read(connection: Connection, run: str, wanted: Sequence[int], first: int, last: int) -> Block:
    """What these columns hold in these steps."""
    reader = Reader(connection, run)
    place = {column: at for at, column in enumerate(wanted)}
    found = []
    # The clip's own layout comes first; when a step was is what that says, so it is put in last.
    for number, layout in sorted(reader.layouts.items(), reverse=True):
        at = np.flatnonzero(np.isin(layout.columns, wanted))
        if not len(at):
            continue
        columns = np.array([place[column] for column in layout.columns[at].tolist()], np.intp)
        for part in reader.stretches(first, last, layout.stream):
            found += [(columns, *rows) for rows in reader.rows(part, number, at)]
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(one[1] for one in found)]))
    times = np.full(len(steps), np.nan)
    values = np.full((len(steps), len(wanted)), wire.MISSING, np.float32)
    for columns, own, when, cells in found:
        rows = np.searchsorted(steps, own)
        times[rows] = when
        # A scalar may be logged again for the same step: the last word wins.
        for row, line in zip(rows, cells, strict=True):
            there = ~wire.missing(line)
            values[row, columns[there]] = line[there]
    return Block(steps.astype(np.int64), times, values)


class Csv:
    """Comma-separated, with a head; what a spreadsheet would take for a formula is kept from it."""

    media_type = "text/csv; charset=utf-8; header=present"

    def __init__(self, names: Sequence[str], about: Mapping[str, str]) -> None:
        self._names = names

    def begin(self) -> bytes:
        head = [f"'{name}" if name.startswith(FORMULA) else name for name in self._names]
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(["step", "time", *head])
        return line.getvalue().encode()

    def block(self, block: Block) -> bytes:
        lines = (
            f"{step},{_number(when)},{','.join(cells)}\n"
            for step, when, cells in _texts(block, "nan", ("-inf", "inf"))
        )
        return "".join(lines).encode()

    def end(self) -> bytes:
        return b""


class JsonLines:
    """One JSON object a line, without what a step does not have; ``"NaN"`` and ``"Infinity"`` are
    texts, since JSON has no such numbers."""

    media_type = "application/x-ndjson"

    def __init__(self, names: Sequence[str], about: Mapping[str, str]) -> None:
        self._keys = [f",{json.dumps(name)}:" for name in names]

    def begin(self) -> bytes:
        return b""

    def block(self, block: Block) -> bytes:
        lines = []
        for step, when, cells in _texts(block, '"NaN"', ('"-Infinity"', '"Infinity"')):
            named = [key + cell for key, cell in zip(self._keys, cells, strict=True) if cell]
            named[:0] = [] if math.isnan(when) else [f',"time":{_number(when)}']
            lines.append(f'{{"step":{step}{"".join(named)}}}\n')
        return "".join(lines).encode()

    def end(self) -> bytes:
        return b""


class Parquet:
    """Apache Parquet: ``step`` int64, ``time`` in microseconds (UTC), the rest float32, null where
    nothing was measured. What the run is called is in the schema's metadata."""

    media_type = "application/vnd.apache.parquet"

    def __init__(self, names: Sequence[str], about: Mapping[str, str]) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise ApiError(
                422,
                "not_installed",
                "format: parquet needs pyarrow where the server runs: pip install "
                "'gradhelm[parquet]'; csv and jsonl need nothing",
            ) from None
        self._arrow = pyarrow
        fields = [("step", pyarrow.int64()), ("time", pyarrow.timestamp("us", tz="UTC"))]
        fields += [(name, pyarrow.float32()) for name in names]
        metadata = {f"gradhelm.{key}": value for key, value in about.items()}
        self._schema = pyarrow.schema(fields, metadata=metadata)
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def begin(self) -> bytes:
        return self._sink.take()

    def block(self, block: Block) -> bytes:
        arrow = self._arrow
        absent = wire.missing(block.values)
        when = (1e6 * block.times).astype("datetime64[us]")
        columns: list[pyarrow.Array] = [
            arrow.array(block.steps),
            arrow.array(when, type=self._schema.field("time").type, mask=np.isnan(block.times)),
        ]
        columns += [
            arrow.array(np.ascontiguousarray(block.values[:, at]), mask=absent[:, at])
            for at in range(block.values.shape[1])
        ]
        self._writer.write_table(arrow.Table.from_arrays(columns, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


FORMATS: Final[dict[str, type[Csv] | type[JsonLines] | type[Parquet]]] = {
    "csv": Csv,
    "jsonl": JsonLines,
    "parquet": Parquet,
}


class _Sink(io.RawIOBase):
    """A file that is carried away as it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _texts(
    block: Block, nan: str, infinities: tuple[str, str]
) -> Iterator[tuple[int, float, list[str]]]:
    """Each step with the shortest decimals that mean its float32 values; "" where there is none."""
    values = block.values
    cells = values.astype("U16").astype(object)
    cells[np.isnan(values)] = nan
    cells[values == -np.inf], cells[values == np.inf] = infinities
    cells[wire.missing(values)] = ""
    yield from zip(block.steps.tolist(), block.times.tolist(), cells.tolist(), strict=True)


def _number(when: float) -> str:
    """Unix seconds to the microsecond; nothing where no time is known."""
    return "" if math.isnan(when) else f"{when:.6f}".rstrip("0").rstrip(".")
