"""Accounts, as admins see them; and one's own."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from .. import people, sessions
from ..errors import ApiError
from ..roles import Identity, read_grants
from ..state import identity_of
from . import shapes
from .ask import StateHere, known_fields, read_json
from .described import answers, takes
from .login import hashed, matches

router = APIRouter(prefix="/api/v1", tags=["access"])


@router.get("/users", responses=answers(shapes.Users))
async def get_users(state: StateHere) -> dict[str, Any]:
    return {"users": await state.store.read(people.listed)}


@router.post(
    "/users",
    status_code=201,
    responses=answers(shapes.User, 409, status=201),
    openapi_extra=takes(shapes.NewUser),
)
async def make_user(state: StateHere, request: Request) -> dict[str, Any]:
    """Body: ``name``, ``grants`` (``{"project": "role"}``, ``"*"`` for all projects), and
    optionally ``password``; without one the account is come into by a link (``login-links``)."""
    body = await read_json(request)
    known_fields(body, "name", "grants", "password")
    name, granted = people.read_name(body.get("name")), read_grants(body.get("grants"))
    given = body.get("password")
    secret = None if given is None else await hashed(people.read_password(given, name))
    now, by = time.time(), identity_of(request)

    def work(connection: Connection) -> dict[str, Any]:
        user = people.create(connection, by, now, name, granted, secret)
        return people.shown(connection, user)

    return await state.store.write(work)


@router.get("/users/{user}", responses=answers(shapes.User))
async def get_user(state: StateHere, user: str) -> dict[str, Any]:
    return await state.store.read(lambda connection: people.shown(connection, user))


@router.patch(
    "/users/{user}",
    responses=answers(shapes.User, 409),
    openapi_extra=takes(shapes.UserChange),
)
async def change_user(state: StateHere, user: str, request: Request) -> dict[str, Any]:
    """Body: any of ``grants``, ``disabled`` and ``password``. Not for one's own account."""
    body = await read_json(request)
    known_fields(body, "grants", "disabled", "password")
    granted = read_grants(body["grants"]) if "grants" in body else None
    disabled = body.get("disabled")
    if disabled is not None and not isinstance(disabled, bool):
        raise ApiError(422, "bad_value", "disabled: expected true or false")
    shown = await state.store.read(lambda connection: people.shown(connection, user))
    secret = None
    if "password" in body:
        secret = await hashed(people.read_password(body["password"], shown["name"]))
    now, by = time.time(), identity_of(request)

    def work(connection: Connection) -> dict[str, Any]:
        people.change(connection, by, now, user, granted=granted, disabled=disabled, hashed=secret)
        return people.shown(connection, user)

    return await state.store.write(work)


@router.delete("/users/{user}", status_code=204, responses=answers(None, 409, status=204))
async def remove_user(state: StateHere, user: str, request: Request) -> Response:
    """The account, its sessions and its tokens are worth nothing any more."""
    now, by = time.time(), identity_of(request)
    await state.store.write(lambda connection: people.remove(connection, by, now, user))
    return Response(status_code=204)


@router.post(
    "/me/password",
    status_code=204,
    responses=answers(None, 409, 429, status=204),
    openapi_extra=takes(shapes.NewPassword),
)
async def set_password(state: StateHere, request: Request) -> Response:
    """Body: ``new``, and ``old`` where there is one, except within ten minutes of coming in by a
    link. All other sessions of the account end."""
    body = await read_json(request)
    known_fields(body, "old", "new")
    user, by = own_account(request)
    now = time.time()

    def look(connection: Connection) -> tuple[str | None, bool]:
        return people.hash_of(connection, user), sessions.new(connection, by.credential, now)

    known, new = await state.store.read(look)
    old = body.get("old")
    if known is not None and not new:
        address = request.client.host if request.client is not None else ""
        state.tries.count(by.name, address)
        if not isinstance(old, str) or not await matches(old[: people.LONGEST], known):
            raise ApiError(403, "bad_credentials", "old: this is not the password")
        state.tries.forgive(by.name, address)
    secret = await hashed(people.read_password(body.get("new"), by.name))
    await state.store.write(
        lambda connection: people.own_password(connection, by, now, user, secret)
    )
    return Response(status_code=204)


@router.get("/me/sessions", responses=answers(shapes.Sessions))
async def get_sessions(state: StateHere, request: Request) -> dict[str, Any]:
    """Where one is signed in."""
    by, now = identity_of(request), time.time()
    return {"sessions": await state.store.read(lambda c: sessions.listed(c, by, now))}


@router.delete("/me/sessions/{session}", status_code=204, responses=answers(None, status=204))
async def end_session(state: StateHere, session: str, request: Request) -> Response:
    by = identity_of(request)
    await state.store.write(lambda connection: sessions.end(connection, by, session))
    return Response(status_code=204)


def own_account(request: Request) -> tuple[str, Identity]:
    """The account that is signed in. Raises ApiError 409 for who has none, 403 for a token."""
    identity = identity_of(request)
    if identity.kind != "session":
        raise ApiError(403, "forbidden", "a password is set by who is signed in, not by a token")
    if identity.user is None:
        raise ApiError(
            409,
            "no_account",
            "this machine's administrator has no account and so no password; "
            "`gradhelm user add NAME` makes one",
        )
    return identity.user, identity
