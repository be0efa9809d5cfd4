"""The reckoning: what trainers say they did, held against what the database has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, select, text

from gradhelm_server import tables
from gradhelm_server.matrix import Reader, Stretch, column_names
from gradhelm_server.store import Store

from .lives import norm_of

COLUMNS = {0: "global_norm", 1: "loss"}
"""A column of each group that these trainers send."""


@dataclass
class Sent:
    group: int
    first: int
    last: int
    count: int


@dataclass
class Account:
    """One run as its trainers tell it."""

    run: str
    lives: dict[int, list[int]] = field(default_factory=dict)
    """Life -> first and last step that it was about to take."""
    sent: dict[str, dict[int, Sent]] = field(default_factory=lambda: defaultdict(dict))
    acked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ended: bool = False

    @classmethod
    def read(cls, run: str, journal: Path) -> Account:
        account = cls(run)
        for line in journal.read_text().splitlines() if journal.exists() else ():
            kind, *words = line.split(" ")
            if kind == "P":
                life, step = map(int, words)
                account.lives.setdefault(life, [step, step])[1] = step
            elif kind == "S":
                account.sent[words[0]][int(words[1])] = Sent(*map(int, words[2:]))
            elif kind == "A":
                account.acked[words[0]] = max(account.acked[words[0]], int(words[1]))
            elif kind == "E":
                account.ended = True
        return account

    @property
    def next_step(self) -> int:
        """One that no life was about to take."""
        return max((last + 1 for _, last in self.lives.values()), default=0)


@dataclass
class Verdict:
    """What came of it. Everything from ``lost`` on has to be 0, and ``integrity`` ok.

    produced: steps that were begun. stored: steps of the clip's own rows. acknowledged: values that
    trainers were told are stored. gaps: that were declared, and ``open_gaps`` of lost processes.
    """

    produced: int = 0
    stored: int = 0
    acknowledged: int = 0
    segments: int = 0
    gaps: int = 0
    open_gaps: int = 0
    lost: int = 0
    duplicates: int = 0
    undeclared: int = 0
    wrong: int = 0
    integrity: str = "ok"
    told: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        faults = self.lost + self.duplicates + self.undeclared + self.wrong
        return not faults and self.integrity == "ok"

    def figures(self) -> dict[str, object]:
        return asdict(self)

    def fault(self, kind: str, count: int, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.told) < 20:
            self.told.append(f"{kind}: {what}")


def judge(database: Path, accounts: Iterable[Account]) -> Verdict:
    """Hold the accounts against a database that nobody writes to."""
    verdict = Verdict()
    store = Store(f"sqlite:///{database}")
    try:
        with store.reading() as connection:
            verdict.integrity = str(connection.scalar(text("PRAGMA integrity_check")))
            for account in accounts:
                _judge(connection, account, verdict)
    finally:
        store.close()
    return verdict


def _judge(connection: Connection, account: Account, verdict: Verdict) -> None:
    run = account.run
    table = tables.segments
    rows = {
        row.segment: row
        for row in connection.execute(
            select(table).where(table.c.run_id == run, table.c.stream == "")
        )
    }
    verdict.segments += len(rows)
    held: dict[int, set[int]] = {group: set() for group in COLUMNS}
    late: dict[int, int] = {}
    total = 0
    for segment, row in rows.items():
        for group, column in COLUMNS.items():
            steps, values = _column(connection, run, segment, column)
            if len(np.unique(steps)) < len(steps):
                verdict.fault(
                    "duplicates", len(steps) - len(np.unique(steps)), f"{segment} {column}"
                )
            if group == 0:
                total += len(steps)
                expected = np.array([_norm(step) for step in steps.tolist()])
                if not np.allclose(values, expected, rtol=1e-6):
                    verdict.fault("wrong", 1, f"{segment}: norms are not those of their steps")
            elif len(np.unique(values)) > 1:
                verdict.fault("wrong", 1, f"{segment}: rows of several lives")
            again = held[group].intersection(steps.tolist())
            if again:  # no two lives take the same step
                verdict.fault("duplicates", len(again), f"{segment} {column}: {min(again)}...")
            held[group].update(steps.tolist())
        if row.last_step is not None:
            # An open gap of this segment begins, for the scalars, at their own last step.
            late[row.last_step + 1] = int(steps.max()) + 1 if len(steps) else row.first_step
        if account.acked[segment] > row.high_water:
            verdict.fault("lost", 1, f"{segment}: {row.high_water} < {account.acked[segment]}")
    for segment, acked in account.acked.items():
        for number, sent in account.sent[segment].items():
            if number <= acked:
                columns = 10 if sent.group == 0 else 1
                verdict.acknowledged += sent.count * columns
                there = held[sent.group].intersection(range(sent.first, sent.last + 1))
                if len(there) < sent.count:
                    verdict.fault(
                        "lost", sent.count - len(there), f"{segment} record {number}: {sent}"
                    )
    verdict.stored += total
    counted = connection.scalar(select(tables.runs.c.steps).where(tables.runs.c.id == run)) or 0
    if counted != total:
        verdict.fault("wrong", 1, f"{run} counts {counted} steps, and {total} are stored")
    gaps = [
        (row.first_step, row.last_step, row.count)
        for row in connection.execute(
            select(tables.events).where(
                tables.events.c.run_id == run, tables.events.c.kind == "gap"
            )
        )
    ]
    verdict.gaps += sum(count > 0 for *_, count in gaps)
    verdict.open_gaps += sum(count == 0 for *_, count in gaps)
    for group, column in COLUMNS.items():
        missing = _undeclared(account, held[group], gaps, late if group else {})
        if missing:
            text = f"{run} {column}: {len(missing)} steps, {min(missing)}..{max(missing)}"
            verdict.fault("undeclared", len(missing), text)
    verdict.produced += sum(last - first + 1 for first, last in account.lives.values())


def _undeclared(
    account: Account,
    held: set[int],
    gaps: list[tuple[int | None, int | None, int]],
    late: dict[int, int],
) -> set[int]:
    missing = {
        step for first, last in account.lives.values() for step in range(first, last + 1)
    } - held
    there = sorted(held)
    for first, last, count in gaps:
        if first is None or last is None:
            begin, end = 0, there[0] if there else 1 << 60
        elif count:
            begin, end = first, last + 1
        else:  # open: up to where the run was taken up again
            end = next((step for step in there if step >= first), 1 << 60)
            begin = late.get(first, first)
        missing = {step for step in missing if not begin <= step < end}
    return missing


def _column(
    connection: Connection, run: str, segment: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a column in one segment."""
    number = column_names(connection, run).get(name, -1)
    reader = Reader(connection, run, segment)
    steps, values = [np.empty(0, np.uint64)], [np.empty(0, np.float32)]
    for layout, held in reader.layouts.items():
        at = np.flatnonzero(held.columns == number)
        if len(at):
            part = Stretch(segment, 0, (1 << 53) - 1)
            for some, _, found in reader.rows(part, layout, at):
                steps.append(some.copy())
                values.append(found[:, 0].copy())
    return np.concatenate(steps), np.concatenate(values)


def _norm(step: int) -> float:
    """That of all gradients together: six elements that are alike."""
    return float(np.sqrt(6.0) * norm_of(step))
