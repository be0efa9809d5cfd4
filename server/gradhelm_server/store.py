"""The store: one thread that writes, and read-only connections for everybody else.

Law: a write is either committed whole or not at all, and its future resolves only after the
commit. Writes that wait while another commit is under way share the next one (group commit), each
under its own savepoint, so that one that fails takes no neighbour with it.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")
Work = Callable[[Connection], T]
MAX_GROUP = 256
"""Writes that share one commit at most, so that the first of them does not wait for long."""

LOG_PAGES = 4096
"""Pages (of 4 KiB) that SQLite's log holds before they are copied into the database."""

READERS = 40
"""Connections that read at the same time: one for each worker thread there can be."""


class Store:
    """Reads and writes of one database. ``close`` it when done."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._writer = _engine(url, writing=True)
        self._readers = _engine(url, writing=False)
        self._thread = threading.Thread(target=self._write_forever, name="gradhelm-writer")
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue ``work`` for the writer thread; the future resolves after its commit."""
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in the writer thread and wait for its commit."""
        return await asyncio.wrap_future(self.submit(work))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only connection that sees one consistent state."""
        with self._readers.connect() as connection:
            yield connection

    async def read(self, work: Work[T]) -> T:
        """Run ``work`` on a read-only connection in a worker thread."""

        def run() -> T:
            with self.reading() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(run)

    def close(self) -> None:
        """Write what is queued, then end."""
        self._queue.put(None)
        self._thread.join()
        self._writer.dispose()
        self._readers.dispose()

    @property
    def alive(self) -> bool:
        """Whether anybody would carry out a write."""
        return self._thread.is_alive()

    def _write_forever(self) -> None:
        ended = False
        while not ended:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP and group[-1] is not None:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ended = group[-1] is None
            # From here on they cannot be cancelled, so that their results can be set.
            self._commit(
                [item for item in group if item and item[1].set_running_or_notify_cancel()]
            )

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        try:
            with self._writer.begin() as connection:
                for work, future in group:
                    try:
                        done.append((future, _attempt(connection, work)))
                    except Exception as error:
                        if _rolled_back(connection):
                            raise
                        future.set_exception(error)
        except Exception as error:  # the commit itself: nothing of the group is stored
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for future, result in done:
            future.set_result(result)


def _attempt(connection: Connection, work: Work[T]) -> T:
    """What ``work`` returns, under a savepoint; what it raises is raised even if that is lost."""
    savepoint = connection.begin_nested()
    try:
        result = work(connection)
    except Exception:
        with suppress(DBAPIError):
            savepoint.rollback()
        raise
    savepoint.commit()
    return result


def _rolled_back(connection: Connection) -> bool:
    """Whether SQLite has given up the whole transaction, as it does when the disk is full.

    Savepoints do not help then: what the neighbours wrote before is gone as well.
    """
    driver: Any = connection.connection.dbapi_connection
    return isinstance(driver, sqlite3.Connection) and not driver.in_transaction


def _engine(url: str, *, writing: bool) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url)
    engine = create_engine(
        url,
        connect_args={"timeout": 30, "check_same_thread": False},
        pool_size=1 if writing else READERS,
        max_overflow=0,
    )

    # The driver's own transaction handling begins late and breaks savepoints: take it over.
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        if writing:
            connection.execute("PRAGMA journal_mode=WAL")
            # FULL: an acknowledged frame survives a power cut, not only a killed process.
            connection.execute("PRAGMA synchronous=FULL")
            # Frames that became tiles meanwhile are never copied out of the log.
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        else:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine
