"""The compactor: nobody can tell by what he reads whether and when it has been at work."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from support import eventually
from trainer import new_run

import gradhelm_migrations
from gradhelm import wire
from gradhelm_server import compactor, runs, tables, tiles
from gradhelm_server.compactor import Compactor, Inbox
from gradhelm_server.matrix import Reader, Stretch
from gradhelm_server.recorder import Recorder
from gradhelm_server.roles import LOCAL, Identity
from gradhelm_server.store import Store

COLUMNS = (
    *(wire.Column(name, "scalar") for name in ("global_norm", "threshold", "clipped", "nonfinite")),
    *(wire.Column(f"norm/layer.{i}", "norm") for i in range(11)),
)
WIDTH = len(COLUMNS)
CLIPPED = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path_factory.mktemp('compactor') / 'a.db'}"
    gradhelm_migrations.upgrade(url)
    made = Store(url)
    yield made
    made.close()


class Segment:
    """One segment of a run of its own, written without a socket."""

    def __init__(self, store: Store, columns: tuple[wire.Column, ...] = COLUMNS) -> None:
        self.store = store
        self.run, self.name = new_run(), secrets.token_hex(8)
        hello = wire.Hello(self.run, self.name, "a run", "tests", (), wire.Limits())
        store.submit(
            lambda c: runs.begin(c, hello, Identity("local", "token", LOCAL), 0.0)
        ).result()
        self.recorder = store.submit(lambda c: Recorder.load(c, self.run, self.name)).result()
        message = wire.Columns(0, 0, columns)
        store.submit(lambda c: self.recorder.declare(c, message)).result()

    def put(self, steps: np.ndarray, values: np.ndarray, version: int = 0) -> None:
        times = 1e9 + steps / 7
        frame = wire.pack_frame(self.recorder.high_water + 1, 0, version, steps, times, values)
        (done,) = self.store.share(lambda c: self.recorder.append(c, [frame], 0.0)).result()
        assert done.refused is None

    def compact(self, *, over: bool = False) -> None:
        Compactor(self.store, 600).compact(Inbox(self.run, self.name, 0), over=over)

    def count(self, table: object) -> int:
        with self.store.reading() as connection:
            return connection.scalar(
                select(func.count()).select_from(table).where(table.c.run_id == self.run)
            )

    def everything(self, first: int, last: int, stride: int) -> list[tuple]:
        with self.store.reading() as connection:
            reader = Reader(connection, self.run)
            series = reader.series(list(range(WIDTH)), first, last, stride)
            image, origin = reader.heatmap(list(range(4, WIDTH)), first, last, stride)
            rows = reader.rows(Stretch(self.name, first, last), 0, np.array([9, 0, 14]))
            values = [np.empty(0, np.float32), *reader.values(0, first, last)]
            ones = reader.ones(CLIPPED, first, last)
        found = [(s.step, s.low, s.mean, s.high, s.nonfinite) for s in series.values()]
        joined = [np.concatenate(part) for part in zip(*rows, strict=True)]
        values = np.concatenate(values)
        clipped = series[CLIPPED]
        if stride == 1:
            assert ones == np.nansum(clipped.mean)
        return [*found, (image.view(np.uint32), origin), tuple(joined), (values, ones)]


def same(one: list[tuple], other: list[tuple]) -> None:
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            if np.asarray(x).dtype == np.float32:  # means to rounding, all else to the bit
                np.testing.assert_allclose(x, y, rtol=1e-6)
            else:
                np.testing.assert_array_equal(x, y)


def matrix(seed: int, count: int) -> np.ndarray:
    """Norms, of which some are missing and some are not finite."""
    random = np.random.default_rng(seed)
    values = random.lognormal(size=(count, WIDTH)).astype(np.float32)
    values[:, CLIPPED] = random.random(count) < 0.3
    values[random.random(values.shape) < 0.01] = np.nan
    values[random.random(values.shape) < 0.01] = np.inf
    values.view(np.uint32)[random.random(values.shape) < 0.05] = wire.MISSING_BITS
    values[:, 9:] = random.lognormal(size=(count, WIDTH - 9))  # a block without a flaw
    return values


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 0, 0, 1, 900])), min_size=1),
    st.sampled_from([64, 100, 4096]),
    st.data(),
)
def test_what_is_read_does_not_change_by_compacting(store, seed, frames, size, data) -> None:
    segment, step = Segment(store), int(np.random.default_rng(seed).integers(0, 200))
    chosen = data.draw(st.lists(st.booleans(), min_size=len(frames), max_size=len(frames)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compactor, "steps_of", lambda _: size)
        untouched = Segment(store)
        for number, ((count, hole), now) in enumerate(zip(frames, chosen, strict=True)):
            steps = np.arange(step, step + count, dtype=np.uint64)
            values = matrix(seed + number, count)
            segment.put(steps, values, number)
            untouched.put(steps, values, number)
            if now:
                segment.compact(over=data.draw(st.booleans()))
            step += count + hole
        segment.compact(over=True)
        assert segment.count(tables.frames) == 0
        for stride in (1, 4, 16, 64, 128, 2048, 1 << 24):
            low = data.draw(st.integers(0, step - 1))
            high = data.draw(st.integers(low, step - 1))
            for first, last in ((0, step), (low, high)):
                same(
                    segment.everything(first, last, stride),
                    untouched.everything(first, last, stride),
                )


def test_a_tile_waits_until_there_is_enough_for_it(store) -> None:
    segment = Segment(store)
    for first in range(0, 4032, 64):
        segment.put(np.arange(first, first + 64, dtype=np.uint64), matrix(first, 64))
    segment.compact()
    assert (segment.count(tables.frames), segment.count(tables.tiles)) == (63, 0)
    segment.put(np.arange(4032, 4096, dtype=np.uint64), matrix(1, 64))
    segment.compact()
    assert segment.count(tables.frames) == 0
    assert segment.count(tables.tiles) > 0


def test_a_frame_that_is_longer_than_a_tile_becomes_several(store) -> None:
    columns = (wire.Column("loss", "log"),)
    segment = Segment(store, columns)
    steps = np.arange(0, 12_000, dtype=np.uint64)
    values = np.random.default_rng(0).lognormal(size=(12_000, 1)).astype(np.float32)
    segment.put(steps, values)
    segment.compact()
    with store.reading() as connection:
        counts = [
            row.size
            for row in connection.execute(
                select(tables.tiles).where(
                    tables.tiles.c.run_id == segment.run,
                    tables.tiles.c.level == 0,
                    tables.tiles.c.block == 0,
                )
            )
        ]
        series = Reader(connection, segment.run).series([0], 0, 20_000, 1)[0]
    assert counts == [4000, 4000, 4000]
    np.testing.assert_array_equal(series.mean, values[:, 0])


def test_a_scalar_that_comes_again_after_its_step_was_compacted_has_the_last_word(store) -> None:
    segment = Segment(store, (wire.Column("loss", "log"), wire.Column("score", "log")))
    nothing = wire.MISSING
    for steps, rows in (
        ([3, 4], [[1.0, 9.0], [2.0, nothing]]),
        ([4, 5], [[nothing, 8.0], [5.0, nothing]]),
        ([5], [[6.0, nothing]]),
    ):
        segment.put(np.array(steps, np.uint64), np.array(rows, np.float32))
        segment.compact(over=True)
    with store.reading() as connection:
        found = Reader(connection, segment.run).series([0, 1], 0, 9, 1)
    assert (found[0].step.tolist(), found[0].mean.tolist()) == ([3, 4, 5], [1.0, 2.0, 6.0])
    assert (found[1].step.tolist(), found[1].mean.tolist()) == ([3, 4], [9.0, 8.0])


def test_a_very_wide_run_has_short_tiles() -> None:
    assert tiles.steps_of(300) == 4096
    assert tiles.steps_of(32_768) == 256
    assert tiles.steps_of(65_536) == 128


def test_scalars_are_blocks_by_themselves() -> None:
    kinds = ["scalar"] * 3 + ["norm"] * 10 + ["detail"] * 3 + ["log"]
    assert tiles.blocks(kinds).tolist() == [0, 1, 2, 3, 11, 13, 16]


def test_two_compactors_do_not_both_make_a_tile_of_the_same_frames(store) -> None:
    segment = Segment(store)
    segment.put(np.arange(100, dtype=np.uint64), matrix(5, 100))
    inbox = Inbox(segment.run, segment.name, 0)
    with store.reading() as connection:
        one, other = (compactor._tile(connection, inbox, over=True) for _ in range(2))
    store.submit(one.put).result()
    with pytest.raises(RuntimeError, match="somebody else"):
        store.submit(other.put).result()
    assert len(segment.everything(0, 100, 1)[-1][0]) == 100


def test_what_a_silent_run_left_is_compacted_without_being_asked(store) -> None:
    segment = Segment(store)
    segment.put(np.arange(100, dtype=np.uint64), matrix(6, 100))
    worker = Compactor(store, silent_after=1)
    worker.start()
    eventually(lambda: segment.count(tables.frames) == 0, what="an empty inbox")
    worker.stop()
    assert segment.count(tables.tiles) > 0


def test_when_steps_were_taken_is_told_from_tiles_and_inbox_alike(store: Store) -> None:
    steps = np.concatenate([np.arange(0, 9000), np.arange(9500, 12_000)]).astype(np.uint64)
    values = np.ones((len(steps), WIDTH), np.float32)
    mine = Segment(store)
    for first in range(0, 9800, 4000):
        mine.put(steps[first : min(first + 4000, 9800)], values[first : min(first + 4000, 9800)])

    def told(points: int) -> tuple[np.ndarray, np.ndarray]:
        with store.reading() as connection:
            return Reader(connection, mine.run).times(0, 0, 11_999, points)

    def true(found: np.ndarray, times: np.ndarray, last: int) -> bool:
        return (
            found[0] == 0
            and found[-1] == last
            and bool(np.isin(found, steps).all())
            and bool((np.diff(found.astype(np.int64)) > 0).all())
            and np.array_equal(times, 1e9 + found / 7)
        )

    before = told(100)
    assert len(before[0]) == 100
    assert true(*before, 10_299)
    mine.compact(over=True)
    mine.put(steps[9800:], values[9800:])
    for points in (2, 100, 50_000):
        found, times = told(points)
        assert len(found) == min(points, len(steps))
        assert true(found, times, 11_999)


def test_of_a_long_run_some_tiles_tell_the_time(store: Store, monkeypatch) -> None:
    steps = np.arange(40_000, dtype=np.uint64)
    mine = Segment(store)
    for first in range(0, len(steps), 4000):
        mine.put(steps[first : first + 4000], np.ones((4000, WIDTH), np.float32))
    mine.compact(over=True)
    monkeypatch.setattr("gradhelm_server.matrix.LOOKED_INTO", 3)
    with store.reading() as connection:
        found, times = Reader(connection, mine.run).times(0, 0, 39_999, 50)
    assert (found[0], found[-1], len(found)) == (0, 39_999, 50)
    assert np.array_equal(times, 1e9 + found / 7)
