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
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    bindparam,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)

import gradhelm_migrations
from gradhelm_server.compactor import Compactor, Inbox
from gradhelm_server.matrix import Reader
from gradhelm_server.store import MAX_WEIGHT, Commit, OutOfStep, Store
from gradhelm_server.tables import metadata


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'x.db'}")
    made.submit(lambda c: c.execute(text("CREATE TABLE t (n INTEGER, b BLOB)"))).result()
    made.submit(rows.create).result()
    yield made
    made.close()


def put(number: int, size: int = 10):
    def work(commit: Commit) -> int:
        commit.connection.execute(
            text("INSERT INTO t VALUES (:n, zeroblob(:s))"), {"n": number, "s": size}
        )
        return number

    return work


def fail(commit: Commit) -> None:
    put(99)(commit)
    raise ValueError("not this one")


rows = Table("rows", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer))
INSERT = insert(rows).returning(rows.c.id, sort_by_parameter_order=True)
RAISE = update(rows).where(rows.c.n == bindparam("b_before")).values(n=bindparam("b_after"))


def put_later(number: int, told: list[tuple[int, int]], *, fails: bool = False):
    def work(commit: Commit) -> int:
        commit.later(INSERT, {"n": number}, got=lambda given: told.append((number, given)))
        if fails:
            raise ValueError("not this one")
        return number

    return work


def raise_later(before: int, after: int):
    return lambda commit: commit.later(RAISE, {"b_before": before, "b_after": after}, found=True)


def stored(store: Store) -> list[tuple[int, int]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(select(rows.c.n, rows.c.id))]


def numbers(store: Store) -> list[int]:
    with store.reading() as connection:
        return list(connection.scalars(text("SELECT n FROM t ORDER BY n")))


def held_up(store: Store) -> threading.Event:
    """The writer has begun a commit that lasts until this is set."""
    begun, go = threading.Event(), threading.Event()
    store.submit(lambda _: (begun.set(), go.wait(10)))
    assert begun.wait(10)
    return go


def in_one_group(store: Store, works: list) -> list:
    """Futures of works that share a commit: all are queued while the writer is held up."""
    go = held_up(store)
    futures = [store.share(work) for work in works]
    go.set()
    for future in futures:
        future.exception(10)
    return futures


def test_one_that_fails_takes_no_neighbour_with_it(store: Store) -> None:
    one, bad, two = in_one_group(store, [put(1), fail, put(2)])
    assert (one.result(), two.result()) == (1, 2)
    assert isinstance(bad.exception(), ValueError)
    assert numbers(store) == [1, 2]


def test_what_works_leave_for_the_end_is_written_there_each_statement_once(store: Store) -> None:
    told: list[tuple[int, int]] = []
    executed: list[object] = []

    @event.listens_for(store._writer, "before_execute")
    def note(_connection, statement, *_rest) -> None:
        executed.append(statement)

    works = [put_later(n, told) for n in range(50)] + [raise_later(7, 107), raise_later(107, 207)]
    futures = in_one_group(store, works)
    assert [future.result() for future in futures[:50]] == list(range(50))
    # After the savepoint of the work that held the writer up.
    assert executed[2:] == [INSERT, RAISE]
    by_number = {n: given for n, given in stored(store) if n != 207}
    assert len(by_number) == 49
    assert {n: given for n, given in told if n != 7} == by_number
    assert (207, dict(told)[7]) in stored(store)


def test_of_a_work_that_fails_nothing_is_left_for_the_end(store: Store) -> None:
    told: list[tuple[int, int]] = []

    def both(commit: Commit) -> None:
        put_later(3, told)(commit)
        put(98)(commit)  # writes the row above as well
        put_later(4, told)(commit)
        fail(commit)

    futures = in_one_group(
        store, [put_later(1, told), put_later(2, told, fails=True), both, put_later(5, told)]
    )
    assert [type(future.exception()) for future in futures] == [
        type(None), ValueError, ValueError, type(None),
    ]  # fmt: skip
    assert [n for n, _ in stored(store)] == [1, 5]
    assert numbers(store) == []


