"""Coming in and going out; tokens; and who and what one is talking to."""

from __future__ import annotations

import time
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from gradhelm import __version__

from .. import accounts, retention, runs
from ..auth import cookie_name
from ..errors import ApiError
from ..settings import Policy
from ..state import identity_of
from .ask import StateHere, number, read_json

router = APIRouter(tags=["access"])


@router.post("/login", status_code=204)
async def log_in(state: StateHere, request: Request) -> Response:
    """Exchange the one-time code of a login link for a session cookie. Body: ``{"code": …}``."""
    body = await read_json(request)
    code, now = body.get("code"), time.time()
    if not isinstance(code, str) or not state.codes.redeem(code, now):
        raise ApiError(
            401,
            "bad_code",
            "this link was used before or is too old; `gradhelm link` makes another",
        )
    life = state.settings.session_life
    secret = await state.store.write(
        lambda connection: accounts.create_session(connection, "local", "admin", now, life)
    )
    response = Response(status_code=204)
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=int(life),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout", status_code=204)
async def log_out(state: StateHere, request: Request) -> Response:
    """End the session; its cookie is worth nothing any more."""
    name = cookie_name(request)
    secret = request.cookies.get(name)
    if secret:
        await state.store.write(lambda connection: accounts.end_session(connection, secret))
    response = Response(status_code=204)
    response.delete_cookie(name)
    return response


@router.post("/api/v1/prune")
async def prune(state: StateHere, request: Request) -> dict[str, Any]:
    """Remove what may go: deleted runs, and norms of single steps that are too old or too many.

    Body: ``{"keep_steps": seconds, "quota": bytes of each project, "dry_run": false}``, by default
    what the server is set to. Says how much it was, or, with ``dry_run``, how much it would be.
    """
    body = await read_json(request)
    unknown = set(body) - {"keep_steps", "quota", "dry_run"}
    if unknown:
        raise ApiError(422, "bad_value", f"{sorted(unknown)[0][:60]}: not a field of this request")
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


@router.get("/api/v1/server")
async def get_server(state: StateHere, request: Request) -> dict[str, Any]:
    now = time.time()
    counts = await state.store.read(lambda connection: runs.counts(connection, now, state.patience))
    identity = identity_of(request)
    return {
        "version": __version__,
        "runs": counts,
        "points_per_second": state.meter.rate(time.monotonic()),
        "user": {"name": identity.name, "role": identity.role},
    }


@router.post("/api/v1/login-links", status_code=201)
async def make_login_link(state: StateHere) -> dict[str, Any]:
    """A code for ``/login#CODE``: ten minutes, one use."""
    return {"code": state.codes.mint(time.time()), "expires_in": accounts.CODE_LIFE}


@router.get("/api/v1/tokens")
async def get_tokens(state: StateHere) -> dict[str, Any]:
    return {"tokens": await state.store.read(accounts.list_tokens)}


@router.post("/api/v1/tokens", status_code=201)
async def make_token(state: StateHere, request: Request) -> dict[str, Any]:
    """Body: ``role``, and optionally ``name`` and ``expires_in`` (seconds). Shown only once."""
    body = await read_json(request)
    role, name = body.get("role"), body.get("name", "")
    if not isinstance(role, str) or role not in accounts.ROLES:
        raise ApiError(422, "bad_value", f"role: expected one of {', '.join(accounts.ROLES)}")
    if not isinstance(name, str) or len(name) > 200:
        raise ApiError(422, "bad_value", "name: expected text of at most 200 characters")
    now, expires = time.time(), None
    if body.get("expires_in") is not None:
        seconds = number("expires_in", body["expires_in"], "of seconds above 0")
        if seconds <= 0:
            raise ApiError(422, "bad_value", "expires_in: expected seconds above 0")
        expires = now + seconds
    label = name or f"{role} token"
    token = await state.store.write(
        lambda connection: accounts.create_token(connection, role, label, now, expires)
    )
    return {"token": token}


@router.delete("/api/v1/tokens/{token}", status_code=204)
async def revoke_token(state: StateHere, token: str) -> Response:
    now = time.time()
    await state.store.write(lambda connection: accounts.revoke_token(connection, token, now))
    return Response(status_code=204)
