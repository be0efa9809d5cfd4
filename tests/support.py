"""What tests share: a real server on a free port, and a way to wait for things to become true."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import described
import httpx
import uvicorn

import gradhelm_migrations
from gradhelm_server import tokens
from gradhelm_server.app import Mount, Service
from gradhelm_server.serving import configured
from gradhelm_server.settings import ServerSettings
from gradhelm_server.store import Store

ROOT = Path(__file__).resolve().parent.parent
ROOTS = [str(ROOT / name) for name in ("client_hook", "server", "dashboard", "migrations")]
SLOW = float(os.environ.get("GRADHELM_TEST_PATIENCE", "1"))
"""Stretches every deadline of the tests on a slow machine."""


def eventually(holds: Callable[[], object], within: float = 10.0, what: str = "") -> object:
    """The first true value of ``holds()``; fails when there is none ``within`` seconds."""
    deadline = time.monotonic() + within * SLOW
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within} s: {what or holds}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A server in this process: ``rest`` speaks to it with the admin's token."""

    service: Service
    url: str
    home: Path
    token: str
    rest: httpx.Client

    @property
    def store(self) -> Store:
        return self.service.state.store

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws")

    def get(self, path: str, **query: object) -> dict:
        answer = self.rest.get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put_control(self, run: str, version: int, **body: object) -> httpx.Response:
        return self.rest.put(
            f"/api/v1/runs/{run}/control", json=body, headers={"If-Match": f'"{version}"'}
        )


@contextlib.contextmanager
def running(home: Path, *, mount: Mount | None = None, **values: object) -> Iterator[Running]:
    """A real server on a free port of this process, over a database of its own."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    settings = ServerSettings(
        home=home, database_url=f"sqlite:///{home / 'gradhelm.db'}", port=port, **values
    )
    gradhelm_migrations.upgrade(settings.database_url)
    store = Store(settings.database_url)
    token = store.submit(lambda c: tokens.local(c, home, time.time())).result()
    service = Service(settings, store, mount)
    server = uvicorn.Server(configured(service))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: server.started, what="server start")
        with httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            event_hooks={"response": [described.check]},
        ) as rest:
            yield Running(service, url, home, token, rest)
    finally:
        server.should_exit = True
        thread.join()
        store.close()


@dataclass
class Program:
    """``gradhelm up`` as a process of its own, which can be killed and started again."""

    home: Path
    port: int
    process: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment, beside its own."""
    program: tuple[str, ...] = ("-m", "gradhelm_server")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GRADHELM_")}
        return {
            **kept,
            "GRADHELM_HOME": str(self.home),
            "GRADHELM_SERVER": self.url,
            "PYTHONPATH": os.pathsep.join(ROOTS),
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }

    def start(self, command: str = "up", *arguments: str) -> str:
        """Start it and wait until it prints its login link, which is returned."""
        self.lines = []
        options = ["--no-browser"] if command != "serve" else []
        self.process = subprocess.Popen(
            [
                sys.executable,
                *self.program,
                command,
                "--port",
                str(self.port),
                *options,
                *list(arguments),
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        link = eventually(self._link, 60, "login link")
        assert isinstance(link, str)
        return link

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self.lines.append(line)

    def _link(self) -> str | None:
        assert self.process is not None
        assert self.process.poll() is None, "".join(self.lines)
        return next((line.strip() for line in self.lines if "/login#" in line), None)

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """One ``gradhelm`` command against it."""
        return subprocess.run(
            [sys.executable, *self.program, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    def json(self, *arguments: str) -> dict:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
