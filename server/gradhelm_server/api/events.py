"""What happened in a run."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from .. import events, runs
from . import shapes
from .ask import Last, StateHere, Stream
from .described import answers

router = APIRouter(prefix="/api/v1/runs/{run}/events", tags=["events"])


@router.get("", responses=answers(shapes.Events))
async def list_events(
    state: StateHere,
    run: str,
    kind: shapes.KindOfEvent | None = None,
    stream: Stream = None,
    first: Last = None,
    last: Last = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Events, newest first; ``first`` and ``last`` keep those that touch these steps.

    ``stream`` keeps those of one optimizer and those of the run as a whole; by default all.
    """
    before = runs.read_cursor(cursor, int)[0] if cursor else None

    def work(connection: Connection) -> list[dict[str, Any]]:
        row = runs.find(connection, run)
        return events.listed(
            connection,
            run,
            kind=kind,
            stream=None if stream is None else runs.stream_of(row, stream),
            first=first,
            last=last,
            limit=limit + 1,
            before=before,
        )

    found = await state.store.read(work)
    more = len(found) > limit
    found = found[:limit]
    return {
        "events": found,
        "next_cursor": runs.make_cursor(found[-1]["id"]) if more else None,
    }
