"""Signing in by somebody else's word: OpenID Connect, by Authlib.

Authlib makes and checks what must be right: state, nonce, PKCE, the ID token's signature, issuer,
audience and times. Here stands whom that lets in: the account that is linked to the issuer's subject;
else the account without a password that an admin made for the verified e-mail address, which is
linked from then on; else, where GRADHELM_OIDC_GRANTS says what they get, a new one.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update
from starlette.requests import Request
from starlette.responses import Response

from . import audit, people
from .errors import ApiError
from .roles import Identity
from .settings import OidcSettings
from .tables import users

LIFE: Final = 600.0
"""Seconds that somebody may take at the issuer's."""
MOST: Final = 1000
"""Of those who are on their way at once; the oldest is forgotten for the next."""


class Unreachable(Exception):
    """The issuer does not answer, or not as issuers do."""


class Oidc:
    """The way by one issuer. Raises ImportError without Authlib (the extra ``oidc``)."""

    def __init__(self, settings: OidcSettings) -> None:
        from authlib.integrations.starlette_client import OAuth

        self.settings = settings
        self._client: Any = OAuth().register(
            "oidc",
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            server_metadata_url=f"{settings.issuer}/.well-known/openid-configuration",
            client_kwargs={
                "scope": "openid email profile",
                "code_challenge_method": "S256",
                "timeout": 10,
            },
        )
        self._on_their_way: dict[str, tuple[float, dict[str, Any], str]] = {}

    async def leave(self, request: Request, back: str, wanted: str) -> tuple[Response, str]:
        """The answer that sends somebody to the issuer, and what they must bring back. ``back``: the
        address that they come back to, ``wanted``: and go on to. Raises Unreachable."""
        from httpx2 import HTTPError

        kept: dict[str, Any] = {}
        request.scope["session"] = kept
        try:
            response: Response = await self._client.authorize_redirect(request, back)
        except (HTTPError, ValueError, KeyError, RuntimeError) as error:
            raise Unreachable(repr(error)) from None
        ticket, now = secrets.token_urlsafe(32), time.time()
        self._on_their_way = {k: v for k, v in self._on_their_way.items() if v[0] > now}
        while len(self._on_their_way) >= MOST:
            del self._on_their_way[next(iter(self._on_their_way))]
        self._on_their_way[ticket] = (now + LIFE, kept, wanted)
        return response, ticket

    async def arrive(self, request: Request, ticket: str) -> tuple[Claims, str]:
        """Who came back, and where to go on to. Raises ApiError 401 with the reason why it cannot be
        believed."""
        from authlib.common.errors import AuthlibBaseError
        from httpx2 import HTTPError
        from joserfc.errors import JoseError

        until, kept, wanted = self._on_their_way.pop(ticket, (0.0, {}, "/"))
        if until <= time.time():
            raise ApiError(401, "bad_code", "this took too long, or began in another browser")
        request.scope["session"] = kept
        try:
            token = await self._client.authorize_access_token(request)
            told = token.get("userinfo") or {}
        except (AuthlibBaseError, JoseError, HTTPError, ValueError, KeyError) as error:
            what = getattr(error, "description", "") or getattr(error, "error", "") or error
            raise ApiError(
                401, "bad_code", f"{self.settings.name} did not let you in: {what}"[:300]
            ) from None
        subject, email = told.get("sub"), told.get("email")
        if not isinstance(subject, str) or not subject:
            raise ApiError(401, "bad_code", f"{self.settings.name} did not say who you are")
        verified = isinstance(email, str) and told.get("email_verified") is True
        return Claims(f"{self.settings.issuer}|{subject}", email if verified else None), wanted


@dataclass(frozen=True, slots=True)
class Claims:
    """Who somebody is at the issuer's. email: only one that the issuer has verified."""

    subject: str
    email: str | None


def account(
    connection: Connection, claims: Claims, granted: dict[str, str] | None, now: float
) -> str:
    """The id of the account that the claims let in. Raises ApiError 403."""
    row = connection.execute(select(users).where(users.c.oidc == claims.subject)).one_or_none()
    if row is not None:
        if row.disabled_at is not None:
            raise ApiError(403, "forbidden", f"the account {row.name} is disabled")
        return str(row.id)
    if claims.email is None:
        raise ApiError(
            403, "forbidden", "there is no account for you, nor a verified e-mail address"
        )
    name = people.read_name(claims.email)
    server = Identity("server", "token", {})
    known = people.by_name(connection, name)
    if known is None:
        if granted is None:
            raise ApiError(
                403,
                "forbidden",
                f"there is no account {name}; an admin can make one without a password",
            )
        user = people.create(connection, server, now, name, granted, None)
    elif known.password is not None or known.oidc is not None:
        raise ApiError(403, "forbidden", f"the account {name} signs in another way")
    else:
        user = str(known.id)
    connection.execute(update(users).where(users.c.id == user).values(oidc=claims.subject))
    audit.append(connection, now, server.name, "user linked", None, user=name, oidc=claims.subject)
    return user
