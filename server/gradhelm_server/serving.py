"""Starting the service: the database brought up to date or refused, one server to one database."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio.to_thread
import uvicorn
from filelock import FileLock, Timeout
from sqlalchemy import make_url

from gradhelm import wire

from . import accounts, process
from .app import Mount, Service
from .client import Failed
from .settings import ServerSettings
from .store import Store


@contextmanager
def holding(settings: ServerSettings) -> Iterator[None]:
    """Make the data directory, and keep every other server and migration off the database.

    Raises Failed when another one has it. Other engines than SQLite see to this themselves.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = database_file(settings.database_url)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield
    except Timeout:
        raise Failed(f"another gradhelm server has {path} open; two would spoil it") from None


def prepare(settings: ServerSettings, *, migrate: bool) -> None:
    """See that the schema is the one that this program needs; call it while ``holding``.

    Raises Failed when it is not and may not be changed here (``migrate`` False).
    """
    import gradhelm_migrations as migrations

    current, head = migrations.current(settings.database_url), migrations.head()
    if current == head:
        return
    if not migrate:
        state = "empty" if current is None else f"at revision {current}"
        raise Failed(f"the database is {state}, this program needs {head}: gradhelm db upgrade")
    path = database_file(settings.database_url)
    if current is not None and path is not None:
        _back_up(path, path.with_suffix(f".before-{head}{path.suffix}"))
    migrations.upgrade(settings.database_url)


def _back_up(path: Path, to: Path) -> None:
    """By SQLite itself: a copy of the file alone would miss what is still in its log."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None for other engines."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def run(
    settings: ServerSettings,
    *,
    mount: Mount | None,
    migrate: bool,
    ready: Callable[[str, str], None],
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Serve until interrupted.

    ``ready(address, login link)`` is called in a thread once the server answers, and ``ending()``
    when it is to end but still does.

    Raises Failed with the reason when it cannot begin.
    """
    process.keep_memory()
    with holding(settings), closing(_listen(settings)) as listener:
        prepare(settings, migrate=migrate)
        with closing(Store(settings.database_url)) as store:
            now, home = time.time(), settings.home
            store.submit(lambda connection: accounts.local_token(connection, home, now)).result()
            service = Service(settings, store, mount)
            server = _Server(
                uvicorn.Config(
                    service.asgi,
                    ws="websockets-sansio",
                    ws_max_size=wire.MAX_MESSAGE,
                    ws_per_message_deflate=False,
                    ws_ping_interval=10,
                    ws_ping_timeout=20,
                    log_level="warning",
                    access_log=False,  # it would print query strings
                    server_header=False,
                    timeout_graceful_shutdown=2,
                )
            )
            logging.getLogger("uvicorn.error").addFilter(_is_no_error)
            shown = f"[{settings.host}]" if ":" in settings.host else settings.host
            address = f"http://{shown}:{settings.port}"
            link = f"{address}/login#{service.state.codes.mint(now)}"
            server.when_ready = lambda: ready(address, link)
            server.when_ending = ending
            with asyncio.Runner(loop_factory=process.fast_loop()) as runner:
                runner.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """Says when it answers, and when it is about to answer no more."""

    when_ready: Callable[[], None]
    when_ending: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            threading.Thread(target=self.when_ready, daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await anyio.to_thread.run_sync(self.when_ending)
        await super().shutdown(sockets)


def _is_no_error(record: logging.LogRecord) -> bool:
    """uvicorn takes a refused WebSocket (an HTTP answer instead of the upgrade) for a mistake."""
    return "without completing handshake" not in record.getMessage()


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name != "nt":  # there it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise Failed(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "is another gradhelm up there? --port takes another one"
        ) from None
    listener.set_inheritable(False)
    return listener
