"""The audit: who did what, as a chain in which each entry is sealed with the one before.

Law: an entry is written in the transaction of what it tells of, and never changed: the database
refuses it, and whoever changes it all the same breaks the chain. Of the newest entries alone the
chain cannot say that they are missing; who wants to know keeps its head elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, insert, select

from .clock import rfc3339
from .tables import audit

BEGIN: Final = "0" * 64
"""What the first entry has for the hash of the one before."""


def append(
    connection: Connection, at: float, actor: str, action: str, run: str | None, **details: Any
) -> None:
    """Add an entry. ``details``: what JSON knows, without NaN and infinities."""
    last = connection.execute(
        select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1)
    ).one_or_none()
    number, previous = (1, BEGIN) if last is None else (last.id + 1, last.hash)
    at, text = float(at), _canonical(details)
    connection.execute(
        insert(audit),
        {
            "id": number,
            "at": at,
            "actor": actor,
            "action": action,
            "run_id": run,
            "details": text,
            "previous": previous,
            "hash": _hash(previous, number, at, actor, action, run, text),
        },
    )


class Verdict(NamedTuple):
    """What a look at the whole chain found. ``head``: the hash of its newest entry.

    bad: the first entry that is not as it was written, and ``what`` is wrong with it. holds_head:
    whether the head that was asked for is in the chain; None when none was.
    """

    entries: int
    since: float | None
    head: str
    bad: int | None = None
    what: str = ""
    holds_head: bool | None = None

    @property
    def whole(self) -> bool:
        return self.bad is None and self.holds_head is not False

    def shown(self) -> dict[str, Any]:
        return {**self._asdict(), "since": rfc3339(self.since), "whole": self.whole}


def verify(connection: Connection, head: str | None = None) -> Verdict:
    """Look at every entry, oldest first, up to the first that is bad."""
    previous, count, since = BEGIN, 0, None
    holds = None if head is None else head == BEGIN
    for row in connection.execute(
        select(audit).order_by(audit.c.id).execution_options(yield_per=1000)
    ):
        what = _wrong(row, count + 1, previous)
        if what:
            return Verdict(count, since, previous, row.id, what, holds)
        previous, count = row.hash, count + 1
        since = row.at if since is None else since
        holds = holds or (None if head is None else row.hash == head)
    return Verdict(count, since, previous, holds_head=holds)


def listed(connection: Connection, run: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest entries, newest first, of one run or of all."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if run is not None:
        query = query.where(audit.c.run_id == run)
    return [
        {
            "id": row.id,
            "at": rfc3339(row.at),
            "actor": row.actor,
            "action": row.action,
            "run": row.run_id,
            "details": json.loads(row.details),
            "hash": row.hash,
        }
        for row in connection.execute(query)
    ]


def _wrong(row: Row[Any], number: int, previous: str) -> str:
    """What is wrong with an entry; nothing if it is as it was written."""
    if row.id != number:
        return f"entry {number} is missing"
    if row.previous != previous:
        return "it does not follow the entry before it"
    told = _hash(previous, row.id, row.at, row.actor, row.action, row.run_id, row.details)
    return "" if told == row.hash else "it was changed after it was written"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(previous: str, *row: Any) -> str:
    return hashlib.sha256((previous + _canonical(row)).encode()).hexdigest()
