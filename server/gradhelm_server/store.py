"""The store: one thread that writes, and read-only connections for everybody else.

Law: a write is either committed whole or not at all, and its future resolves only after the
commit. Writes that wait while another commit is under way share the next one (group commit), and
one that fails takes no neighbour with it.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, NestedTransaction, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase

T = TypeVar("T")
Work = Callable[[Connection], T]
Share = Callable[["Commit"], T]
MAX_GROUP = 256
"""Writes that share one commit at most, so that the first of them does not wait for long."""
MAX_WEIGHT = 4 * 1024 * 1024
"""Bytes after which a group takes no more."""

LOG_PAGES = 4096
"""Pages (of 4 KiB) that SQLite's log holds before they are copied into the database."""

READERS = 40
"""Connections that read at the same time: one for each worker thread there can be."""


class OutOfStep(Exception):
    """What is stored is not what a work took for granted."""


class _Due(NamedTuple):
    """A row for a statement. ``got``, where one is numbered by the database, is told its number."""

    row: dict[str, Any]
    got: Callable[[int], None] | None


Due = dict[UpdateBase, list[_Due]]


class Commit:
    """One transaction, shared by the works of a group.

    Hundreds of trainers send a frame a second each, and all do the same with it: what can wait for
    the end of the group is written there, each statement once for all of them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._due: Due = {}  # of works that are done
        self._mine: Due = {}  # of the one at work
        self._found: set[UpdateBase] = set()
        self._savepoint: NestedTransaction | None = None

    @property
    def connection(self) -> Connection:
        """For what cannot wait. What is due is written before, and a savepoint is set, so that a
        work that fails leaves nothing behind."""
        self._write(self._due)
        if self._savepoint is None:
            self._savepoint = self._connection.begin_nested()
        self._write(self._mine)
        return self._connection

    def later(
        self,
        statement: UpdateBase,
        row: dict[str, Any],
        *,
        got: Callable[[int], None] | None = None,
        found: bool = False,
    ) -> None:
        """``statement`` with ``row``, before the commit. It is known by identity: make it once.

        ``got`` is told the number that an insert ``returning`` one has given the row. Of an update
        that must have ``found`` its row, nothing of the group is stored if it did not.
        """
        self._mine.setdefault(statement, []).append(_Due(row, got))
        if found:
            self._found.add(statement)

    def attempt(self, work: Callable[[Commit], T]) -> T:
        """What ``work`` returns. What it raises is raised, and all that it did is undone, if need be
        with the whole transaction."""
        try:
            result = work(self)
            if self._savepoint is not None:
                self._savepoint.commit()
        except Exception:
            self._mine.clear()
            if self._savepoint is not None:
                with suppress(DBAPIError):
                    self._savepoint.rollback()
            raise
        finally:
            self._savepoint = None
        for statement, rows in self._mine.items():
            self._due.setdefault(statement, []).extend(rows)
        self._mine.clear()
        return result

    def finish(self) -> None:
        """Write all that is due. Raises OutOfStep where an update did not find its row."""
        self._write(self._due)

    def _write(self, due: Due) -> None:
        for statement, rows in due.items():
            result = self._connection.execute(statement, [row for row, _ in rows])
            if result.returns_rows:
                for (_, got), (number,) in zip(rows, result.all(), strict=True):
                    if got is not None:
                        got(number)
            elif statement in self._found and result.rowcount != len(rows):
                raise OutOfStep(f"{len(rows)} rows were to change, and {result.rowcount} did")
        due.clear()


class _Queued(NamedTuple):
    """A write that waits; ``turn`` is first whether it is urgent, then its place in line."""

    turn: tuple[int, int]
    work: Share[Any]
    future: Future[Any]
    weight: int


_URGENT, _IN_TURN, _LAST = range(3)


class Store:
    """Reads and writes of one database. ``close`` it when done."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.timed: Callable[[float], object] = lambda seconds: None
        """Called with how long each commit took."""
        self._queue: queue.PriorityQueue[_Queued] = queue.PriorityQueue()
        self._line = itertools.count()
        self._over = False
        self._writer = _engine(url, writing=True)
        self._readers = _engine(url, writing=False)
        self._thread = threading.Thread(target=self._write_forever, name="gradhelm-writer")
        self._thread.start()

    def submit(self, work: Work[T], *, urgent: bool = False) -> Future[T]:
        """Queue ``work`` for the writer thread; the future resolves after its commit.

        What is ``urgent`` goes before all that waits and is not.
        """
        return self.share(lambda commit: work(commit.connection), urgent=urgent)

    def share(self, work: Share[T], *, weight: int = 0, urgent: bool = False) -> Future[T]:
        """The same of work that leaves some of it for the end of the group.

        ``weight``: how many bytes it is about.
        """
        future: Future[T] = Future()
        turn = _URGENT if urgent else _IN_TURN
        self._queue.put(_Queued((turn, next(self._line)), work, future, weight))
        return future

    async def write(self, work: Work[T], *, urgent: bool = False) -> T:
        """Run ``work`` in the writer thread and wait for its commit."""
        return await asyncio.wrap_future(self.submit(work, urgent=urgent))

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
        self._queue.put(_Queued((_LAST, 0), lambda _: None, Future(), 0))
        self._thread.join()
        self._writer.dispose()
        self._readers.dispose()

    @property
    def waiting(self) -> int:
        """Writes that are queued."""
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        """Whether anybody would carry out a write."""
        return self._thread.is_alive()

    def _write_forever(self) -> None:
        rest: list[_Queued] = []
        while rest or not self._over:
            urgent: list[_Queued] = []
            while self._urgent:
                self._take(urgent)
            if urgent:
                self._commit(urgent)
            else:
                self._fill(rest)
                rest = rest[self._commit(rest, may_be_cut=True) :]

    def _fill(self, group: list[_Queued]) -> None:
        """Add what waits, as long as it is not too much; wait for the first."""
        if not group:
            self._take(group)
        while len(group) < MAX_GROUP and sum(one.weight for one in group) < MAX_WEIGHT:
            try:
                self._take(group, wait=False)
            except queue.Empty:
                return

    def _take(self, group: list[_Queued], *, wait: bool = True) -> None:
        one = self._queue.get(block=wait)
        if one.turn[0] == _LAST:
            self._over = True
        # From here on it cannot be cancelled, so that its result can be set.
        elif one.future.set_running_or_notify_cancel():
            group.append(one)

    @property
    def _urgent(self) -> bool:
        """Whether something urgent waits; nothing else can come before it until it is taken."""
        waiting = self._queue.queue
        return bool(waiting) and waiting[0].turn[0] == _URGENT

    def _commit(self, group: list[_Queued], *, may_be_cut: bool = False) -> int:
        """How many of a group were tried: all, but that what is urgent may cut it short."""
        done: list[tuple[Future[Any], Any]] = []
        tried, began = 0, time.perf_counter()
        try:
            with self._writer.begin() as connection:
                commit = Commit(connection)
                for one in group:
                    tried += 1
                    try:
                        done.append((one.future, commit.attempt(one.work)))
                    except Exception as error:
                        if _rolled_back(connection):
                            raise
                        one.future.set_exception(error)
                    if may_be_cut and self._urgent:
                        break
                commit.finish()
        except Exception as error:  # the commit itself: nothing of what was tried is stored
            tried = tried or len(group)  # with a connection that cannot even begin, no work can
            for one in group[:tried]:
                if not one.future.done():
                    one.future.set_exception(error)
            return tried
        self.timed(time.perf_counter() - began)
        for future, result in done:
            future.set_result(result)
        return tried


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
