"""Runs: list, look, rename, tag, delete."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from gradhelm import wire

from .. import runs
from ..errors import ApiError
from .ask import StateHere, Stream, read_json

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
Status = Literal["live", "stale", "failed", "finished", "stopped"]


@router.get("")
async def list_runs(
    state: StateHere,
    project: Annotated[str | None, Query(max_length=200)] = None,
    status: Status | None = None,
    q: Annotated[
        str | None, Query(max_length=200, description="Words of the name or project")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    sparkline: Annotated[bool, Query(description="With the newest norms, thinned")] = False,
) -> dict[str, Any]:
    """Runs, newest first; ``next_cursor`` leads on."""
    now = time.time()
    page = await state.store.read(
        lambda connection: runs.listed(
            connection,
            now,
            state.patience,
            project=project,
            status=status,
            words=q,
            limit=limit,
            cursor=cursor,
            sparkline=sparkline,
        )
    )
    return page._asdict()


@router.get("/{run}")
async def get_run(state: StateHere, run: str) -> dict[str, Any]:
    now = time.time()
    return await state.store.read(lambda connection: runs.get(connection, run, now, state.patience))


@router.patch("/{run}")
async def change_run(state: StateHere, run: str, request: Request) -> dict[str, Any]:
    """Body: any of ``name``, ``note`` (text) and ``tags`` (a list of texts)."""
    values = _changes(await read_json(request))
    await state.store.write(lambda connection: runs.change(connection, run, values))
    state.hub.changed(run)
    return await get_run(state, run)


@router.delete("/{run}", status_code=204)
async def delete_run(state: StateHere, run: str) -> Response:
    """Hides the run."""
    now = time.time()
    await state.store.write(lambda connection: runs.delete(connection, run, now))
    return Response(status_code=204)


@router.get("/{run}/columns")
async def get_columns(state: StateHere, run: str) -> dict[str, Any]:
    def work(connection: Any) -> list[dict[str, Any]]:
        runs.find(connection, run)
        return runs.all_columns(connection, run)

    return {"columns": await state.store.read(work)}


@router.get("/{run}/parameters")
async def get_parameters(state: StateHere, run: str, stream: Stream = None) -> dict[str, Any]:
    """The parameters in the order of declaration: the rows of the heatmap."""

    def work(connection: Any) -> list[dict[str, Any]]:
        own = runs.stream_of(runs.find(connection, run), stream)
        return runs.parameters(connection, run, own)

    return {"parameters": await state.store.read(work)}


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    unknown = body.keys() - {"name", "note", "tags"}
    if unknown:
        raise ApiError(
            422, "unknown_field", f"{min(unknown)!r} cannot be changed; expected name, note, tags"
        )
    values: dict[str, Any] = {}
    for field, most, least in (("name", wire.MAX_NAME, 1), ("note", 10_000, 0)):
        if field in body:
            text = body[field]
            if not isinstance(text, str) or not least <= len(text) <= most or "\0" in text:
                raise ApiError(
                    422, "bad_value", f"{field}: expected text of {least} to {most} characters"
                )
            values[field] = text
    if "tags" in body:
        tags = body["tags"]
        good = (
            isinstance(tags, list)
            and len(tags) <= 64
            and all(
                isinstance(t, str) and 0 < len(t) <= wire.MAX_NAME and "\0" not in t for t in tags
            )
        )
        if not good:
            raise ApiError(
                422,
                "bad_value",
                f"tags: expected at most 64 texts of 1 to {wire.MAX_NAME} characters",
            )
        values["tags"] = json.dumps(tags)
    return values
