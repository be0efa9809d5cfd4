"""What can be set about a server, in one table, read once and passed as a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
}
"""Environment variable -> (default, meaning). The README shows the same table."""

DEFAULT_PORT = 8642
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
        )
