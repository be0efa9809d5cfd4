"""The store's law: committed whole or not at all, and told only after the commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

import gradhelm_migrations
from gradhelm_server.compactor import Compactor, Inbox
from gradhelm_server.matrix import Reader
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


def test_frames_of_the_first_schema_are_kept_and_become_tiles(tmp_path: Path) -> None:
    """They stood column by column, and the layouts knew nothing of blocks."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    gradhelm_migrations.upgrade(url, "0001")
    random = np.random.default_rng(0)
    values = random.lognormal(size=(70, 11)).astype("<f4")
    steps, times = np.arange(70, dtype="<u8"), np.arange(70, dtype="<f8")
    run, segment = "01900000-0000-7000-8000-000000000000", "0" * 16
    kinds = ["scalar", "scalar", *["norm"] * 9]
    engine = create_engine(url)
    with engine.begin() as connection:
        texts = ("name", "project", "note", "strategy", "host", "hook", "ended_why")
        empty = dict.fromkeys(texts, "") | dict.fromkeys(("config", "limits", "recent"), "{}")
        empty |= dict.fromkeys(("tags", "coded", "streams"), "[]") | {"stats": "{}"}
        empty |= dict.fromkeys(("steps", "clipped", "nonfinite", "skipped"), 0)
        row = {**empty, "id": run, "created_at": 0.0, "last_heard_at": 0.0, "sparkline": b""}
        names = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO runs ({names}) VALUES ({marks})"), row)
        connection.execute(
            text(
                "INSERT INTO segments (run_id, segment, stream, ordinal, high_water, first_step, "
                "last_step, created_at) VALUES (:run, :segment, '', 0, 1, 0, 69, 0)"
            ),
            {"run": run, "segment": segment},
        )
        connection.execute(
            text(
                "INSERT INTO columns (run_id, idx, name, kind, shape, dtype) "
                "VALUES (:run, :idx, :name, :kind, '[]', '')"
            ),
            [{"run": run, "idx": i, "name": f"c{i}", "kind": k} for i, k in enumerate(kinds)],
        )
        connection.execute(
            text("INSERT INTO layouts (run_id, layout, columns, stream) VALUES (:run, 0, :c, '')"),
            {"run": run, "c": np.arange(11, dtype="<i4").tobytes()},
        )
        connection.execute(
            text(
                "INSERT INTO frames (run_id, segment, seq, layout, version, first_step, last_step, "
                "steps, payload) VALUES (:run, :segment, 1, 0, 0, 0, 69, 70, :payload)"
            ),
            {
                "run": run,
                "segment": segment,
                "payload": steps.tobytes() + times.tobytes() + values.T.tobytes(),
            },
        )
    engine.dispose()
    gradhelm_migrations.upgrade(url)
    with closing(Store(url)) as store:
        for compacted in (False, True):
            if compacted:
                Compactor(store, 600).compact(Inbox(run, segment, 0), over=True)
            with store.reading() as connection:
                reader = Reader(connection, run)
                assert reader.layouts[0].spans(0) == [(0, 1), (1, 2), (2, 10), (10, 11)]
                found = reader.series(list(range(11)), 0, 69, 1)
            for column in range(11):
                np.testing.assert_array_equal(found[column].mean, values[:, column])
