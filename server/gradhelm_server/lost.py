"""Lost: what a trainer measured and nobody has, because its process ended without a word.

Nobody knows how much that is, so the gap is open: an event with a count of 0 at the first step that
is missing. It reaches to wherever the run was taken up again; of scalars, which come a little later
than the rows of the clip, all that follow the last stored one are in it.

Law: of every segment that did not end properly, the first step that is not stored lies in a gap.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, select

from .events import add_event
from .tables import events, runs, segments


def declare(connection: Connection, run: str, segment: str, now: float) -> dict[str, Any] | None:
    """Declare missing what a segment may have measured after its last stored step; returns the
    event, None where it is declared already."""
    last = _last_step(connection, run, segment)
    first = None if last is None else last + 1
    known = connection.execute(select(events.c.first_step).where(*_open(run, segment))).first()
    if known is not None:
        if known.first_step == first:
            return None
        withdraw(connection, run, segment)
    after = "before any of its steps was stored" if last is None else f"after step {last}"
    return add_event(
        connection,
        run,
        now,
        kind="gap",
        segment=segment,
        first_step=first,
        last_step=first,
        count=0,
        text=f"the process was lost {after}; what it measured from there on is missing",
    )


def withdraw(connection: Connection, run: str, segment: str) -> None:
    """The trainer of a segment was only silent, or the rest was on its disk."""
    connection.execute(delete(events).where(*_open(run, segment)))


def newest(connection: Connection, run: str) -> str | None:
    """The segment that was begun last."""
    found: str | None = connection.scalar(
        select(segments.c.segment)
        .where(segments.c.run_id == run, segments.c.stream == "")
        .order_by(segments.c.ordinal.desc())
        .limit(1)
    )
    return found


def declare_silent(connection: Connection, since: float, now: float) -> None:
    """The same of all runs that nothing was heard of ``since`` then."""
    # Those that are declared are told by the step: the segment would be another search.
    declared_so = exists().where(
        events.c.run_id == runs.c.id,
        events.c.kind == "gap",
        events.c.count == 0,
        events.c.first_step.is_not_distinct_from(runs.c.last_step + 1),
    )
    silent = connection.scalars(
        select(runs.c.id).where(
            runs.c.ended.is_(None),
            runs.c.deleted_at.is_(None),
            runs.c.last_heard_at < since,
            ~declared_so,
        )
    ).all()
    for run in silent:
        segment = newest(connection, run)
        if segment is not None:
            declare(connection, run, segment, now)


def _last_step(connection: Connection, run: str, segment: str) -> int | None:
    found: int | None = connection.scalar(
        select(segments.c.last_step).where(
            segments.c.run_id == run, segments.c.segment == segment, segments.c.stream == ""
        )
    )
    return found


def _open(run: str, segment: str) -> tuple[ColumnElement[bool], ...]:
    mine = events.c.run_id == run, events.c.kind == "gap", events.c.segment == segment
    return (*mine, events.c.count == 0)
