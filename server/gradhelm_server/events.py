"""Events of a run: what happened, from which step to which, in a sentence."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, or_, select

from .clock import rfc3339
from .tables import events


def add_event(
    connection: Connection,
    run: str,
    at: float,
    *,
    kind: str,
    text: str,
    stream: str | None = None,
    count: int = 1,
    first_step: int | None = None,
    last_step: int | None = None,
    peak_step: int | None = None,
    peak_norm: float | None = None,
    threshold: float | None = None,
    parameter: str | None = None,
) -> dict[str, Any]:
    """Store an event and return it with its id."""
    values: dict[str, Any] = {
        "kind": kind,
        "stream": stream,
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
    result = connection.execute(insert(events), {"run_id": run, **values})
    assert result.inserted_primary_key is not None
    return {"id": int(result.inserted_primary_key[0]), **values}


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
        event = row._asdict()
        del event["run_id"]
        shown.append(show_event(event))
    return shown
