"""The server itself: what it is, and tidying it up."""

from __future__ import annotations

import time
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from sqlalchemy import Connection

from gradhelm import __version__

from .. import people, retention, runs, sessions
from ..errors import ApiError
from ..settings import Policy
from ..state import identity_of
from . import shapes
from .ask import StateHere, known_fields, number, read_json
from .described import answers, takes

router = APIRouter(prefix="/api/v1", tags=["access"])


@router.get("/server", responses=answers(shapes.Server))
async def get_server(state: StateHere, request: Request) -> dict[str, Any]:
    """What one is talking to, and as whom."""
    now, by = time.time(), identity_of(request)

    def work(connection: Connection) -> tuple[dict[str, int], bool]:
        within = runs.within(by.projects("view"))
        asks = (
            by.user is not None
            and people.hash_of(connection, by.user) is not None
            and not sessions.new(connection, by.credential, now)
        )
        return runs.counts(connection, now, state.patience, *within), asks

    counts, asks = await state.store.read(work)
    return {
        "version": __version__,
        "runs": counts,
        "points_per_second": state.meter.rate(time.monotonic()),
        "user": {
            "name": by.name,
            "role": by.role,
            "may": by.actions(),
            "grants": dict(by.grants),
            "kind": by.kind,
            "account": by.user is not None and by.kind == "session",
            "password": asks,
        },
    }


@router.post("/prune", responses=answers(shapes.Pruned), openapi_extra=takes(shapes.Prune))
async def prune(state: StateHere, request: Request) -> dict[str, Any]:
    """Remove what may go: deleted runs, and norms of single steps that are too old or too many.

    Body: ``{"keep_steps": seconds, "quota": bytes of each project, "dry_run": false}``, by default
    what the server is set to. Says how much it was, or, with ``dry_run``, how much it would be.
    """
    body = await read_json(request)
    known_fields(body, "keep_steps", "quota", "dry_run")
    dry = body.get("dry_run", False)
    if not isinstance(dry, bool):
        raise ApiError(422, "bad_value", "dry_run: expected true or false")
    limits: dict[str, float] = {}
    for name in ("keep_steps", "quota"):
        if body.get(name) is not None:
            limits[name] = number(name, body[name], "above 0")
            if limits[name] <= 0:
                raise ApiError(422, "bad_value", f"{name}: expected a number above 0")
    own = state.settings.policy
    asked = Policy(
        limits.get("keep_steps", own.keep_steps),
        int(limits["quota"]) if "quota" in limits else own.quota,
    )
    done = await anyio.to_thread.run_sync(lambda: retention.prune(state.store, asked, dry=dry))
    return done.shown()
