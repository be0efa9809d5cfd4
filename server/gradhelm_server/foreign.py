"""Files of measurements, whoever wrote them: read as one table of numbers by step.

Text that is no number is no measurement: a column that begins with one is left out, and named; where
one stands among numbers, the file is refused with its line.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gradhelm import wire

from .endings import Failed

STEP: Final = ("step", "Step", "_step", "global_step", "iteration")
TIME: Final = ("time", "_timestamp", "wall_time", "timestamp")
"""What others call them, in the order in which they are looked for."""
ENDINGS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
ROWS: Final = 4096
"""Rows that are held as Python numbers at once."""


@dataclass
class Table:
    """``steps`` increase; ``times`` are Unix seconds, NaN where the file does not say. A column is
    float32, MISSING at the steps that have no value. ``left_out``: columns without numbers."""

    steps: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    columns: dict[str, wire.FloatArray]
    left_out: list[str] = field(default_factory=list)


def read(path: Path, kind: str | None, step: str | None, time: str | None) -> Table:
    """The table in ``path``; its format by its name, unless ``kind`` says which. ``step``, ``time``:
    the names of these columns.

    Raises Failed for what cannot be read, with the place.
    """
    if not path.exists():
        raise Failed(f"there is no {path}")
    kind = kind or ("tensorboard" if path.is_dir() else ENDINGS.get(path.suffix.lower()))
    if kind is None and "tfevents" in path.name:
        kind = "tensorboard"
    if kind is None:
        raise Failed(f"{path}: say what it is: --format {'|'.join(READERS)}")
    try:
        return READERS[kind](path, step, time)
    except OSError as error:
        raise Failed(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Failed(f"{path} is no {kind}: it is no text") from None


class _Rows:
    """Rows as they come, put together into a table."""

    def __init__(self, path: Path, step: str | None, time: str | None) -> None:
        self._path = path
        self._step, self._time = step, time
        self._found = False
        self._steps: list[int] = []
        self._times: list[float] = []
        self._columns: dict[str, _Cells] = {}
        self._text: dict[str, None] = {}

    def add(self, line: int, row: Mapping[str, Any]) -> None:
        """A row that stands in ``line``; None and "" are cells without a value."""
        if not self._found:
            self._find(row)
        # Not every row of JSON says its time.
        time = self._time = self._time or next((name for name in TIME if name in row), None)
        step = self._step
        number = _number(row.get(step)) if step is not None else None
        if number is None or not 0 <= number <= wire.MAX_STEP or number != int(number):
            said = row.get(step or "")
            raise self._wrong(line, f"{step} is {said!r:.60}; expected a step, 0 or more")
        if self._steps and number <= self._steps[-1]:
            raise self._wrong(line, f"step {number:.0f} comes after step {self._steps[-1]}")
        at = len(self._steps)
        self._steps.append(int(number))
        self._times.append(self._moment(line, row.get(time) if time else None))
        for name, cell in row.items():
            if name in (step, time) or cell is None or cell == "" or name in self._text:
                continue
            value = _number(cell)
            if value is not None:
                self._columns.setdefault(name, _Cells()).put(at, value)
            elif name in self._columns:
                raise self._wrong(line, f"{name[:80]} is {cell!r:.60}, which is no number")
            else:
                self._text[name] = None

    def table(self) -> Table:
        if not self._steps:
            raise Failed(f"{self._path} has no rows")
        count = len(self._steps)
        columns = {name: cells.array(count) for name, cells in self._columns.items()}
        return Table(
            np.array(self._steps, np.int64), np.array(self._times), columns, list(self._text)
        )

    def _find(self, row: Mapping[str, Any]) -> None:
        """Looks for the step, and for what was asked for, in the first row."""
        for asked in (self._step, self._time):
            if asked is not None and asked not in row:
                raise Failed(f"{self._path} has no column {asked!r}; it has {listed(row)}")
        self._step = self._step or next((name for name in STEP if name in row), None)
        if self._step is None:
            raise Failed(
                f"{self._path} has no column called {', '.join(STEP)}: --step says which of "
                f"{listed(row)} it is"
            )
        self._found = True

    def _moment(self, line: int, cell: Any) -> float:
        if cell is None or cell == "":
            return math.nan
        found = _number(cell)
        if found is None:
            with suppress(ValueError):
                found = datetime.fromisoformat(str(cell)).timestamp()
        if found is None or not 0 <= found < wire.MAX_TIME:
            raise self._wrong(line, f"{cell!r:.60} is no time: expected Unix seconds or ISO 8601")
        return found

    def _wrong(self, line: int, what: str) -> Failed:
        return Failed(f"{self._path}, line {line}: {what}")


class _Cells:
    """The numbers of one column: packed as they come, a few thousand at a time."""

    def __init__(self) -> None:
        self._packed: list[tuple[npt.NDArray[np.int64], wire.FloatArray]] = []
        self._places: list[int] = []
        self._values: list[float] = []

    def put(self, place: int, value: float) -> None:
        self._places.append(place)
        self._values.append(value)
        if len(self._places) == ROWS:
            self._pack()

    def array(self, count: int) -> wire.FloatArray:
        self._pack()
        found = np.full(count, wire.MISSING, np.float32)
        for places, values in self._packed:
            found[places] = values
        return found

    def _pack(self) -> None:
        with np.errstate(over="ignore"):  # beyond float32: infinite, as it is in training
            values = np.array(self._values, np.float64).astype(np.float32)
        self._packed.append((np.array(self._places, np.int64), values))
        self._places, self._values = [], []


def _csv(path: Path, step: str | None, time: str | None) -> Table:
    rows = _Rows(path, step, time)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            head = [name.removeprefix("'") for name in next(reader, [])]
            if len(set(head)) < len(head):
                raise Failed(f"{path}: a column's name stands twice in its first line")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(head):
                    raise Failed(
                        f"{path}, line {reader.line_num}: {len(cells)} cells under {len(head)} names"
                    )
                rows.add(reader.line_num, dict(zip(head, cells, strict=True)))
        except csv.Error as error:
            raise Failed(f"{path}, line {reader.line_num}: {error}") from None
    return rows.table()


def _json_lines(path: Path, step: str | None, time: str | None) -> Table:
    rows = _Rows(path, step, time)
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise Failed(f"{path}, line {line}: no proper JSON: {error}"[:300]) from None
            if not isinstance(row, dict):
                raise Failed(f"{path}, line {line}: expected a JSON object")
            rows.add(line, row)
    return rows.table()


def _parquet(path: Path, step: str | None, time: str | None) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise Failed("Parquet needs pyarrow: pip install 'gradhelm[parquet]'") from None
    rows, line = _Rows(path, step, time), 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(ROWS):
            for row in batch.to_pylist():
                line += 1
                rows.add(line, {n: _plain(value) for n, value in row.items()})
    except pyarrow.ArrowException as error:
        raise Failed(f"{path} is no Parquet file: {error}"[:300]) from None
    return rows.table()


def _tensorboard(path: Path, step: str | None, time: str | None) -> Table:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util import tensor_util
    except ImportError:
        raise Failed("event files need TensorBoard: pip install 'gradhelm[tensorboard]'") from None
    found = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    tags = found.Tags()
    told: dict[int, dict[str, Any]] = {}

    def put(tag: str, events: Iterable[Any], value: Callable[[Any], float]) -> None:
        for event in events:  # of a step that was told twice, the last word
            row = told.setdefault(event.step, {"step": event.step, "time": event.wall_time})
            row[tag] = value(event)

    for tag in tags["scalars"]:
        put(tag, found.Scalars(tag), lambda event: event.value)
    for tag in tags["tensors"]:  # TensorFlow's scalars
        if found.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            put(
                tag,
                found.Tensors(tag),
                lambda event: float(tensor_util.make_ndarray(event.tensor_proto).item()),
            )
    if not told:
        raise Failed(f"{path} has no scalars of TensorBoard")
    rows = _Rows(path, "step", "time")
    for line, number in enumerate(sorted(told), 1):
        rows.add(line, told[number])
    return rows.table()


READERS: Final[dict[str, Callable[[Path, str | None, str | None], Table]]] = {
    "csv": _csv,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
}


def _plain(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value


def _number(cell: Any) -> float | None:
    """``cell`` as a number; None if it is none. "NaN" and "Infinity" are some."""
    if isinstance(cell, str):
        try:
            return float(cell) if "_" not in cell else None
        except ValueError:
            return None
    if isinstance(cell, int | float):
        try:
            return float(cell)
        except OverflowError:
            return math.copysign(math.inf, cell)
    return None


def listed(names: Iterable[str]) -> str:
    """The first dozen, for a sentence."""

    def some() -> Iterator[str]:
        for number, name in enumerate(names):
            if number == 12:
                yield "…"
                return
            yield repr(name[:60])

    return ", ".join(some()) or "none"
