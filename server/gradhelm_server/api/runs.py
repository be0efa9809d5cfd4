"""Runs: list, look, rename, tag, delete, take back."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from gradhelm import wire

from .. import runs
from ..errors import ApiError
from ..state import identity_of
from . import shapes
from .ask import StateHere, Stream, read_json
from .described import answers, takes

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])


@router.get("", responses=answers(shapes.Runs))
async def list_runs(
    state: StateHere,
    request: Request,
    project: Annotated[str | None, Query(max_length=200)] = None,
    status: shapes.StatusOfRun | None = None,
    q: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Words, each of the name, project, note, a tag, or what the id begins with",
        ),
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
            projects=identity_of(request).projects("view"),
            project=project,
            status=status,
            words=q,
            limit=limit,
            cursor=cursor,
            sparkline=sparkline,
        )
    )
    return page._asdict()


@router.get("/{run}", responses=answers(shapes.Run))
async def get_run(state: StateHere, run: str) -> dict[str, Any]:
    now = time.time()
    return await state.store.read(lambda connection: runs.get(connection, run, now, state.patience))


@router.patch("/{run}", responses=answers(shapes.Run), openapi_extra=takes(shapes.RunChange))
async def change_run(state: StateHere, run: str, request: Request) -> dict[str, Any]:
    """Body: any of ``name``, ``note`` (text) and ``tags`` (a list of texts)."""
    values = _changes(await read_json(request))
    now, actor = time.time(), identity_of(request).name
    await state.store.write(lambda connection: runs.change(connection, run, values, actor, now))
    state.hub.changed(run)
    return await get_run(state, run)


@router.delete("/{run}", status_code=204, responses=answers(None, status=204))
async def delete_run(state: StateHere, run: str, request: Request) -> Response:
    """Hides the run."""
    now, actor = time.time(), identity_of(request).name
    await state.store.write(lambda connection: runs.delete(connection, run, actor, now))
    return Response(status_code=204)


@router.post("/{run}/restore", responses=answers(shapes.Run, 409))
async def restore_run(state: StateHere, run: str, request: Request) -> dict[str, Any]:
    """Takes a ``DELETE`` back, as long as the run was not removed for good."""
    now, actor = time.time(), identity_of(request).name
    await state.store.write(lambda connection: runs.restore(connection, run, actor, now))
    state.hub.changed(run)
    return await get_run(state, run)


@router.get("/{run}/columns", responses=answers(shapes.Columns))
async def get_columns(state: StateHere, run: str) -> dict[str, Any]:
    def work(connection: Any) -> list[dict[str, Any]]:
        runs.find(connection, run)
        return runs.all_columns(connection, run)

    return {"columns": await state.store.read(work)}


@router.get("/{run}/parameters", responses=answers(shapes.Parameters))
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
            422,
            "unknown_field",
            f"{min(unknown)[:100]!r} cannot be changed; expected name, note, tags",
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
        values["tags"] = json.dumps(tags, ensure_ascii=False)
    return values
