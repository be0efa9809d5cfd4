"""Part: what logging every layer's norm at every step adds to a training step."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import httpx

from . import models, peers
from .place import Asked, say, scratch
from .server import Server, environment
from .summary import spread

LEAN = ("trackio", "wandb.log, offline", "TensorBoard")
"""With a model that takes long for a step, by default only these besides ourselves."""


def measure(asked: Asked) -> dict[str, Any]:
    blocks, seconds = (30, 1.0) if asked.large else (12, 0.4)
    told: dict[str, Any] = {"import": _import(9 if asked.large else 5), "jobs": {}}
    others = peers.peers(asked.only)
    for job in models.JOBS:
        few = job == "25 M parameters" and not asked.large
        rows = []
        for peer in [peers.gradhelm(), *others]:
            if few and peer.name not in ("gradhelm", *LEAN):
                continue
            row: dict[str, Any] = {"name": peer.name, "version": peer.version}
            rows.append(row)
            try:
                if peer.why_not:
                    raise peers.Failure(peer.why_not)
                row |= _told(
                    _one(peer, job=job, blocks=blocks, seconds=2 * seconds if few else seconds)
                )
                say(
                    f"{job}, {peer.name}: {row['added_ms']['median']:+.2f} ms/step "
                    f"({row['added_percent']['median']:+.1f} %), CPU {row['cpu_ms']:+.2f} ms"
                )
            except peers.Failure as failure:
                row["why_not"] = str(failure)
                say(f"{job}, {peer.name}: {failure}")
        told["jobs"][job] = rows
    return told


def _import(times: int) -> dict[str, Any]:
    """What ``import gradhelm`` takes after torch, as a script has it; and what it brings along."""
    program = (
        "import sys, time, torch; began = time.perf_counter(); import gradhelm; gradhelm.attach; "
        "print(1000 * (time.perf_counter() - began)); "
        "print(*({'fastapi', 'starlette', 'uvicorn', 'sqlalchemy', 'dash'} & set(sys.modules)))"
    )
    found = []
    with scratch("import") as kept:
        # With bytecode, as it is kept by default; the first round only writes it.
        bytecode = environment(PYTHONPYCACHEPREFIX=str(kept))
        bytecode.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(times + 1):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env=bytecode,
                capture_output=True,
                check=True,
                text=True,
            )
            took, brought = done.stdout.splitlines()
            found.append(float(took))
    del found[0]
    say(f"import gradhelm: {sorted(found)[times // 2]:.0f} ms after torch")
    return {"ms": spread(found), "server_packages": brought.split()}


def _one(peer: peers.Peer, **arguments: Any) -> dict[str, Any]:
    with scratch("steps") as folder:
        if peer.name != "gradhelm":
            return peers.do("steps", peer, folder / "out", **arguments, others=[])
        with Server(folder / "home") as server:
            server.settle(10)
            found = peers.do(
                "steps",
                peer,
                folder / "out",
                {"GRADHELM_HOME": str(server.home), "GRADHELM_SERVER": server.url},
                **arguments,
                others=[server.pid],
            )
            _arrived(server.rest, found["steps"])
            return found


def _arrived(rest: httpx.Client, steps: int) -> None:
    """It counts only if the steps are there."""
    until = time.monotonic() + 30
    while (run := rest.get("runs").json()["runs"][0])["steps"] < steps:
        if time.monotonic() > until:
            raise peers.Failure(f"{run['steps']} of {steps} steps arrived")
        time.sleep(0.1)


def _told(found: dict[str, Any]) -> dict[str, Any]:
    added = [w - b for w, b in zip(found["with_ms"], found["bare_ms"], strict=True)]
    percent = [100 * a / b for a, b in zip(added, found["bare_ms"], strict=True)]
    return {
        "bare_ms": spread(found["bare_ms"]),
        "added_ms": spread(added),
        "added_percent": spread(percent),
        "cpu_ms": found["cpu_ms"],
        "columns": found["columns"],
        "steps": found["steps"],
        "told": found["told"],
    }