def test_who_cannot_wait_sees_what_others_left_for_the_end(store: Store) -> None:
    told: list[tuple[int, int]] = []

    def count(commit: Commit) -> int:
        put_later(2, told)(commit)
        return commit.connection.scalar(text("SELECT count(*) FROM rows"))

    futures = in_one_group(store, [put_later(1, told), count, put_later(3, told)])
    assert futures[1].result() == 2
    assert [n for n, _ in stored(store)] == [1, 2, 3]


def test_an_update_that_finds_nothing_stores_nothing_of_its_group(store: Store) -> None:
    told: list[tuple[int, int]] = []
    futures = in_one_group(store, [put_later(1, told), raise_later(6, 7), put(3)])
    assert all(isinstance(future.exception(), OutOfStep) for future in futures)
    assert stored(store) == numbers(store) == []
    assert store.share(put_later(1, told)).result() == 1


def test_what_is_urgent_waits_for_the_commit_under_way_and_for_no_other(store: Store) -> None:
    order: list[object] = []
    go = held_up(store)
    heavy = [store.share(lambda _, n=n: order.append(n), weight=MAX_WEIGHT // 4) for n in range(12)]
    urgent = store.submit(lambda _: order.append("urgent"), urgent=True)
    go.set()
    for future in (*heavy, urgent):
        future.result(10)
    assert order == ["urgent", *range(12)]


def test_what_is_urgent_cuts_a_group_short_which_goes_on_afterwards(store: Store) -> None:
    order: list[object] = []
    begun, go = threading.Event(), threading.Event()

    def first(_: Commit) -> None:
        order.append("first")
        begun.set()
        go.wait(10)

    hold = held_up(store)
    works = [store.share(first)]
    works += [store.share(lambda _, n=n: order.append(n)) for n in range(5)]
    hold.set()
    assert begun.wait(10)
    urgent = [store.submit(lambda _, n=n: order.append(n), urgent=True) for n in "ab"]
    go.set()
    for future in (*works, *urgent):
        future.result(10)
    assert order == ["first", "a", "b", *range(5)]


def test_a_group_takes_so_many_bytes_and_no_more(store: Store) -> None:
    commits: list[int] = []
    order: list[int] = []

    @event.listens_for(store._writer, "commit")
    def note(_connection) -> None:
        commits.append(len(order))

    go = held_up(store)
    works = [store.share(lambda _, n=n: order.append(n), weight=MAX_WEIGHT // 4) for n in range(10)]
    go.set()
    for work in works:
        work.result(10)
    # The one that held the writer up, then four quarters each.
    assert commits == [0, 4, 8, 10]


def test_on_a_full_disk_nothing_is_told_stored_that_is_not(store: Store) -> None:
    """SQLite gives the whole transaction up then, savepoints and neighbours included; those that
    come after it have one of their own."""
    store.submit(lambda c: c.execute(text("PRAGMA max_page_count = 40")).all()).result()
    futures = in_one_group(store, [put(1), put(2), put(3, 2_000_000), put(4), put(5)])
    assert ["full" in str(future.exception()) for future in futures[:3]] == [True] * 3
    assert [future.result() for future in futures[3:]] == [4, 5]
    assert numbers(store) == [4, 5]
    assert store.share(put(6)).result() == 6
    assert numbers(store) == [4, 5, 6]


def test_a_writer_whose_caller_has_gone_goes_on(store: Store) -> None:
    async def impatient() -> None:
        go = threading.Event()
        store.submit(lambda _: go.wait(10))
        waiting = asyncio.wrap_future(store.share(put(1)))
        running = asyncio.ensure_future(
            store.write(lambda c: (go.wait(10), c.execute(text("INSERT INTO t VALUES (2, NULL)"))))
        )
        await asyncio.sleep(0)
        waiting.cancel()
        running.cancel()
        go.set()
        await asyncio.gather(waiting, running, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(impatient()))
    thread.start()
    thread.join()
    assert store.share(put(3)).result(10) == 3
    assert store.alive


def test_readers_cannot_write(store: Store) -> None:
    with store.reading() as connection, pytest.raises(Exception, match="readonly"):
        connection.execute(text("INSERT INTO t VALUES (1, NULL)"))


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
