"""Part: how fast values are taken, what that costs, and how much disk they need."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from gradhelm import wire
from gradhelm_server.simulated import SCALARS, run_id

from . import peers, raw
from .contenders import CONTENDERS
from .flood import flood, greet, open_run
from .place import ROOT, Asked, say, scratch
from .server import Server
from .summary import spread, tails

LAYERS = 200
FRAMES = (64, 16, 1)
"""Steps of a frame."""


def measure(asked: Asked) -> dict[str, Any]:
    rounds, seconds = (5, 20.0) if asked.large else (3, 3.0)
    places = {"": None} | ({", PostgreSQL": asked.database_url} if asked.database_url else {})
    others = {peer.name: peer for peer in peers.peers(asked.only)}
    why_not = {name: peer.why_not for name, peer in others.items() if peer.why_not}
    why_not |= {
        name: "logs histograms, not values" for name in others if not CONTENDERS[name].counts
    }
    own: dict[str, list[dict[str, Any]]] = {}
    theirs: dict[str, list[dict[str, Any]]] = {}
    limits: dict[str, list[raw.Rate]] = {}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for rows in FRAMES:
            for where, url in places.items():
                name = f"gradhelm, {rows}-step frames{where}"
                own.setdefault(name, []).append(_gradhelm(rows, seconds, url))
                _say(name, own[name][-1])
        for name in [name for name in others if name not in why_not]:
            try:
                theirs.setdefault(name, []).append(_peer(others[name], seconds))
                _say(name, theirs[name][-1])
            except peers.Failure as failure:
                why_not[name] = str(failure)
                say(f"{name}: {failure}")
        for name, rate in _limits(asked).items():
            limits.setdefault(name, []).append(rate)
            _say(name, rate)
    return {
        "columns": LAYERS + len(SCALARS),
        "gradhelm": {name: _told(found) for name, found in own.items()},
        "peers": [
            {"name": name, "version": peer.version}
            | ({"why_not": why_not[name]} if name in why_not else _rates(theirs[name]))
            for name, peer in others.items()
        ],
        "limits": {name: _rates(found) for name, found in limits.items()},
        "command_ms": _commands(10.0 if asked.large else 5.0),
    }


def _say(name: str, found: dict[str, Any]) -> None:
    say(f"{name}: {found['points'] / found['seconds']:,.0f} points/s")


def _gradhelm(rows: int, seconds: float, database_url: str | None) -> dict[str, Any]:
    """One flood into a fresh database."""
    with scratch("ingest") as home, Server(home, database_url=database_url) as server:
        server.settle(10)
        used, empty = server.cpu, server.disk
        found = flood(server, LAYERS, 10**9, rows, seconds=seconds)
        acknowledged = server.cpu - used
        waited = server.settle()
        return {
            **found,
            "server_cpu": acknowledged,
            "settled_seconds": found["seconds"] + waited,
            "settled_server_cpu": server.cpu - used,
            # Of another engine's files nothing is known here.
            "disk": None if database_url else server.disk - empty,
        }


def _told(found: list[dict[str, Any]]) -> dict[str, Any]:
    millions = [one["points"] / 1e6 for one in found]
    return {
        "points_per_second": spread([one["points"] / one["seconds"] for one in found]),
        "settled_points_per_second": spread(
            [one["points"] / one["settled_seconds"] for one in found]
        ),
        "cpu_per_million": spread(
            [(one["cpu"] + one["server_cpu"]) / m for one, m in zip(found, millions, strict=True)]
        ),
        "settled_cpu_per_million": spread(
            [
                (one["cpu"] + one["settled_server_cpu"]) / m
                for one, m in zip(found, millions, strict=True)
            ]
        ),
        "bytes_per_point": spread([one["disk"] / one["points"] for one in found])
        if found[0]["disk"] is not None
        else None,
        "points": found[0]["points"],
    }


def _peer(peer: peers.Peer, seconds: float) -> dict[str, Any]:
    with scratch("peer") as folder:
        out = folder / "out"
        return peers.do(
            "ingest", peer, out, columns=LAYERS, steps=100_000, seconds=seconds, read=False
        )


def _limits(asked: Asked) -> dict[str, raw.Rate]:
    columns, steps = LAYERS + len(SCALARS), 320_000 if asked.large else 64_000
    with scratch("raw") as folder:
        core = f"sqlite:///{folder / 'core.db'}"
        found = {
            "bare sqlite3, 64-step blobs": raw.sqlite_blobs(folder, columns, steps),
            "SQLAlchemy Core, 64-step blobs": raw.core_blobs(core, columns, steps),
            "bare WebSocket, 64-step frames": raw.websocket(columns, steps),
        }
    if asked.database_url:
        found["SQLAlchemy Core, PostgreSQL"] = raw.core_blobs(asked.database_url, columns, steps)
        bare = raw.asyncpg_blobs(asked.database_url, columns, steps)
        if bare is not None:
            found["bare asyncpg"] = bare
    return found


def _rates(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a peer, or of a limit (whose disk was not looked at)."""
    told: dict[str, Any] = {
        "points_per_second": spread([one["points"] / one["seconds"] for one in found]),
        "cpu_per_million": spread([1e6 * one["cpu"] / one["points"] for one in found]),
        "points": found[0]["points"],
    }
    if "disk" in found[0]:
        told["bytes_per_point"] = spread([one["disk"] / one["points"] for one in found])
    return told


def _commands(seconds: float) -> dict[str, float]:
    """How long a change of the threshold takes to its trainer, while another one floods."""
    with scratch("command") as home, Server(home) as server:
        words = [server.url, server.token, str(LAYERS), str(10**9), "64", str(seconds + 3)]
        busy = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.flood", *words],
            cwd=ROOT,
            env=server.environment,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(2)
        found, run = [], run_id()
        with open_run(server.url, server.token) as socket:
            greet(socket, run, "steered", 3)
            until, version = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                began = time.perf_counter()
                server.rest.put(
                    f"runs/{run}/control",
                    json={"max_norm": 0.5 + version % 2},
                    headers={"If-Match": f'"{version}"'},
                ).raise_for_status()
                while True:
                    heard = wire.decode_from_server(bytes(socket.recv(30)))  # type: ignore[arg-type]
                    if isinstance(heard, wire.Change) and heard.version > version:
                        break
                found.append(1000 * (time.perf_counter() - began))
                version += 1
                socket.send(wire.encode(wire.Delivered(version)))
                time.sleep(0.02)
        busy.wait()
        told = tails(found)
        say(f"a command under full ingest: p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms")
        return told
