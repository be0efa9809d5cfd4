"""What the environment says, read once: one table of variables with their defaults and meanings.

Law: nothing else in the hook reads ``os.environ``; an argument of :func:`gradhelm.attach` wins over
the environment, and ``GRADHELM_CONTROL=off`` wins over everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        "where runs keep what they measure until a server has it: offline runs always (empty means "
        "spool in the data directory), others when this is set",
    ),
    "GRADHELM_HOME": (
        "~/.gradhelm",
        "data directory: the local server's database and token file",
    ),
    "GRADHELM_CONTROL": (
        "on",
        "off makes every run of this process, and the job it is a rank of, read-only, whatever its "
        "script says",
    ),
    "GRADHELM_INSECURE": (
        "0",
        "1 lets runs and commands talk plain http to a server on another machine, where the token "
        "and all else can be read on the way",
    ),
}
"""Variable -> (default, meaning). An empty variable counts as unset."""


@dataclass(frozen=True)
class Settings:
    """The hook's settings; see :data:`TABLE` for what each one means."""

    server: str
    token: str = field(repr=False)
    mode: str
    home: Path
    spool: Path
    spool_online: bool
    control: bool
    insecure: bool


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in ``environ`` (default: this process's). Raises SettingsError."""
    environ = os.environ if environ is None else environ
    found = {name: environ.get(name) or default for name, (default, _) in TABLE.items()}
    home = Path(found["GRADHELM_HOME"]).expanduser()
    return Settings(
        server=found["GRADHELM_SERVER"],
        token=found["GRADHELM_TOKEN"].strip(),  # files of secrets end with a line break
        spool_online=bool(found["GRADHELM_SPOOL"]),
        mode=_one_of("GRADHELM_MODE", found, MODES),
        home=home,
        spool=Path(found["GRADHELM_SPOOL"] or home / "spool").expanduser(),
        control=_one_of("GRADHELM_CONTROL", found, ("on", "off")) == "on",
        insecure=_one_of("GRADHELM_INSECURE", found, ("0", "1")) == "1",
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
