"""What commonly goes wrong, looked for; and how to mend it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gradhelm import __version__
from gradhelm.errors import ServerError, SettingsError
from gradhelm.rest import Client
from gradhelm.settings import data_directory, is_loopback

from . import tls
from .clock import rfc3339
from .endings import Failed
from .reach import of_certificate, proxies
from .settings import LOOPBACK, ServerSettings

RENEW: Final = 14.0
"""Days before its end at which a certificate should have been renewed."""


class Check(NamedTuple):
    """One thing looked at; ``mend`` is what to do about it, if anything."""

    ok: bool
    what: str
    mend: str = ""


def checks() -> list[Check]:
    """All checks, in the order in which a person would ask."""
    return [*_packages(), *_home(), *_network(), *_server()]


def _packages() -> list[Check]:
    version = sys.version.split()[0]
    found = [
        Check(True, f"Python {version}")
        if sys.version_info >= (3, 11)
        else Check(False, f"Python {version}", "use 3.11 or newer")
    ]
    for name, needed_for, mend in (
        ("torch", "the hook", "pip install torch"),
        ("fastapi", "the server", 'pip install "gradhelm[server]"'),
        ("dash", "the page", 'pip install "gradhelm[all]"'),
    ):
        # Only what this machine is used for must be there, so a missing part is told, not blamed.
        if importlib.util.find_spec(name) is not None:
            found.append(Check(True, f"{name} for {needed_for}"))
        else:
            found.append(Check(True, f"no {name}; {needed_for} needs it", mend))
    return found


def _home() -> list[Check]:
    home = data_directory()
    if not home.exists():
        return [Check(True, f"data directory {home}: made by the first `gradhelm up`")]
    free = shutil.disk_usage(home).free
    found = [
        Check(True, f"data directory {home} can be written")
        if os.access(home, os.W_OK)
        else Check(False, f"data directory {home} cannot be written", f"chown {home}"),
        Check(True, f"{free / 2**30:.1f} GiB free there")
        if free > 2**30
        else Check(False, f"only {free / 2**30:.1f} GiB free there", "make room"),
    ]
    return found + list(_owners_alone(home))


def _owners_alone(home: Path) -> Iterator[Check]:
    """What may be read by whoever runs the server, and by nobody else of this machine."""
    if os.name != "posix":  # elsewhere a mode says nothing
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        yield Check(False, f"others can look into {home} (mode {mode:o})", f"chmod 700 {home}")
    else:
        yield Check(True, "nobody else can look into it")
    token = home / "token"
    if token.exists():
        yield (
            Check(False, "the token file can be read by others", f"chmod 600 {token}")
            if token.stat().st_mode & 0o077
            else Check(True, "the token file is readable by you alone")
        )
    try:
        url = ServerSettings.read().database_url
    except SettingsError:
        return  # what is wrong with the settings is told by itself
    database = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not database.exists():
        return
    files = (database, *(Path(f"{database}{end}") for end in ("-wal", "-shm")))
    # In a directory that is closed a file's own mode does not matter.
    shut = not database.parent.stat().st_mode & 0o077
    open_ = [] if shut else [f for f in files if f.exists() and f.stat().st_mode & 0o077]
    if open_:
        words = " ".join(map(str, open_))
        yield Check(False, "the database can be read by others", f"chmod 600 {words}")
    else:
        yield Check(True, "the database is readable by you alone")


def _network() -> list[Check]:
    """How a server that is started with this environment is open to others."""
    try:
        settings = ServerSettings.read()
        shown = tls.look(settings.tls) if settings.tls else None
    except SettingsError as error:
        return [Check(False, str(error), "`gradhelm up` refuses to start with this")]
    found = []
    if shown is not None:
        days = (shown.until - time.time()) / 86400
        until = (rfc3339(shown.until) or "")[:10]
        what = f"TLS certificate for {', '.join(shown.names)}, good until {until}"
        mend = "renew it; a running server takes the new one up by itself"
        found.append(Check(days > RENEW, what, "" if days > RENEW else mend))
        found += [
            Check(False, warning, "see docs/deploying.md")
            for warning in of_certificate(settings, shown)
        ]
    names = sorted(settings.allowed_hosts - LOOPBACK)
    if settings.trusted_proxies:
        found.append(Check(True, f"X-Forwarded-* is believed of {proxies(settings)}"))
    if names:
        found.append(
            Check(True, f"the server answers to {', '.join(names)} too")
            if settings.tls or settings.trusted_proxies
            else Check(
                False,
                f"the server answers to {', '.join(names)}, and speaks plain http",
                "set GRADHELM_TLS_CERT and GRADHELM_TLS_KEY, or GRADHELM_TRUSTED_PROXIES to the "
                "address of a reverse proxy that does https",
            )
        )
    return found


def _server() -> list[Check]:
    try:
        client = Client.here()
        answer = client.ask("GET", "server").body
    except ServerError as error:
        return [Check(False, str(error), "start it, or set GRADHELM_SERVER and GRADHELM_TOKEN")]
    version = answer["version"]
    return [
        Check(True, f"{client.server} answers; you are {answer['user']['role']} there"),
        _connection(client.server),
        Check(True, f"the server is version {version}")
        if version == __version__
        else Check(
            False,
            f"the server is version {version}, this program {__version__}",
            "install the same version on both sides",
        ),
    ]


def _connection(server: str) -> Check:
    if server.startswith("https:"):
        return Check(True, "the connection to it is encrypted, and its certificate is accepted")
    if is_loopback(server):
        return Check(True, "the connection to it does not leave this machine")
    return Check(
        False,
        "the connection to it is plain http (GRADHELM_INSECURE=1): the token can be read on the way",
        "use https, or an SSH tunnel",
    )


def check_script(command: list[str], steps: int) -> dict[str, Any]:
    """Runs a training script with its arguments for ``steps`` optimizer steps, watched.

    Returns ``steps``, ``findings``, ``why`` it ended early and all of it as ``text``. The script
    reports to no server meanwhile. Raises Failed when it cannot be run.
    """
    if not command:
        raise Failed("--script needs the path of a training script")
    if not Path(command[0]).is_file():
        raise Failed(f"there is no script {command[0]}")
    if importlib.util.find_spec("torch") is None:
        raise Failed("--script needs torch: pip install torch")
    # The script is the user's own, named on the command line; no shell looks at its name.
    done = subprocess.run(  # nosec B603
        [sys.executable, "-m", "gradhelm.verification", str(steps), *command],
        env={**os.environ, "GRADHELM_MODE": "disabled"},
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise Failed(f"{command[0]} ended with code {done.returncode} and told nothing") from None
    return told
