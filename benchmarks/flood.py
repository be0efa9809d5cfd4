"""One trainer that reports as fast as it is allowed to. Runs as a process of its own:

    python -m benchmarks.flood SERVER TOKEN LAYERS STEPS ROWS

sends STEPS steps of LAYERS layers as frames of ROWS steps, packed and encoded as the hook does it,
and prints when all was acknowledged, as JSON.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import time
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gradhelm import wire
from gradhelm_server.simulated import MATERIAL, SCALARS, THRESHOLD, columns, material, run_id

from .place import ROOT
from .server import Server


def flood(
    server: Server, layers: int, steps: int, rows: int, *, seconds: float = 600.0
) -> dict[str, Any]:
    """Run it; stops after ``seconds`` however many steps were sent by then."""
    words = [server.url, server.token, str(layers), str(steps), str(rows), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.flood", *words],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def open_run(url: str, token: str) -> ClientConnection:
    return connect(
        url.replace("http", "ws", 1) + wire.INGEST_PATH,
        subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
        proxy=None,
        max_size=None,
    )


def greet(socket: ClientConnection, run: str, name: str, layers: int) -> wire.Welcome:
    """Say hello and declare the columns; the server's answer."""
    limits = {"max_norm": wire.Limit(THRESHOLD / 100, THRESHOLD * 100)}
    coded = wire.Coded("GlobalNorm", {"max_norm": THRESHOLD}, "max_norm", limits)
    hello = wire.Hello(
        run=run,
        segment=secrets.token_hex(8),
        name=name,
        project="bench",
        coded=(coded,),
        limits=wire.Limits(),
        started=time.time(),
    )
    socket.send(wire.encode(hello))
    for message in columns(layers):
        socket.send(wire.encode(message))
    welcome = wire.decode_from_server(bytes(socket.recv(30)))  # type: ignore[arg-type]
    assert isinstance(welcome, wire.Welcome), welcome
    return welcome


def send(
    socket: ClientConnection,
    welcome: wire.Welcome,
    layers: int,
    steps: int,
    rows: int,
    until: float,
) -> tuple[int, int]:
    """How many steps and frames were sent and acknowledged."""
    values, width = material(layers), len(SCALARS) + layers
    rows = max(1, min(rows, wire.MAX_FRAME // (4 * width), MATERIAL))
    began, seq, acked, sent = time.time() - steps * 0.01, 0, 0, 0
    while acked < seq or (sent < steps and time.monotonic() < until):
        more = sent < steps and time.monotonic() < until
        if more and seq - acked < welcome.window:
            count = min(rows, steps - sent)
            numbers = np.arange(sent, sent + count, dtype=np.uint64)
            times = began + 0.01 * numbers.astype(np.float64)
            at = sent % MATERIAL
            frame = wire.pack_frame(seq + 1, 0, 0, numbers, times, values[at : at + count])
            socket.send(wire.encode(frame))
            seq, sent = seq + 1, sent + count
            continue
        message = wire.decode_from_server(bytes(socket.recv(60)))  # type: ignore[arg-type]
        if isinstance(message, wire.Ack):
            acked = message.seq
        elif isinstance(message, wire.Refused):
            raise SystemExit(f"refused: {message.reason}")
    return sent, seq


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("server")
    parser.add_argument("token")
    parser.add_argument("layers", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("rows", type=int)
    parser.add_argument("seconds", type=float, nargs="?", default=600.0)
    asked = parser.parse_args()
    material(asked.layers)
    run = run_id()
    with open_run(asked.server, asked.token) as socket:
        welcome = greet(socket, run, f"flood {asked.layers} × {asked.steps}", asked.layers)
        began, used = time.monotonic(), time.process_time()
        sent, frames = send(
            socket, welcome, asked.layers, asked.steps, asked.rows, began + asked.seconds
        )
        seconds = time.monotonic() - began
        told = {
            "run": run,
            "steps": sent,
            "frames": frames,
            "points": sent * (len(SCALARS) + asked.layers),
            "seconds": seconds,
            "cpu": time.process_time() - used,
        }
        socket.send(wire.encode(wire.Finish("finished", sent - 1 if sent else None)))
        while not isinstance(
            wire.decode_from_server(bytes(socket.recv(60))),  # type: ignore[arg-type]
            wire.Finished,
        ):
            pass
    print(json.dumps(told))


if __name__ == "__main__":
    main()
