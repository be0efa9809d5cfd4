"""What commonly goes wrong, looked for; and how to mend it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from gradhelm import __version__
from gradhelm.settings import data_directory

from .client import Client, Failed


class Check(NamedTuple):
    """One thing looked at; ``mend`` is what to do about it, if anything."""

    ok: bool
    what: str
    mend: str = ""


def checks() -> list[Check]:
    """All checks, in the order in which a person would ask."""
    return [*_packages(), *_home(), *_server()]


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
    token = home / "token"
    if token.exists() and os.name == "posix":
        found.append(
            Check(False, "the token file can be read by others", f"chmod 600 {token}")
            if token.stat().st_mode & 0o077
            else Check(True, "the token file is readable by you alone")
        )
    return found


def _server() -> list[Check]:
    client = Client.here()
    try:
        answer = client.ask("GET", "server").body
    except Failed as error:
        return [Check(False, str(error), "start it, or set GRADHELM_SERVER and GRADHELM_TOKEN")]
    version = answer["version"]
    return [
        Check(True, f"{client.server} answers; you are {answer['user']['role']} there"),
        Check(True, f"the server is version {version}")
        if version == __version__
        else Check(
            False,
            f"the server is version {version}, this program {__version__}",
            "install the same version on both sides",
        ),
    ]


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
    done = subprocess.run(
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
