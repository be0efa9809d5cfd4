"""What can be set about a server, in one table, read once and passed as a value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gradhelm.errors import SettingsError
from gradhelm.settings import data_directory

VARIABLES: dict[str, tuple[str, str]] = {
    "GRADHELM_DATABASE_URL": (
        "SQLite file in the data directory",
        "where the server keeps everything (a SQLAlchemy URL)",
    ),
    "GRADHELM_ALLOWED_HOSTS": (
        "none",
        "host names, separated by commas, that the server answers to besides this machine's own; "
        "needed to bind another address than 127.0.0.1",
    ),
    "GRADHELM_KEEP_STEPS": (
        "for ever",
        "how long the norms of every single step are kept after a run was last heard of, such as "
        "30d; then those of sixteen steps together",
    ),
    "GRADHELM_QUOTA": (
        "none",
        "what each project's runs may take on disk, such as 10GB; the oldest runs' norms of single "
        "steps go first",
    ),
}
"""Environment variable -> (default, meaning). The README shows the same table."""

DEFAULT_PORT = 8642
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Policy:
    """What is kept. ``keep_steps``: seconds for which the norms of every step are, after a run was
    last heard of. ``quota``: bytes of each project. None: no limit."""

    keep_steps: float | None = None
    quota: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Attributes: times are in seconds."""

    home: Path
    database_url: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    allowed_hosts: frozenset[str] = frozenset()
    stale_after: float = 15.0
    failed_after: float = 600.0
    session_life: float = 30 * 86400.0
    policy: Policy = Policy()

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        database_url: str | None = None,
    ) -> ServerSettings:
        """Raises SettingsError for values that cannot be used together."""
        home = data_directory(environ)
        url = database_url or environ.get("GRADHELM_DATABASE_URL")
        allowed = frozenset(
            name.strip().lower()
            for name in environ.get("GRADHELM_ALLOWED_HOSTS", "").split(",")
            if name.strip()
        )
        if host not in LOOPBACK and not allowed:
            raise SettingsError(
                f"--host {host} would open the server to the network; set GRADHELM_ALLOWED_HOSTS "
                "to the names that people will reach it by (for instance train.example.org)"
            )
        if not 0 < port < 65536:
            raise SettingsError(f"--port {port}: expected 1 to 65535")
        return cls(
            home=home,
            database_url=url or f"sqlite:///{home / 'gradhelm.db'}",
            host=host,
            port=port,
            allowed_hosts=allowed,
            policy=Policy(
                _asked("GRADHELM_KEEP_STEPS", environ, duration),
                _asked("GRADHELM_QUOTA", environ, size),
            ),
        )


T = TypeVar("T")


def _asked(name: str, environ: Mapping[str, str], read: Callable[[str], T]) -> T | None:
    text = environ.get(name, "").strip()
    try:
        return read(text) if text else None
    except ValueError as error:
        raise SettingsError(f"{name} is {error}") from None


def duration(text: str) -> float:
    """Seconds of a time such as 30d, 12h or 45m. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r}: expected a time such as 30d, 12h or 45m")
    return int(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}[match[2]]


def size(text: str) -> int:
    """Bytes of a size such as 500MB or 10GB. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})([MGT])B", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r}: expected a size such as 500MB, 10GB or 2TB")
    return int(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2]]
