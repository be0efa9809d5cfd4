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
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gradhelm import redact, wire

from . import process, tls, tokens
from .app import Mount, Service
from .endings import Failed
from .heads import Heads
from .reach import Reach, reach
from .settings import Certificate, ServerSettings
from .store import Store
from .transport import Transport


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
    _create(path)
    try:
        with FileLock(f"{path}.lock", timeout=0, mode=0o600):
            yield
    except Timeout:
        raise Failed(f"another gradhelm server has {path} open; two would spoil it") from None


def prepare(settings: ServerSettings, *, migrate: bool) -> None:
    """See that the schema is the one that this program needs; call it while ``holding``.

    Raises Failed when it is not and may not be changed here (``migrate`` False).
    """
    import gradhelm_migrations as migrations

    current, head = revision(settings.database_url), migrations.head()
    if current == head:
        return
    if not migrate:
        state = "empty" if current is None else f"at revision {current}"
        raise Failed(f"the database is {state}, this program needs {head}: gradhelm db upgrade")
    path = database_file(settings.database_url)
    if current is not None and path is not None:
        _back_up(path, path.with_suffix(f".before-{head}{path.suffix}"))
    migrations.upgrade(settings.database_url)


def revision(url: str) -> str | None:
    """The revision that the database is at; None for an empty one. Raises Failed when nobody can
    tell, in words without the URL's password."""
    import gradhelm_migrations as migrations

    try:
        return migrations.current(url)
    except (SQLAlchemyError, ImportError) as error:  # there may be no driver for it
        raise Failed(f"cannot use the database: {redact.harmless(error)}") from None


def _back_up(path: Path, to: Path) -> None:
    """By SQLite itself: a copy of the file alone would miss what is still in its log."""
    _create(to)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def _create(path: Path) -> None:
    """A file for its owner alone, if there is none. What SQLite puts beside it takes its mode over."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise Failed(f"cannot use the database {path}: {error.strerror or error}") from None


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None for other engines. Raises Failed for what is no URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # whose text may be the URL, with its password
        raise Failed("the database's URL is none that SQLAlchemy can read") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def run(
    settings: ServerSettings,
    *,
    mount: Mount | None,
    migrate: bool,
    ready: Callable[[Reach, str], None],
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Serve until interrupted.

    ``ready(how it is reached, login code)`` is called in a thread once the server answers, and
    ``ending()`` when it is to end but still does.

    Raises Failed with the reason when it cannot begin, SettingsError for a certificate that cannot
    be used.
    """
    process.keep_memory()
    how = reach(settings, tls.look(settings.tls) if settings.tls else None)
    with holding(settings), closing(_listen(settings)) as listener:
        prepare(settings, migrate=migrate)
        with closing(Store(settings.database_url)) as store:
            now, home = time.time(), settings.home
            store.submit(lambda connection: tokens.local(connection, home, now)).result()
            service = Service(settings, store, mount)
            config = configured(service)
            code = service.state.codes.mint(now)
            server = _Server(config)
            server.files = settings.tls
            server.when_ready = lambda: ready(how, code)
            server.when_ending = ending
            with asyncio.Runner(loop_factory=process.fast_loop()) as runner:
                runner.run(server.serve(sockets=[listener]))


def configured(service: Service) -> uvicorn.Config:
    """How the service is spoken to, with the limits on what strangers may send."""
    settings = service.state.settings
    files = settings.tls
    made = uvicorn.Config(
        Transport(service.asgi, settings),
        port=settings.port,
        http=Heads,
        ws="websockets-sansio",
        ws_max_size=wire.MAX_MESSAGE,
        ws_per_message_deflate=False,  # a bomb of zeros would be unpacked before it is measured
        ws_ping_interval=10,
        ws_ping_timeout=20,
        ssl_certfile=files.certificate if files else None,
        ssl_keyfile=files.key if files else None,
        proxy_headers=False,  # Transport looks at them; here this machine's would be believed
        log_level="warning",
        access_log=False,  # it would print query strings
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_our_error)
    return made


class _Server(uvicorn.Server):
    """Says when it answers, and when it is about to answer no more."""

    when_ready: Callable[[], None]
    when_ending: Callable[[], None]
    files: Certificate | None
    _renewal: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            threading.Thread(target=self.when_ready, daemon=True).start()
            if self.files is not None and self.config.ssl is not None:
                self._renewal = asyncio.create_task(tls.renew(self.config.ssl, self.files))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        await anyio.to_thread.run_sync(self.when_ending)
        await super().shutdown(sockets)


THEIRS = ("without completing handshake", "Invalid UTF-8 sequence received")
"""What uvicorn takes for errors of the server: a WebSocket that was refused (an HTTP answer instead
of the upgrade), and text of a client that is none, which is answered by a close code."""


def _is_our_error(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not any(words in said for words in THEIRS)


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
