"""People: accounts with passwords, and what each may do.

Passwords are kept as argon2id by pwdlib with its recommended parameters. A server with no account
has one user, who comes in by a one-time link.
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import Any, Final

from pwdlib import PasswordHash
from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from . import audit
from .clock import rfc3339
from .errors import ApiError
from .roles import Grants, Identity
from .tables import grants, sessions, tokens, users

LONGEST_NAME: Final = 100
SHORTEST, LONGEST = 12, 1000
"""Characters of a password. NIST SP 800-63B asks for length and not for kinds of characters."""
TAKEN: Final = frozenset({"local", "server", "trainer"})
"""Names that the history has for others than people."""

_hasher = PasswordHash.recommended()
_NOBODY: Final = _hasher.hash(secrets.token_hex(16))
"""Of no account: looked at for names that there are not, so that they take as long."""


def create(
    connection: Connection, by: Identity, now: float, name: str, granted: Grants, hashed: str | None
) -> str:
    """A new account; its id. ``hashed``: of hash_password(). Raises ApiError 409 for a name that is
    taken."""
    number = secrets.token_hex(6)
    row = {
        "id": number,
        "name": name,
        "folded": folded(name),
        "password": hashed,
        "created_at": now,
    }
    try:
        connection.execute(insert(users), row)
    except IntegrityError:
        raise ApiError(409, "name_taken", f"there is somebody called {name!r} already") from None
    _grant(connection, number, granted)
    audit.append(connection, now, by.name, "user created", None, user=name, grants=dict(granted))
    return number


def change(
    connection: Connection,
    by: Identity,
    now: float,
    user: str,
    *,
    granted: Grants | None = None,
    disabled: bool | None = None,
    hashed: str | None = None,
) -> None:
    """Another person's grants, password, or whether they may come in; what is None stays.

    Raises ApiError 404, and 409 for one's own account, of which one could lock oneself out.
    """
    row = _find(connection, user)
    _not_oneself(by, user)
    told: dict[str, Any] = {}
    if granted is not None:
        connection.execute(delete(grants).where(grants.c.user_id == user))
        _grant(connection, user, granted)
        told["grants"] = dict(granted)
    if disabled is not None:
        moment = now if disabled else None
        connection.execute(update(users).where(users.c.id == user).values(disabled_at=moment))
        told["disabled"] = disabled
    if hashed is not None:
        set_password(connection, user, hashed)
        told["password"] = True  # that it was set
    audit.append(connection, now, by.name, "user changed", None, user=row.name, **told)


def remove(connection: Connection, by: Identity, now: float, user: str) -> None:
    """Raises ApiError 404, and 409 for one's own account. The tokens of the account are revoked."""
    row = _find(connection, user)
    _not_oneself(by, user)
    connection.execute(
        update(tokens)
        .where(tokens.c.owner == user, tokens.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    for table in (sessions, grants):
        connection.execute(delete(table).where(table.c.user_id == user))
    connection.execute(delete(users).where(users.c.id == user))
    audit.append(connection, now, by.name, "user removed", None, user=row.name)


def set_password(connection: Connection, user: str, hashed: str, but: str = "") -> None:
    """A new password ends all sessions, except the one with the id ``but``."""
    connection.execute(update(users).where(users.c.id == user).values(password=hashed))
    connection.execute(delete(sessions).where(sessions.c.user_id == user, sessions.c.id != but))


def own_password(connection: Connection, by: Identity, now: float, user: str, hashed: str) -> None:
    """One's own new password; the session that one is in goes on."""
    set_password(connection, user, hashed, but=by.credential)
    audit.append(connection, now, by.name, "password set", None, user=by.name)


def listed(connection: Connection, *where: Any) -> list[dict[str, Any]]:
    """Accounts by name, without their secrets."""
    granted: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(grants)):
        granted.setdefault(row.user_id, {})[row.project] = row.role
    return [
        {
            "id": row.id,
            "name": row.name,
            "grants": granted.get(row.id, {}),
            "password": row.password is not None,
            "oidc": row.oidc is not None,
            "created_at": rfc3339(row.created_at),
            "last_login_at": rfc3339(row.last_login_at),
            "disabled_at": rfc3339(row.disabled_at),
        }
        for row in connection.execute(select(users).where(*where).order_by(users.c.folded))
    ]


def shown(connection: Connection, user: str) -> dict[str, Any]:
    """One account as listed() shows it. Raises ApiError 404."""
    return listed(connection, users.c.id == _find(connection, user).id)[0]


def identify(connection: Connection, user: str) -> Identity | None:
    """An account that may come in; None when it is gone or disabled."""
    row = connection.execute(
        select(users.c.name).where(users.c.id == user, users.c.disabled_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    found = connection.execute(
        select(grants.c.project, grants.c.role).where(grants.c.user_id == user)
    )
    return Identity(row.name, "session", {project: role for project, role in found}, user)


def by_name(connection: Connection, name: str) -> Row[Any] | None:
    """The account called so, whatever the case of its letters, that may come in."""
    query = select(users).where(users.c.folded == folded(name), users.c.disabled_at.is_(None))
    return connection.execute(query).one_or_none()


def hash_of(connection: Connection, user: str) -> str | None:
    return connection.scalar(select(users.c.password).where(users.c.id == user))


def any_password(connection: Connection) -> bool:
    query = select(users.c.id).where(users.c.password.is_not(None), users.c.disabled_at.is_(None))
    return connection.execute(query.limit(1)).first() is not None


def came_in(connection: Connection, user: str, now: float) -> None:
    connection.execute(update(users).where(users.c.id == user).values(last_login_at=now))


# -- names and passwords --------------------------------------------------------------------------


def folded(name: str) -> str:
    """Names that look alike to people are one name."""
    return unicodedata.normalize("NFKC", name).casefold()


def read_name(value: Any) -> str:
    """Raises ApiError 422 for what cannot be an account's name."""
    good = (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_NAME
        and value == value.strip()
        and value.isprintable()
        and "·" not in value  # stands between a token's owner and its name
    )
    if not good:
        raise ApiError(
            422,
            "bad_value",
            f"name: expected 1 to {LONGEST_NAME} printable characters, none of them a space at "
            "an end",
        )
    if folded(value) in TAKEN:
        raise ApiError(422, "bad_value", f"name: {value} is what the history calls somebody else")
    return str(value)


def read_password(value: Any, name: str) -> str:
    """A new password. Raises ApiError 422 for one that is too short, too long, or the name."""
    if not isinstance(value, str) or not SHORTEST <= len(value) <= LONGEST:
        raise ApiError(
            422, "bad_password", f"password: expected {SHORTEST} to {LONGEST} characters"
        )
    if folded(name) in folded(value) and len(value) - len(name) < SHORTEST - 4:
        raise ApiError(422, "bad_password", "password: it is little more than the name")
    if len(set(value)) < 5:
        raise ApiError(422, "bad_password", "password: it repeats itself")
    return value


def hash_password(password: str) -> str:
    """Takes some 50 ms and 64 MiB, so never on the event loop."""
    return _hasher.hash(password)


def password_matches(password: str, hashed: str | None) -> bool:
    """Whether it is the one that was hashed; as slow for an account that has none."""
    return _hasher.verify(password, hashed or _NOBODY) and hashed is not None


# -- inside ---------------------------------------------------------------------------------------


def _find(connection: Connection, user: str) -> Row[Any]:
    row = connection.execute(select(users).where(users.c.id == user)).one_or_none()
    if row is None:
        raise ApiError(404, "not_found", f"there is no user {user[:60]!r}")
    return row


def _grant(connection: Connection, user: str, granted: Grants) -> None:
    rows = [{"user_id": user, "project": p, "role": role} for p, role in granted.items()]
    connection.execute(insert(grants), rows)


def _not_oneself(by: Identity, user: str) -> None:
    if by.user == user:
        raise ApiError(409, "own_account", "this is your own account; another admin can do that")
