"""Tokens: how programs come in.

A token is 256 random bits and only its SHA-256 is kept, so a copy of the database opens nothing.
It has one role, in one project or in all, and an owner: the account that made it. It is worth no
more than its owner may do, and nothing once the owner is gone.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from . import audit, people
from .clock import rfc3339
from .errors import ApiError
from .roles import EVERYWHERE, Identity
from .tables import tokens, users

PREFIX: Final = "gh_"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    connection: Connection,
    by: Identity,
    now: float,
    *,
    role: str,
    project: str = EVERYWHERE,
    name: str,
    expires: float | None = None,
) -> tuple[str, str]:
    """A new token, made by somebody who may: (its id, itself). It can be read only now."""
    token = PREFIX + secrets.token_urlsafe(32)
    number = _insert(connection, token, by, now, role, project, name, expires)
    return number, token


def _insert(
    connection: Connection,
    token: str,
    by: Identity,
    now: float,
    role: str,
    project: str,
    name: str,
    expires: float | None,
) -> str:
    number = secrets.token_hex(6)
    told = {"name": name, "role": role, "project": project}
    connection.execute(
        insert(tokens),
        {
            "id": number,
            "hash": digest(token),
            "owner": by.user,
            "created_at": now,
            "expires_at": expires,
            **told,
        },
    )
    audit.append(
        connection, now, by.name, "token created", None, token=number, expires=expires, **told
    )
    return number


def local(connection: Connection, home: Path, now: float) -> str:
    """The token by which programs of this user on this machine come in; made at first need.

    The file is readable by its owner alone, who could read the database just as well: so the
    token has the admin role.
    """
    path = home / "token"
    token = path.read_text().strip() if path.exists() else ""
    if not token:
        token = PREFIX + secrets.token_urlsafe(32)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
    known = connection.execute(select(tokens.c.id).where(tokens.c.hash == digest(token))).first()
    if known is None:
        server = Identity("server", "token", {})
        _insert(connection, token, server, now, "admin", EVERYWHERE, "local", None)
    return token


def listed(connection: Connection, owner: str | None) -> list[dict[str, Any]]:
    """All tokens, or those of one account; oldest first, without their secrets."""
    query = (
        select(tokens, users.c.name.label("owner_name"))
        .join(users, users.c.id == tokens.c.owner, isouter=True)
        .order_by(tokens.c.created_at)
    )
    if owner is not None:
        query = query.where(tokens.c.owner == owner)
    return [
        {
            "id": row.id,
            "name": row.name,
            "role": row.role,
            "project": row.project,
            "owner": row.owner_name,
            "created_at": rfc3339(row.created_at),
            "expires_at": rfc3339(row.expires_at),
            "last_used_at": rfc3339(row.last_used_at),
            "revoked_at": rfc3339(row.revoked_at),
        }
        for row in connection.execute(query)
    ]


def revoke(connection: Connection, token: str, by: Identity, now: float) -> None:
    """Raises ApiError 404 when there is no such token (of one's own, for all but admins), or it was
    revoked before."""
    mine = tokens.c.id == token
    if not by.may("admin"):
        mine &= tokens.c.owner == by.user
    done = connection.execute(
        update(tokens).where(mine, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    if not done.rowcount:
        raise ApiError(404, "not_found", f"there is no token {token[:60]!r} to revoke")
    audit.append(connection, now, by.name, "token revoked", None, token=token)


def identify(connection: Connection, hashed: str, now: float) -> Identity | None:
    """Who comes with the token whose digest that is."""
    row = connection.execute(select(tokens).where(tokens.c.hash == hashed)).one_or_none()
    if row is None or row.revoked_at is not None or (row.expires_at or now + 1) <= now:
        return None
    grants = {row.project: row.role}
    if row.owner is None:
        return Identity(row.name, "token", grants, None, row.id)
    owner = people.identify(connection, row.owner)
    if owner is None or not owner.may_make(row.role, row.project):
        return None
    # A token may be called like anybody; its owner's name stands before it.
    return Identity(f"{owner.name} · {row.name}", "token", grants, row.owner, row.id)


def used(connection: Connection, hashed: str, now: float) -> None:
    connection.execute(update(tokens).where(tokens.c.hash == hashed).values(last_used_at=now))
