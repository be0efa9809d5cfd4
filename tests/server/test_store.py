"""The store's law: committed whole or not at all, and told only after the commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

import gradhelm_migrations
from gradhelm_server.store import Store
from gradhelm_server.tables import metadata


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'x.db'}")
    made.submit(lambda c: c.execute(text("CREATE TABLE t (n INTEGER, b BLOB)"))).result()
    yield made
    made.close()


def put(number: int, size: int = 10):
    def work(connection: Connection) -> int:
        connection.execute(
            text("INSERT INTO t VALUES (:n, zeroblob(:s))"), {"n": number, "s": size}
        )
        return number

    return work


def fail(connection: Connection) -> None:
    put(99)(connection)
    raise ValueError("not this one")


def numbers(store: Store) -> list[int]:
    with store.reading() as connection:
        return list(connection.scalars(text("SELECT n FROM t ORDER BY n")))


def in_one_group(store: Store, works: list) -> list:
    """Futures of works that share a commit: all are queued while the writer is held up."""
    go = threading.Event()
    store.submit(lambda _: go.wait(10))
    futures = [store.submit(work) for work in works]
    go.set()
    for future in futures:
        future.exception(10)
    return futures


def test_one_that_fails_takes_no_neighbour_with_it(store: Store) -> None:
    one, bad, two = in_one_group(store, [put(1), fail, put(2)])
    assert (one.result(), two.result()) == (1, 2)
    assert isinstance(bad.exception(), ValueError)
    assert numbers(store) == [1, 2]


def test_on_a_full_disk_nothing_is_told_stored_that_is_not(store: Store) -> None:
    """SQLite gives the whole transaction up then, savepoints and neighbours included."""
    store.submit(lambda c: c.execute(text("PRAGMA max_page_count = 40")).all()).result()
    futures = in_one_group(store, [put(1), put(2), put(3, 2_000_000), put(4), put(5)])
    assert ["full" in str(future.exception()) for future in futures] == [True] * 5
    assert numbers(store) == []
    assert store.submit(put(6)).result() == 6
    assert numbers(store) == [6]


def test_a_writer_whose_caller_has_gone_goes_on(store: Store) -> None:
    async def impatient() -> None:
        go = threading.Event()
        store.submit(lambda _: go.wait(10))
        waiting = asyncio.ensure_future(store.write(put(1)))
        running = asyncio.ensure_future(store.write(lambda c: (go.wait(10), put(2)(c))))
        await asyncio.sleep(0)
        waiting.cancel()
        running.cancel()
        go.set()
        await asyncio.gather(waiting, running, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(impatient()))
    thread.start()
    thread.join()
    assert store.submit(put(3)).result(10) == 3
    assert store.alive


def test_readers_cannot_write(store: Store) -> None:
    with store.reading() as connection, pytest.raises(Exception, match="readonly"):
        put(1)(connection)


def test_the_migrations_make_the_tables_that_the_code_has(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a%b.db'}"
    gradhelm_migrations.upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert found == []
    gradhelm_migrations.downgrade(url, "base")
    assert gradhelm_migrations.current(url) is None
    gradhelm_migrations.upgrade(url)
    assert gradhelm_migrations.current(url) == gradhelm_migrations.head()
