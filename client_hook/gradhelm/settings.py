"""What the environment says, read once: one table of variables with their defaults and meanings.

Law: nothing else in the hook reads ``os.environ``; an argument of :func:`gradhelm.attach` wins over
the environment, and ``GRADHELM_CONTROL=off`` wins over everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from .errors import SettingsError

MODES: Final = ("online", "offline", "disabled")

TABLE: Final[dict[str, tuple[str, str]]] = {
    "GRADHELM_SERVER": (
        "http://127.0.0.1:8642",
        "URL of the server that runs report to",
    ),
    "GRADHELM_TOKEN": (
        "",
        "API token; empty means the local server's own token file when the server is this machine",
    ),
    "GRADHELM_MODE": (
        "online",
        "online; offline: keep what is measured on disk, for `gradhelm sync`; or disabled: clip as "
        "told, report nothing",
    ),
    "GRADHELM_SPOOL": (
        "",
        "where offline runs keep what they measure; empty means spool in the data directory",
    ),
    "GRADHELM_HOME": (
        "~/.gradhelm",
        "data directory: the local server's database and token file",
    ),
    "GRADHELM_CONTROL": (
        "on",
        "off makes every run of this process read-only, whatever its script says",
    ),
}
"""Variable -> (default, meaning). An empty variable counts as unset."""


@dataclass(frozen=True)
class Settings:
    """The hook's settings; see :data:`TABLE` for what each one means."""

    server: str
    token: str
    mode: str
    home: Path
    spool: Path
    control: bool


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in ``environ`` (default: this process's). Raises SettingsError."""
    environ = os.environ if environ is None else environ
    found = {name: environ.get(name) or default for name, (default, _) in TABLE.items()}
    home = Path(found["GRADHELM_HOME"]).expanduser()
    return Settings(
        server=found["GRADHELM_SERVER"],
        token=found["GRADHELM_TOKEN"],
        mode=_one_of("GRADHELM_MODE", found, MODES),
        home=home,
        spool=Path(found["GRADHELM_SPOOL"] or home / "spool").expanduser(),
        control=_one_of("GRADHELM_CONTROL", found, ("on", "off")) == "on",
    )


def data_directory(environ: Mapping[str, str] | None = None) -> Path:
    """``GRADHELM_HOME``, else ``~/.gradhelm``. Not created here."""
    return read(environ).home


def local_token(server_url: str, home: Path) -> str:
    """The local server's own token, or ``""`` when there is none or the server is elsewhere.

    The file ``<home>/token`` holds one line. It is never sent to another machine.
    """
    if not is_loopback(server_url):
        return ""
    try:
        lines = (home / "token").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return lines[0].strip() if lines else ""


def is_loopback(server_url: str) -> bool:
    """Whether the URL's host is this machine by name or by loopback address."""
    host = urlsplit(server_url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _one_of(name: str, found: Mapping[str, str], accepted: tuple[str, ...]) -> str:
    value = found[name].strip().lower()
    if value not in accepted:
        raise SettingsError(f"{name} is {found[name]!r}; accepted: {', '.join(accepted)}")
    return value
