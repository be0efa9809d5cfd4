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
    rounds, seconds = (5, 20.0) if asked.large else (3, 5.0)
    own: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for rows in FRAMES:
            for where, url in (
                ("", None),
                *([(", PostgreSQL", asked.database_url)] * bool(asked.database_url)),
            ):
                name = f"gradhelm, {rows}-step frames{where}"
                own.setdefault(name, []).append(_gradhelm(rows, seconds, url))
                last = own[name][-1]
                say(
                    f"{name}: {last['points'] / last['seconds']:,.0f} points/s ({turn + 1}/{rounds})"
                )
    return {
        "columns": LAYERS + len(SCALARS),
        "gradhelm": {name: _told(found) for name, found in own.items()},
        "peers": _peers(asked, seconds),
        "limits": _limits(rounds, asked),
        "command_ms": _commands(10.0 if asked.large else 5.0),
    }


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


def _peers(asked: Asked, seconds: float) -> list[dict[str, Any]]:
    told = []
    for peer in peers.peers(asked.only):
        row: dict[str, Any] = {"name": peer.name, "version": peer.version}
        told.append(row)
        if not CONTENDERS[peer.name].counts:
            row["why_not"] = "logs histograms, not values"
            continue
        try:
            if peer.why_not:
                raise peers.Failure(peer.why_not)
            found = []
            for _ in range(3 if asked.large else 1):
                with scratch("peer") as folder:
                    found.append(
                        peers.do(
                            "ingest",
                            peer,
                            folder / "out",
                            columns=LAYERS,
                            steps=100_000,
                            seconds=seconds,
                            read=False,
                        )
                    )
            row |= {
                "points_per_second": spread([one["points"] / one["seconds"] for one in found]),
                "cpu_per_million": spread([1e6 * one["cpu"] / one["points"] for one in found]),
                "bytes_per_point": spread([one["disk"] / one["points"] for one in found]),
                "points": found[0]["points"],
            }
            say(f"{peer.name}: {row['points_per_second']['median']:,.0f} points/s")
        except peers.Failure as failure:
            row["why_not"] = str(failure)
            say(f"{peer.name}: {failure}")
    return told


def _limits(rounds: int, asked: Asked) -> dict[str, Any]:
    columns, steps = LAYERS + len(SCALARS), 320_000 if asked.large else 64_000
    found: dict[str, list[raw.Rate]] = {}
    for _ in range(rounds):
        with scratch("raw") as folder:
            one: dict[str, raw.Rate | None] = {
                "bare sqlite3, 64-step blobs": raw.sqlite_blobs(folder, columns, steps),
                "SQLAlchemy Core, 64-step blobs": raw.core_blobs(
                    f"sqlite:///{folder / 'core.db'}", columns, steps
                ),
                "bare WebSocket, 64-step frames": raw.websocket(columns, steps),
            }
            if asked.database_url:
                one["SQLAlchemy Core, PostgreSQL"] = raw.core_blobs(
                    asked.database_url, columns, steps
                )
                one["bare asyncpg"] = raw.asyncpg_blobs(asked.database_url, columns, steps)
        for name, rate in one.items():
            if rate is not None:
                found.setdefault(name, []).append(rate)
    told = {
        name: {
            "points_per_second": spread([one["points"] / one["seconds"] for one in rates]),
            "cpu_per_million": spread([1e6 * one["cpu"] / one["points"] for one in rates]),
        }
        for name, rates in found.items()
    }
    for name, row in told.items():
        say(f"{name}: {row['points_per_second']['median']:,.0f} points/s")
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
