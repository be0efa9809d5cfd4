"""Roles, and what somebody who was let in may do in which project. Pure.

A grant is a role in a project. Projects are the tenants: who has no grant for one does not learn
that it exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gradhelm import wire

from .errors import ApiError

ROLES: Final[dict[str, frozenset[str]]] = {
    "admin": frozenset({"view", "control", "admin", "ingest", "metrics"}),
    "operator": frozenset({"view", "control"}),
    "viewer": frozenset({"view"}),
    "ingest": frozenset({"ingest"}),
    "metrics": frozenset({"metrics"}),
}
"""Role -> what it may do; those that may do more come first."""

EVERYWHERE: Final = "*"
"""For all projects, also those that are yet to come."""
SERVER_WIDE: Final = frozenset({"admin", "metrics"})
"""Roles that there are for all projects only."""
PEOPLE: Final = ("viewer", "operator", "admin")
"""Roles that people have; programs may have all of them."""
MAKES: Final[dict[str, frozenset[str]]] = {
    "admin": frozenset(ROLES),
    "operator": frozenset({"viewer", "operator", "ingest"}),
    "viewer": frozenset({"viewer"}),
}
"""Role -> roles of the tokens that it may make, in its own projects."""

Grants = Mapping[str, str]
"""Project (or EVERYWHERE) -> role."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was let in.

    name: whom the history names as the author. kind: "token" or "session". user: the id of the
    account; None for this machine's own administrator and for tokens made by one. credential: the
    id of the token or session.
    """

    name: str
    kind: str
    grants: Grants
    user: str | None = None
    credential: str = ""

    @property
    def role(self) -> str:
        """The one that may do most."""
        return next(role for role in ROLES if role in self.grants.values())

    def may(self, action: str, project: str | None = None) -> bool:
        """Whether that is allowed in a project; None: in any of them."""
        return any(
            action in ROLES[role]
            for granted, role in self.grants.items()
            if project is None or granted in (EVERYWHERE, project)
        )

    def projects(self, action: str) -> frozenset[str] | None:
        """Where that is allowed; None is everywhere."""
        found = frozenset(p for p, role in self.grants.items() if action in ROLES[role])
        return None if EVERYWHERE in found else found

    def actions(self) -> list[str]:
        """What is allowed in at least one project."""
        return sorted({action for role in self.grants.values() for action in ROLES[role]})

    def may_make(self, role: str, project: str) -> bool:
        """Whether a token with this role, for this project, may be made."""
        return any(
            role in MAKES.get(own, ())
            for granted, own in self.grants.items()
            if granted in (EVERYWHERE, project)
        )


LOCAL: Final[Grants] = {EVERYWHERE: "admin"}
"""What somebody has who can read the database's files anyhow."""


def read_project(value: Any) -> str:
    """A project's name, or EVERYWHERE. Raises ApiError 422."""
    if not isinstance(value, str) or not 0 < len(value) <= wire.MAX_NAME or "\0" in value:
        raise ApiError(
            422,
            "bad_value",
            f'project: expected a name of 1 to {wire.MAX_NAME} characters, or "*" for all',
        )
    return value


def read_grants(value: Any) -> dict[str, str]:
    """A person's grants. Raises ApiError 422 that says what is accepted."""
    if not isinstance(value, dict) or not 0 < len(value) <= 200:
        raise ApiError(
            422,
            "bad_value",
            'grants: expected {"project": "role"} with 1 to 200 projects, or {"*": "role"} for all',
        )
    for project, role in value.items():
        read_project(project)
        if role not in PEOPLE:
            raise ApiError(
                422, "bad_value", f"grants: a person's role is one of {', '.join(PEOPLE)}"
            )
        only_everywhere(role, project)
    return dict(value)


def only_everywhere(role: str, project: str) -> None:
    """Raises ApiError 422 for a role that is of the whole server, and a project."""
    if role in SERVER_WIDE and project != EVERYWHERE:
        raise ApiError(422, "bad_value", f'the role {role} is of the whole server: project "*"')
