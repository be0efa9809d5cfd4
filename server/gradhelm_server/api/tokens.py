"""Tokens, which let programs in."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response

from .. import tokens
from ..errors import ApiError
from ..roles import EVERYWHERE, ROLES, only_everywhere, read_project
from ..state import identity_of
from . import shapes
from .ask import StateHere, known_fields, number, read_json
from .described import answers, takes

router = APIRouter(prefix="/api/v1/tokens", tags=["access"])
LONGEST_LIFE = 1e10
"""Seconds until a token expires: what ends after the year 9999 could not be shown."""


@router.get("", responses=answers(shapes.Tokens))
async def get_tokens(state: StateHere, request: Request) -> dict[str, Any]:
    """All tokens for admins, one's own for others; never the secrets themselves."""
    by = identity_of(request)
    owner = None if by.may("admin") else by.user
    return {"tokens": await state.store.read(lambda connection: tokens.listed(connection, owner))}


@router.post(
    "",
    status_code=201,
    responses=answers(shapes.Secret, status=201),
    openapi_extra=takes(shapes.NewToken),
)
async def make_token(state: StateHere, request: Request) -> dict[str, Any]:
    """Body: ``role``, and optionally ``project`` (``"*"``: all, the default), ``name`` and
    ``expires_in`` (seconds). The token is shown only once.

    Admins make any; others, signed in as themselves, such as may no more than they do.
    """
    body = await read_json(request)
    known_fields(body, "role", "project", "name", "expires_in")
    role, name = body.get("role"), body.get("name", "")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(422, "bad_value", f"role: expected one of {', '.join(ROLES)}")
    project = read_project(body.get("project", EVERYWHERE))
    only_everywhere(role, project)
    if not isinstance(name, str) or len(name) > 200 or "\0" in name:
        raise ApiError(422, "bad_value", "name: expected text of at most 200 characters")
    now, expires = time.time(), None
    if body.get("expires_in") is not None:
        seconds = number("expires_in", body["expires_in"], "of seconds above 0")
        if not 0 < seconds <= LONGEST_LIFE:
            raise ApiError(422, "bad_value", "expires_in: expected seconds above 0, at most 1e10")
        expires = now + seconds
    by = identity_of(request)
    if by.kind == "token" and not by.may("admin"):
        raise ApiError(403, "forbidden", "a token makes no tokens; sign in, or ask an admin")
    if not by.may_make(role, project):
        where = "all projects" if project == EVERYWHERE else f"the project {project!r}"
        raise ApiError(403, "forbidden", f"you may not make a token with {role} in {where}")
    made, token = await state.store.write(
        lambda connection: tokens.create(
            connection,
            by,
            now,
            role=role,
            project=project,
            name=name or f"{role} token",
            expires=expires,
        )
    )
    return {"id": made, "token": token}


@router.delete("/{token}", status_code=204, responses=answers(None, status=204))
async def revoke_token(state: StateHere, token: str, request: Request) -> Response:
    """The token is worth nothing any more; what it has open ends within five seconds."""
    now, by = time.time(), identity_of(request)
    await state.store.write(lambda connection: tokens.revoke(connection, token, by, now))
    return Response(status_code=204)
