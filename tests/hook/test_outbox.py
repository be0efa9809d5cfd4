"""The outbox: numbers without holes, bounded memory, and every lost row told."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradhelm import wire
from gradhelm.outbox import Outbox


def frame(step: int, rows: int = 1, columns: int = 10) -> wire.Frame:
    steps = np.arange(step, step + rows, dtype=np.uint64)
    values = np.zeros((rows, columns), np.float32)
    return wire.pack_frame(1, 0, 0, steps, steps.astype(np.float64), values)


def sent(outbox: Outbox, window: int = 1000) -> list[wire.Frame | wire.Gap]:
    records = []
    while (data := outbox.next(window)) is not None:
        record = wire.decode_from_trainer(data)
        assert isinstance(record, wire.Frame | wire.Gap)
        records.append(record)
    return records


def test_records_are_numbered_from_one_when_they_are_sent():
    outbox = Outbox()
    for step in range(3):
        outbox.put(frame(step))
    assert [record.seq for record in sent(outbox)] == [1, 2, 3]
    outbox.put(frame(3))
    assert [record.seq for record in sent(outbox)] == [4]


def test_no_more_than_the_window_is_in_flight():
    outbox = Outbox()
    for step in range(10):
        outbox.put(frame(step))
    assert [record.seq for record in sent(outbox, 4)] == [1, 2, 3, 4]
    outbox.ack(3)
    assert [record.seq for record in sent(outbox, 4)] == [5, 6, 7]


def test_a_reconnect_sends_exactly_what_is_not_acknowledged_the_same_again():
    outbox = Outbox()
    for step in range(5):
        outbox.put(frame(step))
    first = sent(outbox)
    outbox.ack(1)
    outbox.resume(3)
    assert sent(outbox) == first[3:]
    assert len(outbox) == 2
    outbox.ack(5)
    assert (len(outbox), outbox.size) == (0, 0)


def test_resend_goes_back_no_further_than_what_is_here():
    outbox = Outbox()
    for step in range(5):
        outbox.put(frame(step))
    sent(outbox)
    outbox.ack(2)
    outbox.rewind(1)
    assert [record.seq for record in sent(outbox)] == [3, 4, 5]
    outbox.rewind(5)
    assert [record.seq for record in sent(outbox)] == [5]


def test_a_full_outbox_gives_up_the_oldest_and_says_how_many():
    outbox = Outbox(budget=10 * 1000)
    for step in range(0, 400, 4):
        outbox.put(frame(step, rows=4))
    assert outbox.size <= 10 * 1000
    gap, *frames = sent(outbox)
    assert isinstance(gap, wire.Gap)
    assert (gap.seq, gap.first, gap.reason) == (1, 0, "outbox full")
    assert gap.count == gap.last + 1 == 400 - 4 * len(frames)
    assert outbox.rows_shed == gap.count


def test_a_million_losses_take_no_memory():
    outbox = Outbox()
    for step in range(10_000):
        outbox.declare(step, step, 1, "ring full")
    assert len(outbox) == 1
    assert sent(outbox) == [wire.Gap(1, 0, 9999, 10_000, "ring full")]


def test_abandoning_turns_the_unsent_into_one_gap_and_keeps_the_sent():
    outbox = Outbox()
    for step in range(4):
        outbox.put(frame(step))
    sent(outbox, 2)
    outbox.declare(4, 5, 2, "ring full")
    outbox.put(frame(6))
    outbox.abandon("the process ended")
    assert sent(outbox) == [wire.Gap(3, 2, 6, 5, "the process ended, ring full")]
    assert len(outbox) == 3


def test_a_new_segment_numbers_everything_unacknowledged_from_one():
    outbox = Outbox(budget=3000)
    for step in range(4):
        outbox.put(frame(step))
    sent(outbox, 2)
    outbox.ack(1)
    for step in range(4, 12):
        outbox.put(frame(step))
    outbox.renumber()
    records = sent(outbox)
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert isinstance(records[0], wire.Frame)
    assert isinstance(records[1], wire.Gap)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 30)),
            st.tuples(st.just("lose"), st.integers(1, 5)),
            st.tuples(st.just("send"), st.integers(1, 6)),
            st.tuples(st.just("ack"), st.integers(0, 60)),
            st.tuples(st.just("reconnect"), st.integers(0, 60)),
            st.tuples(st.just("rewind"), st.integers(1, 60)),
        ),
        max_size=80,
    )
)
def test_every_row_is_stored_once_or_declared_whatever_happens(moves):
    outbox = Outbox(budget=6000)
    stored: dict[int, wire.Frame | wire.Gap] = {}
    produced = 0

    def receive(window: int) -> None:
        for record in sent(outbox, window):
            if record.seq == len(stored) + 1:
                stored[record.seq] = record
            else:
                assert record == stored[record.seq]

    for move, number in moves:
        if move == "put":
            outbox.put(frame(produced, rows=number))
            produced += number
        elif move == "lose":
            outbox.declare(produced, produced + number - 1, number, "ring full")
            produced += number
        elif move == "send":
            receive(number)
        elif move == "ack":
            outbox.ack(min(number, len(stored)))
        elif move == "reconnect":
            outbox.resume(len(stored))
        else:
            outbox.rewind(number)
        assert outbox.size <= 6000 + 8 * 400 * 30
    receive(10_000)
    rows = sum(
        record.count if isinstance(record, wire.Gap) else len(record.steps) // 8
        for record in stored.values()
    )
    assert rows == produced
