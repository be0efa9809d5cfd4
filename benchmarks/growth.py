"""Part: what happens with more layers, more steps, more runs and more viewers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .flood import flood
from .place import ROOT, Asked, say, scratch
from .reads import Question, over_http, whatif
from .server import Server


def measure(asked: Asked) -> dict[str, Any]:
    return {
        "layers": [_layers(n, asked.large) for n in (10, 100, 1_000, 4_000)],
        "steps": _steps(asked.large),
        "runs": [_load(asked.large, runs=n) for n in (1, 10, 100, 500)],
        "viewers": [_load(asked.large, runs=20, layers=200, viewers=n) for n in (1, 10, 50, 200)],
    }


def _layers(layers: int, large: bool) -> dict[str, Any]:
    """One trainer as fast as it may; then its newest 1,000 steps on a page."""
    with scratch("growth") as home, Server(home) as server:
        empty = server.disk
        found = flood(server, layers, 10**9, 64, seconds=20 if large else 4)
        server.settle()
        recent = [{"first": max(0, found["steps"] - 1000)}]
        row = {
            "layers": layers,
            "points_per_second": found["points"] / found["seconds"],
            "bytes_per_point": (server.disk - empty) / found["points"],
            "memory": server.memory,
            "heatmap_ms": _median(server, found["run"], Question("", "heatmap", recent)),
        }
        say(f"{layers:,} layers: {row['points_per_second']:,.0f} points/s")
        return row


def _steps(large: bool) -> list[dict[str, Any]]:
    """Runs of 20 layers in one server, ever longer."""
    columns = ",".join(f"norm/blocks.{n}.weight" for n in range(20))
    rows = []
    with scratch("growth") as home, Server(home) as server:
        for steps in (10**3, 10**4, 10**5, 10**6, *([10**7] if large else [])):
            run = flood(server, 20, steps, 256, seconds=3600)["run"]
            server.settle(600)
            row = {
                "steps": steps,
                "series_ms": _median(server, run, Question("", "series", [{"columns": columns}])),
                "heatmap_ms": _median(server, run, Question("", "heatmap", [{}])),
                "whatif_ms": _median(server, run, whatif(steps)),
            }
            rows.append(row)
            say(f"{steps:,} steps: 20 columns × 1,000 buckets in {row['series_ms']:.1f} ms")
    return rows


def _median(server: Server, run: str, question: Question) -> float:
    return float(over_http(server, run, question)["http_ms"]["median"])


def _load(large: bool, **options: int) -> dict[str, Any]:
    """`gradhelm bench load` with these options, on a server of its own."""
    with scratch("growth") as home, Server(home) as server:
        words = [f"--{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "gradhelm_server", "bench", "load", "--json", "--keep"),
                *(f"--duration={60 if large else 10}s", *words),
            ],
            cwd=ROOT,
            env=server.environment,
            capture_output=True,
            text=True,
        )
        if not done.stdout:  # it tells its figures even of a load that the server did not bear
            raise SystemExit(done.stderr)
        told: dict[str, Any] = json.loads(done.stdout)
    kept = "runs layers viewers offered_per_second points_per_second ack_ms view_ms errors unacknowledged"
    machine = "server_cpu server_memory server_fds server_threads generator_cpu"
    row = {name: told[name] for name in (*kept.split(), *machine.split())}
    say(
        f"{row['runs']} runs, {row['viewers']} viewers: {row['points_per_second']:,.0f} of "
        f"{row['offered_per_second']:,.0f} points/s, acknowledged after p99 {row['ack_ms']['p99']:.0f} ms"
    )
    return row
