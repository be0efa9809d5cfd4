"""A real server, as a process of its own: ``gradhelm up`` over a database of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from . import cpu
from .place import ROOMS, size_of

PATIENCE = 60.0


def environment(**more: str) -> dict[str, str]:
    """This one's, without what is set for another server, and with the code of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GRADHELM_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(ROOMS), "PYTHONUNBUFFERED": "1", **more}


class Server:
    """Use it in a ``with`` block. ``rest`` speaks with the admin's token."""

    def __init__(self, home: Path, *, database_url: str | None = None) -> None:
        self.home = home
        self.link = ""
        self._database_url = database_url
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        words = ["up", "--no-browser", "--port", str(self.port)]
        if self._database_url:
            words += ["--database-url", self._database_url]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradhelm_server", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends it in order
        )
        said: list[str] = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(line)
            if "/login#" in line:
                self.link = line.strip()
                break
        else:
            raise SystemExit(f"the server did not start:\n{''.join(said)}")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self.token = (self.home / "token").read_text(encoding="utf-8").strip()
        self.rest = httpx.Client(
            base_url=f"{self.url}/api/v1/",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=600,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.rest.close()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """What a job or a command needs to find it."""
        return environment(GRADHELM_HOME=str(self.home), GRADHELM_SERVER=self.url)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu(self) -> float:
        return cpu.alone(self.pid)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return 1024 * int(line.split()[1])
        return 0

    @property
    def disk(self) -> int:
        """Bytes of the database with its log, without the backup of an older schema."""
        return size_of(self.home)

    def get(self, path: str, *, binary: bool = False, **query: Any) -> httpx.Response:
        accept = "application/octet-stream" if binary else "application/json"
        answer = self.rest.get(path, params=query, headers={"Accept": accept})
        answer.raise_for_status()
        return answer

    def settle(self, limit: float = 120.0) -> float:
        """Wait until it has nothing left to do (a second under 3 % of a core); seconds waited."""
        began, quiet = time.monotonic(), 0
        while quiet < 2 and time.monotonic() - began < limit:
            before = self.cpu
            time.sleep(0.5)
            quiet = quiet + 1 if self.cpu - before <= 0.015 else 0
        return max(0.0, time.monotonic() - began - 1.0)
