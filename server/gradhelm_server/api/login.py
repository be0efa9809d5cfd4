"""Coming in and going out."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from typing import Annotated, Any, Final
from urllib.parse import quote

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from .. import oidc, people, sessions
from ..auth import MAX_NEXT, cookie_name
from ..errors import ApiError
from ..state import State, identity_of
from . import shapes
from .ask import StateHere, known_fields, read_json
from .described import answers, led, takes

router = APIRouter(tags=["access"])
log = logging.getLogger(__name__)
CALLBACK: Final = "/login/oidc/callback"
TICKET: Final = "gradhelm-oidc"
_hashing: Final = anyio.CapacityLimiter(2)
"""Threads that look at passwords: each look takes 64 MiB, and many at once are an attack."""


@router.post(
    "/login",
    status_code=204,
    responses=answers(None, 401, 429, status=204),
    openapi_extra=takes(shapes.Login),
)
async def log_in(state: StateHere, request: Request) -> Response:
    """A session cookie, for the one-time code of a link or for a name and a password.

    Body: ``{"code": …}`` or ``{"name": …, "password": …}``. 401 for what lets nobody in, 429 with
    ``Retry-After`` after too many tries.
    """
    body = await read_json(request)
    if "name" in body or "password" in body:
        user: str | None = await _by_password(state, body, _address(request))
        way = "password"
    else:
        user, way = await _by_code(state, body), "link"
    return await begin_session(state, request, user, way)


async def _by_code(state: State, body: dict[str, Any]) -> str | None:
    known_fields(body, "code")
    code = body.get("code")
    ticket = state.codes.redeem(code, time.time()) if isinstance(code, str) else None
    if ticket is None:
        raise ApiError(
            401,
            "bad_code",
            "this link was used before or is too old; `gradhelm link` makes another",
        )
    return ticket.user


async def _by_password(state: State, body: dict[str, Any], address: str) -> str:
    known_fields(body, "name", "password")
    name, password = body.get("name"), body.get("password")
    if not isinstance(name, str) or not isinstance(password, str):
        raise ApiError(422, "bad_value", "name and password: expected two texts")
    state.tries.count(name, address)
    row = await state.store.read(lambda connection: people.by_name(connection, name))
    known = None if row is None else row.password
    right = len(password) <= people.LONGEST and await matches(password, known)
    if row is None or not right:
        # One answer to all: who asks does not learn which names there are.
        raise ApiError(401, "bad_credentials", "there is nobody with this name and this password")
    state.tries.forgive(name, address)
    return str(row.id)


async def begin_session(state: State, request: Request, user: str | None, way: str) -> Response:
    """The answer that brings the cookie."""
    now, life = time.time(), state.settings.session_life
    agent = request.headers.get("user-agent", "")
    secret = await state.store.write(
        lambda connection: sessions.create(connection, user, way, agent, now, life)
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


@router.get("/login/ways", responses=answers(shapes.Ways))
async def get_ways(state: StateHere) -> dict[str, Any]:
    """How one may come in, besides by a link."""
    issuer = None if state.oidc is None else {"name": state.oidc.settings.name}
    return {"password": await state.store.read(people.any_password), "oidc": issuer}


@router.get(
    "/login/oidc",
    status_code=302,
    response_class=RedirectResponse,
    responses=led("to the issuer"),
)
async def leave_for_issuer(
    state: StateHere,
    request: Request,
    wanted: Annotated[
        str,
        Query(alias="next", description="Path of this server to go on to; others are passed over"),
    ] = "",
) -> Response:
    """Sends the browser to the OpenID Connect issuer."""
    if state.oidc is None:
        return _back_to_login("nobody else says here who somebody is")
    back = f"{request.url.scheme}://{request.headers['host']}{CALLBACK}"
    try:
        response, ticket = await state.oidc.leave(request, back, _own_path(wanted))
    except oidc.Unreachable as error:
        log.warning("the OpenID Connect issuer cannot be asked: %s", error)
        return _back_to_login(f"{state.oidc.settings.name} cannot be reached at the moment")
    response.set_cookie(
        TICKET,
        ticket,
        max_age=int(oidc.LIFE),
        path=CALLBACK,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


@router.get(
    CALLBACK,
    status_code=303,
    response_class=RedirectResponse,
    responses=led("to the page, or back to log in"),
)
async def arrive_from_issuer(state: StateHere, request: Request) -> Response:
    """Where the issuer sends the browser back to."""
    if state.oidc is None:
        return _back_to_login("nobody else says here who somebody is")
    granted = state.oidc.settings.grants
    try:
        claims, wanted = await state.oidc.arrive(request, request.cookies.get(TICKET, ""))
        now = time.time()
        user = await state.store.write(
            lambda connection: oidc.account(connection, claims, granted, now)
        )
    except ApiError as error:
        return _back_to_login(error.message)
    response = await begin_session(state, request, user, "oidc")
    response.status_code = 303
    response.headers["location"] = wanted
    _forget(response, request, TICKET, CALLBACK)
    return response


def _own_path(wanted: str) -> str:
    """``wanted`` as an address on this server; "/" where it is none. Two slashes, or a backslash, which
    browsers take for one, would lead to another server, and browsers drop tabs and line ends."""
    path = r"/(?![/\\]|login(?![^/?#]))[^\\\x00-\x1f\x7f]*"
    if len(wanted) > MAX_NEXT or not re.fullmatch(path, wanted):
        return "/"
    return quote(wanted, safe="/:%#?=@[]!$&'()*+,;")


def _forget(response: Response, request: Request, name: str, path: str) -> None:
    """A browser takes no notice of a __Host- cookie that is not Secure, also when it is to end."""
    secure = request.url.scheme == "https"
    response.delete_cookie(name, path, secure=secure, httponly=True, samesite="lax")


def _back_to_login(why: str) -> Response:
    return Response(status_code=303, headers={"Location": f"/login#error={quote(why)}"})


@router.post("/logout", status_code=204, responses=answers(None, status=204))
async def log_out(state: StateHere, request: Request) -> Response:
    """End the session; its cookie is worth nothing any more."""
    identity = identity_of(request)
    if identity.kind == "session":
        with contextlib.suppress(ApiError):  # it has ended by now
            await state.store.write(
                lambda connection: sessions.end(connection, identity, identity.credential)
            )
    response = Response(status_code=204)
    _forget(response, request, cookie_name(request), "/")
    return response


@router.post(
    "/api/v1/login-links",
    status_code=201,
    responses=answers(shapes.LoginLink, 404, status=201),
    openapi_extra=takes(shapes.NewLink, required=False),
)
async def make_login_link(state: StateHere, request: Request) -> dict[str, Any]:
    """A code for ``/login#CODE``: ten minutes, one use.

    Body: empty for this machine's administrator, or ``{"user": id}`` for that account, which may
    set a password then without the old one.
    """
    body = await read_json(request) if await request.body() else {}
    known_fields(body, "user")
    user = body.get("user")
    if user is not None:
        if not isinstance(user, str):
            raise ApiError(422, "bad_value", "user: expected the id of an account")
        await state.store.read(lambda connection: people.shown(connection, user))
    return {"code": state.codes.mint(time.time(), user), "expires_in": sessions.CODE_LIFE}


async def hashed(password: str) -> str:
    return await anyio.to_thread.run_sync(people.hash_password, password, limiter=_hashing)


async def matches(password: str, known: str | None) -> bool:
    return await anyio.to_thread.run_sync(
        people.password_matches, password, known, limiter=_hashing
    )


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
