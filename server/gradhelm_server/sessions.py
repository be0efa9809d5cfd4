"""Sessions: how people come in, by a one-time code or a password, and how often they may try."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from sqlalchemy import Connection, insert, select, update

from . import people
from .clock import rfc3339
from .errors import ApiError
from .roles import LOCAL, Identity
from .tables import sessions
from .tokens import digest

CODE_LIFE: Final = 600.0
"""Seconds for which a login link is good, and a password may be set without the old one."""


def create(
    connection: Connection, user: str | None, way: str, agent: str, now: float, life: float
) -> str:
    """A session of an account (None: this machine's administrator); its secret.

    ``way``: "link", "password" or "oidc"; ``agent``: what the browser calls itself.
    """
    connection.execute(sessions.delete().where(sessions.c.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    hashed = digest(secret)
    connection.execute(
        insert(sessions),
        {
            "hash": hashed,
            "id": hashed[:16],
            "user_id": user,
            "way": way,
            "agent": agent[:300],
            "created_at": now,
            "last_used_at": now,
            "expires_at": now + life,
        },
    )
    if user is not None:
        people.came_in(connection, user, now)
    return secret


def identify(connection: Connection, hashed: str, now: float) -> Identity | None:
    """Whose session that is; None when it is over or its account may not come in."""
    row = connection.execute(
        select(sessions).where(sessions.c.hash == hashed, sessions.c.expires_at > now)
    ).one_or_none()
    if row is None:
        return None
    if row.user_id is None:
        return Identity("local", "session", LOCAL, None, row.id)
    found = people.identify(connection, row.user_id)
    if found is None or not found.grants:
        return None
    return Identity(found.name, "session", found.grants, found.user, row.id)


def used(connection: Connection, hashed: str, now: float) -> None:
    connection.execute(update(sessions).where(sessions.c.hash == hashed).values(last_used_at=now))


def listed(connection: Connection, of: Identity, now: float) -> list[dict[str, Any]]:
    """One's own sessions, newest first."""
    query = (
        select(sessions)
        .where(_own(of), sessions.c.expires_at > now)
        .order_by(sessions.c.created_at.desc())
    )
    return [
        {
            "id": row.id,
            "way": row.way,
            "agent": row.agent,
            "created_at": rfc3339(row.created_at),
            "last_used_at": rfc3339(row.last_used_at),
            "expires_at": rfc3339(row.expires_at),
            "current": row.id == of.credential,
        }
        for row in connection.execute(query)
    ]


def end(connection: Connection, of: Identity, session: str) -> None:
    """Raises ApiError 404 for one that is not there, or somebody else's."""
    done = connection.execute(sessions.delete().where(_own(of), sessions.c.id == session))
    if not done.rowcount:
        raise ApiError(404, "not_found", f"you have no session {session[:60]!r}")


def new(connection: Connection, session: str, now: float) -> bool:
    """Whether somebody came in just now by a link: then no old password is asked for."""
    row = connection.execute(
        select(sessions.c.way, sessions.c.created_at).where(sessions.c.id == session)
    ).one_or_none()
    return row is not None and row.way == "link" and row.created_at + CODE_LIFE > now


def _own(of: Identity) -> Any:
    return sessions.c.user_id.is_(None) if of.user is None else sessions.c.user_id == of.user


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whom a code lets in: an account, or (None) this machine's administrator."""

    user: str | None
    until: float


class LoginCodes:
    """One-time codes: minted for a link, exchanged once for a session. They live in memory only."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._lock = threading.Lock()

    def mint(self, now: float, user: str | None = None) -> str:
        code = secrets.token_urlsafe(24)
        with self._lock:
            self._tickets = {k: t for k, t in self._tickets.items() if t.until > now}
            self._tickets[digest(code)] = Ticket(user, now + CODE_LIFE)
        return code

    def redeem(self, code: str, now: float) -> Ticket | None:
        """Whom it lets in, once; None for a code that was not minted or is too old."""
        with self._lock:
            ticket = self._tickets.pop(digest(code), None)
        return ticket if ticket is not None and ticket.until > now else None


class Tries:
    """How often one may try to come in: ten times in a quarter of an hour for a name from one
    address; a hundred times for a name, or from an address, whatever the other is.

    A try counts before its password is looked at, so that many at once are as few as one by one.
    """

    MINUTES: Final = 15

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._few = RateLimitItemPerMinute(10, self.MINUTES)
        self._many = RateLimitItemPerMinute(100, self.MINUTES)

    def count(self, name: str, address: str) -> None:
        """Raises ApiError 429 that says after how many seconds to try again."""
        hashed = digest(people.folded(name))  # names may be long, and passwords by mistake
        asked = ((self._few, (hashed, address)), (self._many, (hashed,)), (self._many, (address,)))
        for item, key in asked:
            if not self._limiter.hit(item, *key):
                when = self._limiter.get_window_stats(item, *key).reset_time
                raise TooManyTries(when)

    def forgive(self, name: str, address: str) -> None:
        """It was the right password."""
        self._limiter.clear(self._few, digest(people.folded(name)), address)


class TooManyTries(Exception):
    """``when``: the moment (seconds since the epoch) from which on one may try again."""

    def __init__(self, when: float) -> None:
        super().__init__("too many tries")
        self.when = when
