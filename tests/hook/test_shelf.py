"""The shelf: what is on it outlives the process, in order, once, and until the server has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradhelm import spool, wire
from gradhelm.notice import Notices
from gradhelm.salvage import introduction, numbered
from gradhelm.shelf import Shelf
from gradhelm.spool import Spool

HELLO = wire.Hello(
    run="01912d68-783e-7a03-8467-5661c1243ad4",
    segment="00ff00ff00ff00ff",
    name="n",
    project="p",
    coded=(wire.Coded("Observe", {}),),
    limits=wire.Limits(),
)
COLUMNS = wire.Columns(0, 0, (wire.Column("global_norm", "scalar"),))


class Cargo:
    """Declares one group more whenever it is told to."""

    groups = 1

    def told(self, known: int = 0) -> Iterator[wire.Columns]:
        for group in range(known, self.groups):
            yield wire.Columns(group, 0, COLUMNS.columns)


class Shelves:
    """Makes shelves whose segments are folders in ``home``."""

    def __init__(self, home: Path, **options: int) -> None:
        self.home = home
        self.cargo = Cargo()
        self.options = options
        self.opened: list[Path] = []

    def open(self) -> Spool:
        self.opened.append(self.home / "run" / f"segment-{len(self.opened)}")
        return Spool(self.opened[-1], **self.options)

    def shelf(self, **options: int) -> Shelf:
        return Shelf(self.open, lambda: HELLO, self.cargo, Notices(), **options)  # type: ignore


def frame(step: int) -> wire.Frame:
    steps = np.array([step], np.uint64)
    return wire.pack_frame(1, 0, 0, steps, steps.astype(float), np.full((1, 4), step, np.float32))


def filled(shelf: Shelf, count: int, first: int = 0) -> Shelf:
    for step in range(first, first + count):
        shelf.put(frame(step))
    shelf.keep()
    return shelf


def sent(shelf: Shelf, window: int = 1000) -> list[int]:
    """The numbers of what goes to the server now; each record is that of its step."""
    numbers = []
    while (data := shelf.next(window)) is not None:
        record = wire.decode_from_trainer(data)
        assert isinstance(record, wire.Frame | wire.Gap)
        if isinstance(record, wire.Frame):
            assert int.from_bytes(record.steps, "little") == record.seq - 1
        numbers.append(record.seq)
    return numbers


def kept(folder: Path) -> list[int]:
    """The numbers that a later life would find."""
    found = numbered(folder, 0, "not there", growing=True)
    return [record.seq for record in found if isinstance(record, wire.Frame)]


def test_records_are_numbered_when_they_are_kept_and_sent_as_they_are_there(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path, file_size=600)
    shelf = filled(shelves.shelf(), 20)
    assert len(list(shelves.opened[0].glob("*.spool"))) > 4
    assert shelf.size == 0  # nothing in memory
    assert len(shelf) == 20
    assert sent(shelf, 8) == list(range(1, 9))
    shelf.ack(5)
    assert sent(shelf, 8) == list(range(9, 14))
    shelf.resume(10)
    assert sent(shelf, 8) == list(range(11, 19))
    shelf.rewind(13)
    assert sent(shelf) == list(range(13, 21))


def test_what_is_not_acknowledged_stays_whatever_was_sent(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path, file_size=600)
    shelf = filled(shelves.shelf(), 20)
    assert sent(shelf) == list(range(1, 21))
    assert kept(shelves.opened[0]) == list(range(1, 21))
    shelf.ack(12)
    left = kept(shelves.opened[0])
    assert left[0] > 6  # whole files go
    assert set(range(13, 21)) <= set(left)


def test_it_says_whose_it_is_and_which_columns_before_the_records_that_need_them(
    tmp_path: Path,
) -> None:
    shelves = Shelves(tmp_path, file_size=600)
    shelf = filled(shelves.shelf(), 3)
    assert introduction(shelves.opened[0]) == (HELLO, [COLUMNS])
    shelves.cargo.groups = 2
    filled(shelf, 20, first=3)
    shelf.ack(21)  # of the first files nothing is left
    hello, columns = introduction(shelves.opened[0])
    assert (hello, [one.group for one in columns]) == (HELLO, [0, 1])


def test_while_the_disk_takes_nothing_records_go_from_memory_and_later_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves = Shelves(tmp_path)
    shelf = filled(shelves.shelf(), 2)
    write = Spool._write
    monkeypatch.setattr(Spool, "_write", lambda *_: False)
    filled(shelf, 5, first=2)
    assert shelf.size > 0
    assert sent(shelf, 4) == [1, 2, 3, 4]
    assert kept(shelves.opened[0]) == [1, 2]
    monkeypatch.setattr(Spool, "_write", write)
    shelf.ack(1)
    assert shelf.keep()
    assert shelf.size == 0
    assert kept(shelves.opened[0]) == [1, 2, 3, 4, 5, 6, 7]
    shelf.resume(2)
    assert sent(shelf) == [3, 4, 5, 6, 7]


def test_what_a_fault_keeps_from_the_disk_is_kept_later_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves = Shelves(tmp_path)
    shelf = filled(shelves.shelf(), 1)
    shelf.put(frame(1))

    def encode(message: wire.Frame) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("gradhelm.shelf.encode", encode)
        shelf.keep()
    filled(shelf, 1, first=2)
    assert kept(shelves.opened[0]) == [1, 2, 3]
    shelf.resume(0)
    assert sent(shelf) == [1, 2, 3]


def test_a_spool_that_is_full_makes_room_when_the_server_has_its_files(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path, file_size=600, budget=3000)
    shelf = filled(shelves.shelf(), 60)
    assert shelf.size > 0
    assert shelf.spool.size <= 3000
    numbers: list[int] = []
    while len(shelf):
        numbers += sent(shelf, 4)
        shelf.ack(numbers[-1])
        shelf.keep()
    assert numbers == list(range(1, 61))
    assert shelf.size == 0


def test_what_finds_no_room_at_all_is_one_gap(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path, file_size=600, budget=1500)
    shelf = filled(shelves.shelf(budget=2500), 60)
    records = []
    while len(shelf):
        while (data := shelf.next(4)) is not None:
            records.append(wire.decode_from_trainer(data))
        shelf.ack(records[-1].seq)
        shelf.keep()
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    (gap,) = [record for record in records if isinstance(record, wire.Gap)]
    frames = [record for record in records if isinstance(record, wire.Frame)]
    steps = {int.from_bytes(record.steps, "little") for record in frames}
    assert gap.reason == "outbox full"
    assert gap.count == shelf.rows_shed == 60 - len(frames)
    assert steps | set(range(gap.first, gap.last + 1)) == set(range(60))


def test_what_is_damaged_on_disk_is_declared_under_its_number(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path, file_size=600)
    shelf = filled(shelves.shelf(), 10)
    first = min(shelves.opened[0].glob("*.spool"))
    data = bytearray(first.read_bytes())
    data[-30] ^= 1  # in the last record of the first file
    first.write_bytes(data)
    records = []
    while (sent_now := shelf.next(100)) is not None:
        records.append(wire.decode_from_trainer(sent_now))
    assert [record.seq for record in records] == list(range(1, 11))
    (gap,) = [record for record in records if isinstance(record, wire.Gap)]
    assert (gap.first, gap.last, gap.count) == (gap.seq - 1, gap.seq - 1, 1)
    assert "damaged" in gap.reason


def test_a_new_segment_begins_at_one_and_the_old_one_is_left_to_be_delivered(
    tmp_path: Path,
) -> None:
    shelves = Shelves(tmp_path)
    shelf = filled(shelves.shelf(), 6)
    sent(shelf)
    shelf.ack(4)
    shelf.renumber()
    for step in range(3):
        shelf.put(frame(step))
    shelf.keep()
    assert sent(shelf) == [1, 2, 3]
    old, new = shelves.opened
    assert kept(old)[-1] == 6
    assert not spool.is_written(old)
    assert kept(new) == [1, 2, 3]


def test_an_end_that_the_server_knows_leaves_nothing_and_another_is_kept(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path)
    end = wire.Finish("finished", 2)
    shelf = filled(shelves.shelf(), 3)
    assert shelf.put_away(end)
    assert list(numbered(shelves.opened[0], 0, "", growing=False))[-1] == end
    shelf = filled(shelves.shelf(), 3)
    assert shelf.put_away(None)
    assert not shelves.opened[1].exists()
    assert shelves.opened[0].exists()


def test_an_end_without_room_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelves = Shelves(tmp_path)
    shelf = shelves.shelf()
    monkeypatch.setattr(Spool, "_write", lambda *_: False)
    filled(shelf, 3)
    assert not shelf.put_away(wire.Finish("finished", 2))


def test_the_last_bytes_of_a_file_are_declared_when_they_are_no_record(tmp_path: Path) -> None:
    shelves = Shelves(tmp_path)
    shelf = filled(shelves.shelf(), 5)
    shelf.put_away(wire.Finish("finished", 4))
    (file,) = shelves.opened[0].glob("*.spool")
    whole = file.read_bytes()
    end = whole.rindex(whole[:8])
    last = whole.rindex(whole[:8], 0, end)
    file.write_bytes(whole[: end - 3] + whole[end:])  # the last record is torn
    assert last < end
    gap, finish = list(numbered(shelves.opened[0], 0, "damaged", growing=False))[-2:]
    assert gap == wire.Gap(5, 4, 4, 1, "damaged")
    assert finish == wire.Finish("finished", 4)
    assert kept(shelves.opened[0]) == [1, 2, 3, 4]
