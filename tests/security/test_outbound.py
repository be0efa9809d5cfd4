"""The server asks nobody anything: it opens no connection, resolves no name, starts no program."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import ROOTS, Program, eventually, free_port
from trainer import trainer

from gradhelm import wire

HERE = Path(__file__).parent
pytestmark = pytest.mark.joined


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Program]:
    made = Program(
        tmp_path / "home",
        free_port(),
        variables={"GRADHELM_TEST_WATCH": str(tmp_path / "watch")},
        program=(str(HERE / "watched.py"),),
    )
    yield made
    made.stop()


def test_a_server_at_work_makes_no_request_of_its_own(watched: Program, tmp_path: Path) -> None:
    code = watched.start().partition("#")[2]
    token = (watched.home / "token").read_text().strip()
    # What is named like a place on the network is not looked up either.
    names = {"name": "http://127.0.0.1:1/x", "config": '{"url": "http://127.0.0.1:1/y"}'}
    with (
        httpx.Client(base_url=watched.url, headers={"Origin": watched.url}) as person,
        trainer(f"ws://127.0.0.1:{watched.port}", token, **names) as fake,
    ):
        assert person.post("/login", json={"code": code}).status_code == 204
        fake.send(0, fake.rows([0.5, 2.0]))
        for path in PATHS:
            answer = person.get(path.replace("RUN", fake.run), headers={"Accept": "text/html,*/*"})
            assert answer.status_code in (200, 404), path
        put = person.put(
            f"/api/v1/runs/{fake.run}/control", json={"max_norm": 0.5}, headers={"If-Match": '"0"'}
        )
        assert put.status_code == 202
        assert person.post("/api/v1/prune", json={}).status_code == 200
        fake.say(wire.Finish("failed", 1, "http://127.0.0.1:1/z"))
        fake.hear(wire.Finished)
    watched.stop()
    assert (tmp_path / "watch").read_text() == ""


PATHS = (
    "/",
    "/login",
    "/compare",
    "/runs/RUN",
    "/_dash-layout",
    "/_dash-dependencies",
    "/api/v1/openapi.json",
    "/api/v1/server",
    "/api/v1/runs?q=http://127.0.0.1:1/",
    "/api/v1/runs/RUN",
    "/api/v1/runs/RUN/series?columns=global_norm",
    "/api/v1/runs/RUN/events",
    "/api/v1/runs/RUN/advice",
    "/readyz",
    "/livez",
    "/nothing",
)


def test_a_request_would_have_been_seen(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); import watched; "
            "watched.watch(sys.argv[2]); import httpx, asyncio, subprocess\n"
            "async def knock():\n"
            f"    _, w = await asyncio.open_connection('localhost', {port}); w.close()\n"
            "asyncio.run(knock())\n"
            "subprocess.run([sys.executable, '-c', ''])\n"
        )
        subprocess.run(
            [sys.executable, "-c", program, str(HERE), str(tmp_path / "watch")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(ROOTS)},
            check=True,
        )
    seen = eventually(lambda: (tmp_path / "watch").read_text())
    for event in ("socket.getaddrinfo", "socket.connect", "subprocess.Popen"):
        assert event in str(seen)
