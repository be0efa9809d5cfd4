"""Part: how long it takes to read what was stored, ours over REST, theirs by their own means."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

from . import peers
from .contenders import CONTENDERS
from .flood import flood
from .place import ROOT, Asked, say, scratch
from .server import Server
from .summary import spread

LAYERS = 200
REPEATS = 15


class Question(NamedTuple):
    """What is asked of a run, in one request or several, and what it is called in the results."""

    name: str
    path: str
    queries: list[dict[str, Any]]


def questions(steps: int, most: int) -> list[Question]:
    """Of a run of 200 layers; ``most`` is the largest number of points of one request."""
    norms = ",".join(f"norm/blocks.{n}.weight" for n in range(LAYERS))
    asked = [
        Question(f"200 columns × 1,000 buckets, {steps:,} steps", "series", [{"columns": norms}]),
        Question(f"heatmap of 200 layers, {steps:,} steps", "heatmap", [{}]),
    ]
    if steps == 100_000:
        every = [
            {
                "columns": "norm/blocks.0.weight",
                "points": min(most, steps),
                "first": first,
                "last": min(first + most, steps) - 1,
            }
            for first in range(0, steps, most)
        ]
        asked.append(Question(f"1 column × {steps:,} steps, every one", "series", every))
    return asked


def whatif(steps: int) -> Question:
    """Of a run of one layer, which is as good for this as one of many."""
    return Question(f"what-if over {steps:,} steps", "whatif", [{"max_norm": "0.5"}])


def measure(asked: Asked) -> dict[str, Any]:
    return {
        "gradhelm": _gradhelm(asked.large),
        "peers": [_peer(peer, asked.large) for peer in peers.peers(asked.only)],
    }


def _gradhelm(large: bool) -> list[dict[str, Any]]:
    wanted: list[tuple[str, Question]] = []
    with scratch("reads") as home:
        with Server(home) as server:
            most = most_points(server)
            for steps in (5_000, 100_000, *([10_000_000] if large else [])):
                run = flood(server, LAYERS, steps, 64, seconds=7200)["run"]
                wanted += [(run, question) for question in questions(steps, most)]
            for steps in (100_000, 10_000_000 if large else 1_000_000):
                run = flood(server, 1, steps, 512, seconds=7200)["run"]
                wanted.append((run, whatif(steps)))
            say(f"runs to read are stored; settled after {server.settle(3600):.1f} s")
            rows = []
            for run, question in wanted:
                found = over_http(server, run, question)
                rows.append({"name": question.name, **found})
                say(f"{question.name}: {found['http_ms']['median']:.1f} ms over HTTP")
        inside = [(run, question._asdict()) for run, question in wanted]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.inside", server.token],
            cwd=ROOT,
            env=server.environment,
            input=json.dumps(inside),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        for row, times in zip(rows, json.loads(done.stdout), strict=True):
            row["server_ms"] = spread(times)
            say(f"{row['name']}: {row['server_ms']['median']:.1f} ms inside")
    return rows


def over_http(server: Server, run: str, question: Question) -> dict[str, Any]:
    """Binary where there is a binary form; the first one, then the warm ones."""
    found = []
    for _ in range(REPEATS + 1):
        began, size = time.perf_counter(), 0
        for query in question.queries:
            binary = question.path != "whatif"
            size += len(server.get(f"runs/{run}/{question.path}", binary=binary, **query).content)
        found.append(1000 * (time.perf_counter() - began))
    return {
        "first_ms": found[0],
        "http_ms": spread(found[1:]),
        "bytes": size,
        "requests": len(question.queries),
    }


def most_points(server: Server) -> int:
    """What the server says of itself."""
    described = server.get("openapi.json").json()["paths"]["/api/v1/runs/{run}/series"]["get"]
    points = next(p for p in described["parameters"] if p["name"] == "points")
    return int(points["schema"]["maximum"])


def _peer(peer: peers.Peer, large: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": peer.name, "version": peer.version}
    reads = CONTENDERS[peer.name].reads
    try:
        if peer.why_not:
            raise peers.Failure(peer.why_not)
        if not CONTENDERS[peer.name].keeps:
            raise peers.Failure("writes text for somebody else to parse")
        if not reads:
            raise peers.Failure("has no way to read what it wrote without its service")
        row["by"] = reads
        for name, columns, steps, seconds in (
            ("series", 1, 100_000, 40.0),
            ("table", LAYERS, 5_000, 15.0),
        ):
            with scratch("peer") as folder:
                found = peers.do(
                    "ingest",
                    peer,
                    folder / "out",
                    columns=columns,
                    steps=steps,
                    seconds=900.0 if large else seconds,
                    read=True,
                )
            row[name] = {"steps": found["steps"], "ms": spread(found[f"{name}_ms"])}
            say(
                f"{peer.name}: {name} of {found['steps']:,} steps in "
                f"{row[name]['ms']['median']:.1f} ms"
            )
    except peers.Failure as failure:
        row["why_not"] = str(failure)
        say(f"{peer.name}: {failure}")
    return row
