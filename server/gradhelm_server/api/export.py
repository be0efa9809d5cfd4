"""A run to take along, as a file."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from .. import export
from .ask import First, Last, StateHere, Stream, columns_asked, steps_asked
from .described import file

router = APIRouter(prefix="/api/v1/runs/{run}", tags=["matrix"])


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=file(*(made.media_type for made in export.FORMATS.values())),
)
async def get_export(
    state: StateHere,
    run: str,
    request: Request,
    format: Annotated[Literal["csv", "jsonl", "parquet"], Query()],
    columns: Annotated[
        str | None,
        Query(min_length=1, max_length=60_000, description="Names, by comma; default: all"),
    ] = None,
    first: First = None,
    last: Last = None,
    stream: Stream = None,
) -> StreamingResponse:
    """A table: one row for each step that was recorded, ``step`` and ``time`` (Unix seconds) first.

    Every value is the float32 that was measured, no cell stands for more than one step. Steps whose
    norms were pruned have only the scalars that are left.
    """

    def begin(connection: Connection) -> tuple[str, dict[str, int], int, int]:
        row, own, low, high = steps_asked(connection, run, stream, first, last)
        return row.name, columns_asked(connection, row, own, columns), low, high

    name, wanted, low, high = await state.store.read(begin)
    writer: export.Writer = export.FORMATS[format](list(wanted), {"run": run, "name": name})
    indices = list(wanted.values())

    def part(low: int, high: int) -> Callable[[Connection], bytes]:
        return lambda connection: writer.block(export.read(connection, run, indices, low, high))

    async def body() -> AsyncIterator[bytes]:
        if request.scope.get("gradhelm.head"):
            return  # nobody is sent what would be made here
        yield writer.begin()
        # A transaction for each block: a long one would keep the database from tidying up.
        for begin, end in export.ranges(low, high, len(indices)):
            yield await state.store.read(part(begin, end))
        yield await anyio.to_thread.run_sync(writer.end)

    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "run"
    return StreamingResponse(
        body(),
        media_type=writer.media_type,
        headers={"Content-Disposition": f'attachment; filename="{plain[:80]}-{run[-8:]}.{format}"'},
    )
