"""Salvage: what a spool holds, as messages, with everything that is missing from it declared.

Law: numbers come without holes. Nothing is said of a step that was not measured, and nothing that
was kept and can be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import spool, wire
from .errors import SpoolError, WireError
from .spool import Damage, Kind

DAMAGED: Final = "kept on disk and damaged there"
"""Why what was kept is missing all the same."""


def introduction(folder: Path) -> tuple[wire.Hello, list[wire.Columns]]:
    """Who kept this and which columns there are, from the oldest file that says so."""
    hello: wire.Hello | None = None
    columns: list[wire.Columns] = []
    for entry in spool.read(folder):
        if isinstance(entry, Damage):
            continue
        if entry.kind is Kind.TOLD:
            message = _decoded(entry.data)
            if isinstance(message, wire.Hello):
                hello = hello or message
            elif isinstance(message, wire.Columns) and message not in columns:
                columns.append(message)
        elif hello is not None and columns:
            return hello, columns
    if hello is None:
        raise SpoolError(f"{folder} does not say whose records these are")
    return hello, columns


def numbered(
    folder: Path, above: int, reason: str, *, growing: bool
) -> Iterator[wire.Frame | wire.Gap | wire.Columns | wire.Finish]:
    """What is kept, from the number ``above`` on without holes: what is not there is a gap, with
    ``reason``. ``growing``: somebody writes to it, and its last bytes may be half of a record."""
    expected = above + 1
    step = -1
    torn = False
    end: wire.Finish | None = None
    for entry in spool.read(folder):
        if isinstance(entry, Damage):
            torn = True  # what it held is missing from the numbers, unless it was the last
            continue
        message = _decoded(entry.data)
        if isinstance(message, wire.Finish):
            end = message
        elif isinstance(message, wire.Columns):
            yield message
        elif isinstance(message, wire.Frame | wire.Gap):
            torn = False
            step = max(step, _last_step(message))
            if message.seq < expected:
                continue
            if message.seq > expected:
                yield from _lost(folder, expected, message.seq - 1, reason)
            yield message
            expected = message.seq + 1
    if torn and not growing:
        last = step + 1 if end is None or end.step is None else max(step + 1, end.step)
        yield wire.Gap(expected, step + 1, last, last - step, reason)
    if end is not None:
        yield end


def _last_step(record: wire.Frame | wire.Gap) -> int:
    if isinstance(record, wire.Gap):
        return record.last
    return int.from_bytes(record.steps[-8:], "little")


def _lost(folder: Path, begin: int, end: int, reason: str) -> Iterator[wire.Gap]:
    """The numbers ``begin``..``end``: the first says which steps are missing, the others nothing."""
    first, last = missing_steps(folder, begin, end)
    for number in range(begin, end + 1):
        count = last - first + 1 if number == begin else 0
        yield wire.Gap(number, first, last, count, reason)


def missing_steps(folder: Path, begin: int, end: int) -> tuple[int, int]:
    """Between which steps something of these numbers was: the widest hole in the steps of a group."""
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for entry in spool.read(folder):
        message = None if isinstance(entry, Damage) else _decoded(entry.data)
        if isinstance(message, wire.Frame):
            if message.seq < begin:
                before[message.group] = _last_step(message)
            elif message.seq > end:
                after.setdefault(message.group, int.from_bytes(message.steps[:8], "little"))
    holes = [(before.get(group, -1) + 1, step - 1) for group, step in after.items()]
    first, last = max(holes, key=lambda hole: hole[1] - hole[0], default=(0, -1))
    return (first, last) if last >= first else (first, first)


def _decoded(data: bytes) -> wire.ToServer | None:
    """None for what another release has kept and this one cannot read."""
    try:
        return wire.decode_from_trainer(data)
    except WireError:
        return None
