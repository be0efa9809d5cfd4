"""The ring and the lane of logged scalars: every row comes out once, or its loss does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradhelm import wire
from gradhelm.notice import Notices
from gradhelm.ring import Losses, Lost, Ring
from gradhelm.scalars import CAPACITY, Scalars


def push(ring: Ring, step: int, version: int = 0, blank: bool = True) -> bool:
    slot = ring.reserve(step, blank=blank)
    if slot is None:
        return False
    ring.rows[slot, 0] = step
    ring.commit(step, float(step), version)
    return True


def test_a_full_ring_refuses_the_newest_and_says_which():
    ring = Ring(3)
    assert ring.capacity == 8192
    assert all(push(ring, step) for step in range(8192))
    assert ring.fill == 1.0
    assert not any(push(ring, step) for step in range(8192, 8200))
    assert list(ring.losses.take()) == []
    assert [batch.steps[-1] for batch in ring.batches()] == [8191]
    assert push(ring, 8200)
    assert list(ring.losses.take()) == [Lost(8192, 8199, 8)]
    assert ring.losses.count == 8
    ring.losses.refuse(9)
    ring.losses.end()
    assert list(ring.losses.take()) == [Lost(9, 9, 1)]


def test_memory_is_bounded_however_wide_a_run_is():
    assert Ring(wire.MAX_COLUMNS).capacity == 64
    for columns in (1, 10, 1000, 30_000, wire.MAX_COLUMNS):
        assert 4 * columns * Ring(columns).capacity <= 16 * 1024 * 1024


def test_batches_break_where_the_version_changes_and_where_steps_go_back():
    ring = Ring(1)
    for step, version in [(1, 0), (2, 0), (3, 1), (4, 1), (2, 1), (3, 1)]:
        push(ring, step, version)
    found = [(batch.version, batch.steps.tolist()) for batch in ring.batches()]
    assert found == [(0, [1, 2]), (1, [3, 4]), (1, [2, 3])]


def test_what_a_row_does_not_say_is_missing_even_in_a_used_slot():
    ring = Ring(2)
    for step in range(2 * ring.capacity):
        slot = ring.reserve(step, blank=True)
        assert slot is not None
        ring.rows[slot, step % 2] = 1.0
        ring.commit(step, 0.0, 0)
        (batch,) = ring.batches()
        absent = wire.missing(np.ascontiguousarray(batch.rows))[0]
        assert absent.tolist() == [step % 2 == 1, step % 2 == 0]


@given(st.lists(st.integers(min_value=-40, max_value=60), max_size=60))
def test_produced_is_delivered_plus_declared(moves: list[int]):
    ring = Ring(200_000)  # 64 rows
    produced, delivered, lost = 0, [], 0
    for move in moves:
        for _ in range(move):
            push(ring, produced)
            produced += 1
        if move < 0:
            for batch in ring.batches(limit=-move):
                delivered += batch.steps.tolist()
            lost += sum(span.rows for span in ring.losses.take())
    for batch in ring.batches():
        delivered += batch.steps.tolist()
    ring.losses.end()
    lost += sum(span.rows for span in ring.losses.take())
    assert delivered == sorted(set(delivered))
    assert len(delivered) + lost == produced


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns every few instructions, and not every five milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_two_threads_lose_nothing_that_is_not_declared():
    ring = Ring(200_000)
    total, seen, lost = 20_000, 0, 0
    producer = threading.Thread(target=lambda: [push(ring, step) for step in range(total)])
    producer.start()
    last = -1
    while producer.is_alive() or len(ring):
        for batch in ring.batches():
            assert batch.rows[:, 0].tolist() == batch.steps.tolist()
            assert batch.steps[0] > last
            last = int(batch.steps[-1])
            seen += len(batch.steps)
        lost += sum(span.rows for span in ring.losses.take())
    ring.losses.end()
    lost += sum(span.rows for span in ring.losses.take())
    assert seen + lost == total
    assert lost == ring.losses.count


def test_losses_are_joined_while_they_last():
    losses = Losses()
    for step in (3, 4, 9):
        losses.refuse(step)
    losses.end()
    losses.end()
    assert list(losses.take()) == [Lost(3, 9, 3)]


def lane() -> Scalars:
    return Scalars(Notices(), frozenset({"lr"}), first_group=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is; in a list, so that it can be set."""
    now = [1.0]
    monkeypatch.setattr("gradhelm.scalars.monotonic", lambda: now[0])
    return now


def test_new_names_open_a_new_group_and_old_groups_stay(clock):
    scalars = lane()
    scalars.put(0, 1.0, 0, {"loss": 1.0})
    scalars.put(1, 1.0, 0, {"loss": 2.0, "acc": 0.5})
    rows = list(scalars.rows(before=2.0))
    assert {n: [c.name for c in g] for n, g in scalars.groups.items()} == {1: ["loss"], 2: ["acc"]}
    assert [(part.group, part.steps.tolist()) for part in rows] == [(1, [0, 1]), (2, [1])]


def test_entries_wait_until_they_have_settled_and_split_at_versions(clock):
    scalars = lane()
    scalars.put(0, 1.0, 0, {"loss": 1.0})
    scalars.put(1, 1.0, 3, {"loss": 2.0})
    clock[0] = 5.0
    scalars.put(2, 1.0, 3, {"loss": 3.0})
    assert [(p.version, p.values.tolist()) for p in scalars.rows(before=4.0)] == [
        (0, [[1.0]]),
        (3, [[2.0]]),
    ]
    assert [p.steps.tolist() for p in scalars.rows(before=6.0)] == [[2]]


def test_a_clock_that_is_set_back_holds_up_no_scalar(clock):
    scalars = lane()
    scalars.put(0, 9e9, 0, {"loss": 1.0})
    assert [part.times.tolist() for part in scalars.rows(before=2.0)] == [[9e9]]


def test_a_full_lane_counts_what_it_refuses(clock):
    scalars = lane()
    for step in range(CAPACITY + 5):
        scalars.put(step, 0.0, 0, {"loss": 1.0})
    scalars.losses.end()
    assert list(scalars.losses.take()) == [Lost(CAPACITY, CAPACITY + 4, 5)]
    assert sum(len(part.steps) for part in scalars.rows(before=2.0)) == CAPACITY
