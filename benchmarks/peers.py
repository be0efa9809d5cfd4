"""The environments of the other loggers: made once, each of its own, under ``.bench/env``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from .contenders import CONTENDERS
from .place import BENCH, ROOMS, ROOT, say

HANGS = 1200.0
"""Seconds after which a contender is given up."""


class Peer(NamedTuple):
    """A logger that is there (``python`` runs it), or the reason why it is not."""

    name: str
    python: str
    version: str
    why_not: str = ""


class Failure(Exception):
    """A contender did not do what it was asked to; the text is its last line."""


def gradhelm() -> Peer:
    """Ourselves, in the environment that this runs in."""
    from gradhelm import __version__

    return Peer("gradhelm", sys.executable, __version__)


def peers(only: list[str] | None = None) -> list[Peer]:
    """All that can be had, and why the others cannot; makes environments that are missing."""
    wanted = [name for name in CONTENDERS if name != "gradhelm" and (not only or name in only)]
    return [_peer(name) for name in wanted]


def _peer(name: str) -> Peer:
    requires = CONTENDERS[name].requires
    package = re.split(r"[<>=!]", requires[0])[0]
    folder = BENCH / "env" / package
    python, refused = folder / "bin" / "python", folder / "refused.txt"
    if not (folder / "installed").exists() and not refused.exists():
        _install(folder, package, requires)
    if refused.exists():
        return Peer(name, "", "", refused.read_text(encoding="utf-8").strip())
    command = f"import importlib.metadata as m; print(m.version({package!r}))"
    version = subprocess.run(
        [str(python), "-c", command], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Peer(name, str(python), version)


def _install(folder: Path, package: str, requires: tuple[str, ...]) -> None:
    """Beside the release of torch that this runs with; PIP_ARGS as in the Makefile."""
    say(f"installing {package} into {folder.relative_to(ROOT)} (minutes)")
    torch = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
    more = shlex.split(os.environ.get("PIP_ARGS", ""))
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *more]
    done = subprocess.run([*pip, torch, "numpy", *requires], capture_output=True, text=True)
    if done.returncode == 0:
        (folder / "installed").touch()
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    why = (errors or done.stderr.splitlines() or ["pip failed"])[-1]
    (folder / "refused.txt").write_text(why.removeprefix("ERROR: ")[:200] + "\n", encoding="utf-8")


def do(
    task: str, peer: Peer, folder: Path, environment: dict[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    """One task in a contender's environment; its files go into ``folder``. Raises Failure."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRADHELM_", "PYTHON"))}
    paths = [str(ROOT), *(ROOMS if peer.name == "gradhelm" else [])]
    # Some keep caches and identities at home, however much they are told where to write.
    home = folder.with_name(folder.name + "-home")
    home.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    words = [task, peer.name, str(folder), json.dumps(arguments)]
    with subprocess.Popen(
        [peer.python, "-m", "benchmarks.tasks", *words],
        cwd=folder,
        env={
            **kept,
            "HOME": str(home),
            **(environment or {}),
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, complaint = process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            raise Failure(f"no end after {HANGS:.0f} s") from None
        finally:
            # Whatever it started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise Failure((complaint.strip().splitlines() or ["it failed without a word"])[-1][:200])
    return dict(json.loads(output.strip().splitlines()[-1]))
