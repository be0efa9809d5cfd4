"""Logged scalars on their way to the sender: loss, accuracy, whatever a script tells.

Law: logging never waits for a device and never raises. A CUDA value is kept as it is and read by
the sender; what finds no room is counted and declared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from .notice import Notices
from .ring import Losses
from .wire import (
    MAX_COLUMNS,
    MAX_GROUP,
    MAX_NAME,
    MISSING_BITS,
    Column,
    FloatArray,
    StepArray,
    TimeArray,
)

if TYPE_CHECKING:
    from .judge import Judge

LOSS: Final = "loss"
"""The scalar by which a version that is on trial is judged."""
CAPACITY: Final = 65_536
"""Logged entries that may wait for the sender."""


class Entry(NamedTuple):
    """What one call of ``log`` told; ``step`` is the step it belongs to, ``at`` when that was on a
    clock that nobody sets."""

    step: int
    at: float
    time: float
    version: int
    values: dict[str, Any]


class Rows(NamedTuple):
    """Rows of one group of logged columns under one control version."""

    group: int
    version: int
    steps: StepArray
    times: TimeArray
    values: FloatArray


class Scalars:
    """The lane of logged scalars and the column groups they open.

    A group is fixed once it is declared, so names that were not seen before open another one.
    ``taken`` are the names of the run's other columns; ``first_group`` is the first free number.
    """

    def __init__(self, notices: Notices, taken: frozenset[str], first_group: int) -> None:
        self.losses = Losses()
        # During a trial it is told of each logged loss, once it is a number.
        self.judge: Judge | None = None
        self.groups: dict[int, tuple[Column, ...]] = {}
        self._notices = notices
        self._taken = taken
        self._next_group = first_group
        self._columns_left = MAX_COLUMNS - len(taken)
        self._homes: dict[str, tuple[int, int]] = {}
        self._entries: deque[Entry] = deque()
        self._names: dict[str, str | None] = {}

    def put(self, step: int, time: float, version: int, values: Mapping[str, Any]) -> None:
        """Keeps ``values`` for ``step``; called by the training thread."""
        kept: dict[str, Any] = {}
        for given, value in values.items():
            name = self._names[given] if given in self._names else self._admit(given)
            if name is not None:
                number = self._number(given, value)
                if number is not None:
                    kept[name] = number
        if not kept:
            return
        if len(self._entries) >= CAPACITY:
            self.losses.refuse(step)
            return
        self.losses.end()
        self._entries.append(Entry(step, monotonic(), time, version, kept))

    def rows(self, before: float) -> Iterator[Rows]:
        """Takes the entries told before ``before``, in ``time.monotonic``, merged by step; the last
        word wins.

        New groups are in :attr:`groups` before the rows that use them are given. The entries count
        as taken when all rows were: a fault in between loses none.
        """
        merged: list[Entry] = []
        taken = 0
        for entry in tuple(self._entries):
            if entry.at >= before:
                break
            taken += 1
            if merged and merged[-1].step == entry.step and merged[-1].version == entry.version:
                merged[-1].values.update(entry.values)
            else:
                merged.append(entry._replace(values=dict(entry.values)))
        for entry in merged:
            self._open_groups(entry.values)
        run: list[Entry] = []
        for entry in merged:
            if run and (entry.version != run[-1].version or entry.step <= run[-1].step):
                yield from self._pack(run)
                run = []
            run.append(entry)
        if run:
            yield from self._pack(run)
        for _ in range(taken):
            self._entries.popleft()

    def _open_groups(self, values: Mapping[str, Any]) -> None:
        new = [name for name in values if name not in self._homes]
        for first in range(0, len(new), MAX_GROUP):
            names = new[first : first + MAX_GROUP]
            self.groups[self._next_group] = tuple(Column(name, "log") for name in names)
            self._homes.update((name, (self._next_group, i)) for i, name in enumerate(names))
            self._next_group += 1

    def _pack(self, entries: list[Entry]) -> Iterator[Rows]:
        places: dict[int, dict[int, FloatArray]] = {}
        for index, entry in enumerate(entries):
            for name, value in entry.values.items():
                group, column = self._homes[name]
                rows = places.setdefault(group, {})
                if index not in rows:
                    bits = np.full(len(self.groups[group]), MISSING_BITS, np.uint32)
                    rows[index] = bits.view(np.float32)
                number = float(value)
                with np.errstate(over="ignore"):  # 1e300 is Inf in float32, and said to be
                    rows[index][column] = number
                judge = self.judge
                if name == LOSS and judge is not None and judge.steering.trial is not None:
                    judge.loss(entry.step, entry.version, number)
        for group, rows in places.items():
            picked = [entries[index] for index in rows]
            yield Rows(
                group,
                entries[0].version,
                np.array([entry.step for entry in picked], np.uint64),
                np.array([entry.time for entry in picked], np.float64),
                np.stack(list(rows.values())),
            )

    def _admit(self, given: str) -> str | None:
        """The column of a name that is logged for the first time, None when it cannot have one."""
        name: str | None = given
        if not given or len(given) > MAX_NAME or not given.isprintable():
            self._notices.warn(
                f"log name {given!r}",
                f"cannot log {given[:40]!r}: a name is 1 to {MAX_NAME} printable characters",
            )
            name = None
        elif given in self._taken or given.startswith("norm/"):
            name = f"log/{given}"[:MAX_NAME]
            self._notices.warn(
                f"log name {given!r}",
                f"{given!r} is a column of the run's own; what you log is shown as {name!r}",
            )
        if name is not None and self._columns_left <= 0:
            self._notices.warn(
                "log columns", f"a run has at most {MAX_COLUMNS} columns; {given!r} is not logged"
            )
            return None
        self._columns_left -= name is not None
        if len(self._names) < MAX_COLUMNS:
            self._names[given] = name
        return name

    def _number(self, name: str, value: Any) -> Any:
        """``value`` as a number, or as a detached copy that becomes one without a wait here."""
        if type(value) is float:
            return value
        try:
            if hasattr(value, "detach"):
                if value.numel() != 1 or value.is_complex():
                    raise TypeError
                value = value.detach()
                # Reading a CUDA value would wait for the device: the sender does that.
                return value.item() if value.device.type == "cpu" else value.clone()
            if isinstance(value, (str, bytes, bytearray)):
                raise TypeError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            self._notices.warn(
                f"log value {name!r}",
                f"cannot log {name!r}: expected a number or a 0-dim tensor, "
                f"not {type(value).__name__}",
            )
            return None
