"""What the parts can do without us: the limits that ingest is held against."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from websockets.sync.client import connect

from .place import ROOT

ROWS, GROUP = 64, 16
"""Steps of a blob, and blobs of a commit."""

Rate = dict[str, float]


def _timed(points: int, work: Callable[[], None]) -> Rate:
    wall, used = time.monotonic(), time.process_time()
    work()
    return {
        "points": points,
        "seconds": time.monotonic() - wall,
        "cpu": time.process_time() - used,
    }


def sqlite_blobs(folder: Path, columns: int, steps: int) -> Rate:
    """Bare sqlite3, write-ahead log, as a single writer would do it."""
    blob, count = os.urandom(4 * ROWS * columns), steps // ROWS
    with contextlib.closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE frames (first INTEGER PRIMARY KEY, payload BLOB)")

        def work() -> None:
            for at in range(0, count, GROUP):
                db.execute("BEGIN")
                rows = [(n * ROWS, blob) for n in range(at, min(at + GROUP, count))]
                db.executemany("INSERT INTO frames VALUES (?, ?)", rows)
                db.execute("COMMIT")

        return _timed(count * ROWS * columns, work)


def core_blobs(url: str, columns: int, steps: int) -> Rate:
    """The same through SQLAlchemy Core, to any database."""
    blob, count = os.urandom(4 * ROWS * columns), steps // ROWS
    engine = sa.create_engine(url)
    frames = sa.Table(
        "bench_frames",
        sa.MetaData(),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("payload", sa.LargeBinary),
    )
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        frames.create(connection)

    def work() -> None:
        for at in range(0, count, GROUP):
            with engine.begin() as connection:
                rows = [
                    {"first": n * ROWS, "payload": blob} for n in range(at, min(at + GROUP, count))
                ]
                connection.execute(frames.insert(), rows)

    try:
        return _timed(count * ROWS * columns, work)
    finally:
        frames.drop(engine)
        engine.dispose()


def asyncpg_blobs(url: str, columns: int, steps: int) -> Rate | None:
    """Bare asyncpg, which is the fastest there is; None when it is not installed."""
    if importlib.util.find_spec("asyncpg") is None:
        return None
    import asyncpg

    blob, count = os.urandom(4 * ROWS * columns), steps // ROWS
    address = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)

    async def work() -> Rate:
        db: Any = await asyncpg.connect(address)
        await db.execute("CREATE TABLE bench_bare (first bigint PRIMARY KEY, payload bytea)")
        await db.execute("ALTER TABLE bench_bare ALTER payload SET STORAGE EXTERNAL")
        wall, used = time.monotonic(), time.process_time()
        for at in range(0, count, GROUP):
            rows = [(n * ROWS, blob) for n in range(at, min(at + GROUP, count))]
            async with db.transaction():
                await db.executemany("INSERT INTO bench_bare VALUES ($1, $2)", rows)
        found = {
            "points": float(count * ROWS * columns),
            "seconds": time.monotonic() - wall,
            "cpu": time.process_time() - used,
        }
        await db.execute("DROP TABLE bench_bare")
        await db.close()
        return found

    return asyncio.run(work())


def websocket(columns: int, steps: int, window: int = 64) -> Rate:
    """Frames to a uvicorn on loopback that does nothing but acknowledge them."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.raw"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    frame, count = os.urandom((4 * columns + 16) * ROWS), steps // ROWS
    try:
        with connect(f"ws://127.0.0.1:{port}", compression=None, proxy=None) as socket:

            def work() -> None:
                heard = 0
                for sent in range(count):
                    while sent - heard >= window:
                        socket.recv()
                        heard += 1
                    socket.send(frame)
                while heard < count:
                    socket.recv()
                    heard += 1

            return _timed(count * ROWS * columns, work)
    finally:
        server.terminate()
        server.wait()


def _acknowledge() -> None:
    """The other end of :func:`websocket`; prints its port."""
    import socket

    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"][:8]})

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=256 * 1024,
        lifespan="off",
        log_level="error",
    )
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    _acknowledge()
