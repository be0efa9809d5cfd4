"""The server's own time for a request: its application called in this process, without a socket.

    python -m benchmarks.inside TOKEN < questions.json

Reads [[run, question], …] and prints the milliseconds of the warm calls of each, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

from gradhelm_server.app import Service
from gradhelm_server.process import keep_memory
from gradhelm_server.settings import ServerSettings
from gradhelm_server.store import Store

REPEATS = 15


async def call(app: Any, token: str, path: str, query: dict[str, Any], *, binary: bool) -> int:
    """Bytes of the answer's body."""
    accept = b"application/octet-stream" if binary else b"application/json"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": urlencode(query).encode(),
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", f"Bearer {token}".encode()),
            (b"accept", accept),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    size = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal size
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
        size += len(message.get("body", b""))

    await app(scope, receive, send)
    return size


async def answer(
    app: Any, token: str, asked: list[tuple[str, dict[str, Any]]]
) -> list[list[float]]:
    told = []
    for run, question in asked:
        found = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            for query in question["queries"]:
                path, binary = (
                    f"/api/v1/runs/{run}/{question['path']}",
                    question["path"] != "whatif",
                )
                assert await call(app, token, path, query, binary=binary)
            found.append(1000 * (time.perf_counter() - began))
        told.append(found[1:])
    return told


def main() -> None:
    keep_memory()
    settings = ServerSettings.read(os.environ)
    with closing(Store(settings.database_url)) as store:
        service = Service(settings, store)
        told = asyncio.run(answer(service.asgi, sys.argv[1], json.load(sys.stdin)))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
