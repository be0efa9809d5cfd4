"""Who may come in: tokens, sessions and one-time login codes.

Secrets are 256 random bits and only their SHA-256 is kept, so a copy of the database opens
nothing. A code buys a session once, within ten minutes, and lives in memory only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from .clock import rfc3339
from .errors import ApiError
from .tables import sessions, tokens

ROLES = {
    "viewer": frozenset({"view"}),
    "operator": frozenset({"view", "control"}),
    "admin": frozenset({"view", "control", "admin", "ingest"}),
    "ingest": frozenset({"ingest"}),
}
"""Role -> what it may do."""

TOKEN_PREFIX = "gh_"
CODE_LIFE = 600.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was let in; ``kind`` is "token" or "session"."""

    name: str
    role: str
    kind: str

    def may(self, action: str) -> bool:
        return action in ROLES[self.role]


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(
    connection: Connection, role: str, name: str, now: float, expires: float | None = None
) -> str:
    """A new token; this is the only time that it can be read."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    _insert_token(connection, token, role, name, now, expires)
    return token


def _insert_token(
    connection: Connection, token: str, role: str, name: str, now: float, expires: float | None
) -> None:
    connection.execute(
        insert(tokens),
        {
            "id": secrets.token_hex(6),
            "hash": digest(token),
            "name": name,
            "role": role,
            "created_at": now,
            "expires_at": expires,
        },
    )


def local_token(connection: Connection, home: Path, now: float) -> str:
    """The token by which programs of this user on this machine come in; made at first need.

    The file is readable by its owner alone, who could read the database just as well: so the
    token has the admin role.
    """
    path = home / "token"
    token = path.read_text().strip() if path.exists() else ""
    if not token:
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    known = connection.execute(select(tokens.c.id).where(tokens.c.hash == digest(token))).first()
    if known is None:
        _insert_token(connection, token, "admin", "local", now, None)
    return token


def list_tokens(connection: Connection) -> list[dict[str, Any]]:
    return [
        {
            "id": row.id,
            "name": row.name,
            "role": row.role,
            "created_at": rfc3339(row.created_at),
            "expires_at": rfc3339(row.expires_at),
            "last_used_at": rfc3339(row.last_used_at),
            "revoked_at": rfc3339(row.revoked_at),
        }
        for row in connection.execute(select(tokens).order_by(tokens.c.created_at))
    ]


def revoke_token(connection: Connection, token_id: str, now: float) -> None:
    """Raises ApiError 404 when there is no such token, or it was revoked before."""
    done = connection.execute(
        update(tokens)
        .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    if not done.rowcount:
        raise ApiError(404, "not_found", f"there is no token {token_id!r} to revoke")


def identify_token(connection: Connection, token: str, now: float) -> Identity | None:
    row = connection.execute(select(tokens).where(tokens.c.hash == digest(token))).one_or_none()
    if row is None or row.revoked_at is not None or (row.expires_at or now + 1) <= now:
        return None
    return Identity(row.name, row.role, "token")


def used_token(connection: Connection, token: str, now: float) -> None:
    connection.execute(
        update(tokens).where(tokens.c.hash == digest(token)).values(last_used_at=now)
    )


def create_session(connection: Connection, user: str, role: str, now: float, life: float) -> str:
    secret = secrets.token_urlsafe(32)
    connection.execute(
        insert(sessions),
        {
            "hash": digest(secret),
            "user": user,
            "role": role,
            "created_at": now,
            "expires_at": now + life,
        },
    )
    return secret


def identify_session(connection: Connection, secret: str, now: float) -> Identity | None:
    row = connection.execute(
        select(sessions).where(sessions.c.hash == digest(secret), sessions.c.expires_at > now)
    ).one_or_none()
    return None if row is None else Identity(row.user, row.role, "session")


def end_session(connection: Connection, secret: str) -> None:
    connection.execute(sessions.delete().where(sessions.c.hash == digest(secret)))


class LoginCodes:
    """One-time codes: minted for a link, exchanged once for a session."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def mint(self, now: float) -> str:
        code = secrets.token_urlsafe(24)
        with self._lock:
            self._until = {k: t for k, t in self._until.items() if t > now}
            self._until[digest(code)] = now + CODE_LIFE
        return code

    def redeem(self, code: str, now: float) -> bool:
        """True once for a code that was minted and has not expired."""
        with self._lock:
            return self._until.pop(digest(code), 0.0) > now
