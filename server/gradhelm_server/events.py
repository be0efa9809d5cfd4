"""Events of a run: what happened, from which step to which, in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, insert, or_, select

from .clock import rfc3339
from .store import Commit
from .tables import events

_INSERT: Final = insert(events).returning(events.c.id, sort_by_parameter_order=True)


def add_event(connection: Connection, run: str, at: float, **told: Any) -> dict[str, Any]:
    """Store an event and return it with its id. ``told``: as of :func:`event`."""
    made = event(at, **told)
    made["id"] = connection.scalar(_INSERT, {"run_id": run, **made})
    return made


def add_event_later(
    commit: Commit,
    run: str,
    at: float,
    *,
    known: Callable[[int], None] = lambda number: None,
    **told: Any,
) -> dict[str, Any]:
    """The same before the commit; ``known`` is called with the id, and the event has it by then."""
    made = event(at, **told)

    def got(number: int) -> None:
        made["id"] = number
        known(number)

    commit.later(_INSERT, {"run_id": run, **made}, got=got)
    return made


def event(
    at: float,
    *,
    kind: str,
    text: str,
    stream: str | None = None,
    segment: str | None = None,
    count: int = 1,
    first_step: int | None = None,
    last_step: int | None = None,
    peak_step: int | None = None,
    peak_norm: float | None = None,
    threshold: float | None = None,
    parameter: str | None = None,
) -> dict[str, Any]:
    """An event that has no id yet."""
    return {
        "kind": kind,
        "stream": stream,
        "segment": segment,
        "first_step": first_step,
        "last_step": last_step,
        "count": count,
        "peak_step": peak_step,
        "peak_norm": peak_norm,
        "threshold": threshold,
        "parameter": parameter,
        "text": text,
        "at": at,
    }


def show_event(event: dict[str, Any]) -> dict[str, Any]:
    """An event as REST and the live socket show it."""
    return {**event, "at": rfc3339(event["at"])}


def listed(
    connection: Connection,
    run: str,
    *,
    kind: str | None,
    stream: str | None,
    first: int | None,
    last: int | None,
    limit: int,
    before: int | None,
) -> list[dict[str, Any]]:
    """Events that touch steps ``first``..``last``, newest first, numbered below ``before``.

    With a ``stream`` its own and those of the run as a whole.
    """
    query = select(events).where(events.c.run_id == run)
    if stream is not None:
        run_wide = events.c.kind.in_(("gap", "status"))
        own = events.c.stream == stream if stream else events.c.stream.is_(None)
        query = query.where(or_(own, run_wide))
    if kind is not None:
        query = query.where(events.c.kind == kind)
    if first is not None:
        query = query.where(events.c.last_step >= first)
    if last is not None:
        query = query.where(events.c.first_step <= last)
    if before is not None:
        query = query.where(events.c.id < before)
    found = connection.execute(query.order_by(events.c.id.desc()).limit(limit))
    shown = []
    for row in found:
        made = row._asdict()
        del made["run_id"]
        shown.append(show_event(made))
    return shown


def first_bad(
    connection: Connection, run: str, stream: str, first: int, last: int
) -> tuple[int, str | None] | None:
    """The first step of ``first``..``last`` with a norm that is not finite, and its first layer.

    The layer is that of the event's worst step, None when the event began before the range.
    """
    row = connection.execute(
        select(events.c.first_step, events.c.parameter)
        .where(
            events.c.run_id == run,
            events.c.kind == "nonfinite",
            events.c.stream == stream if stream else events.c.stream.is_(None),
            events.c.last_step >= first,
            events.c.first_step <= last,
        )
        .order_by(events.c.first_step)
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return (row.first_step, row.parameter) if row.first_step >= first else (first, None)
