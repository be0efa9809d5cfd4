"""The spool's law: what was written is read as it was written, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradhelm import spool
from gradhelm.errors import SpoolError
from gradhelm.spool import Damage, Entry, Kind, Spool

RECORDS = [b"", b"a", os.urandom(300), b"\0" * 50, os.urandom(5000)]


def entries(folder: Path) -> list[Entry]:
    return [entry for entry in spool.read(folder) if isinstance(entry, Entry)]


def records(folder: Path) -> list[tuple[int, bytes]]:
    return [(e.number, e.data) for e in entries(folder) if e.kind is Kind.RECORD]


def filled(folder: Path, data: list[bytes] = RECORDS, **values: int) -> list[tuple[int, bytes]]:
    kept = Spool(folder, **values)
    kept.tell(b"hello")
    put = list(enumerate(data, 1))
    assert all(kept.put(number, record) for number, record in put)
    kept.close()
    return put


def test_what_is_put_is_read_again_in_its_order(tmp_path: Path) -> None:
    put = filled(tmp_path / "s")
    assert records(tmp_path / "s") == put
    assert entries(tmp_path / "s")[0] == Entry(Kind.TOLD, 0, b"hello")
    assert not [e for e in spool.read(tmp_path / "s") if isinstance(e, Damage)]


def test_each_file_begins_with_what_was_told_so_that_older_ones_can_go(tmp_path: Path) -> None:
    kept = Spool(tmp_path, file_size=1000)
    assert kept.tell(b"who")
    for number in range(1, 11):
        assert kept.put(number, bytes([number]) * 400)
        if number == 5:
            assert kept.tell(b"more")
            assert kept.tell(b"who")  # nothing new
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) > 2
    before = kept.size
    kept.trim(3)
    assert [number for number, _ in records(tmp_path)][-1] == 10
    assert {number for number, _ in records(tmp_path)} >= set(range(4, 11))
    assert kept.size < before
    kept.trim(9)
    assert [e.data for e in entries(tmp_path)][:2] == [b"who", b"more"]
    assert 10 in dict(records(tmp_path))
    kept.close(remove=True)
    assert not tmp_path.exists()


def test_one_segment_has_one_writer(tmp_path: Path) -> None:
    kept = Spool(tmp_path)
    assert spool.is_written(tmp_path)
    with pytest.raises(SpoolError, match="cannot keep records in"):
        Spool(tmp_path)
    kept.close()
    assert not spool.is_written(tmp_path)
    looking = spool._lock(tmp_path, look=True)
    assert not spool.is_written(tmp_path)  # several may look
    os.close(looking)
    Spool(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"cannot keep records in .*file"):
        Spool(tmp_path / "file" / "s")


def test_the_budget_is_kept(tmp_path: Path) -> None:
    kept = Spool(tmp_path, budget=10_000, file_size=2_000)
    put = [number for number in range(1, 40) if kept.put(number, b"x" * 500)]
    assert 10 < len(put) < 20
    on_disk = sum(file.stat().st_size for file in tmp_path.glob("*.spool"))
    assert on_disk == kept.size <= 10_000
    kept.trim(put[-1])
    assert kept.put(100, b"y" * 500)
    kept.close()


def test_a_file_that_is_cut_at_any_byte_gives_all_that_was_whole(tmp_path: Path) -> None:
    put = filled(tmp_path / "s", [b"one", b"two" * 20, b"three" * 9])
    (file,) = (tmp_path / "s").glob("*.spool")
    whole = file.read_bytes()
    ends = [0, *(e for e in range(len(whole) + 1) if len(_read(file, whole[:e])) > len(_read(file, whole[: e - 1])))]  # fmt: skip
    assert len(ends) == 1 + 4  # hello and three records
    for end in range(len(whole)):
        found = _read(file, whole[:end])
        assert found == _read(file, whole)[: len(found)]
        assert len(found) == sum(end >= e for e in ends[1:])
    assert [(e.number, e.data) for e in _read(file, whole)[1:]] == put


def _read(file: Path, data: bytes) -> list[Entry]:
    mark = bytes.fromhex(file.stem.partition("-")[2])
    return [e for e in spool._entries(file, data, mark) if isinstance(e, Entry)]


def test_a_bit_that_flips_costs_its_own_entry_and_no_other(tmp_path: Path) -> None:
    filled(tmp_path / "s", [b"one", b"two" * 20, b"three" * 9])
    (file,) = (tmp_path / "s").glob("*.spool")
    whole = file.read_bytes()
    right = _read(file, whole)
    for at in range(len(whole)):
        for bit in (1, 128):
            flipped = bytearray(whole)
            flipped[at] ^= bit
            found = _read(file, bytes(flipped))
            assert len(found) == len(right) - 1
            assert all(entry in right for entry in found)


@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=60)), max_size=6),
)
def test_whatever_happens_to_a_file_nothing_is_read_that_was_not_written(data, blows) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "s"
        filled(folder, data)
        (file,) = folder.glob("*.spool")
        broken = bytearray(file.read_bytes())
        for at, junk in blows:
            at %= len(broken) + 1
            broken[at : at + len(junk) // 2] = junk
        right = [Entry(Kind.TOLD, 0, b"hello")]
        right += [Entry(Kind.RECORD, n, record) for n, record in enumerate(data, 1)]
        assert all(entry in right for entry in _read(file, bytes(broken)))


def test_what_looks_like_an_entry_inside_of_one_is_none(tmp_path: Path) -> None:
    """A record that holds a whole file of another spool, marks and all."""
    filled(tmp_path / "a", [b"inner"])
    (inner,) = (tmp_path / "a").glob("*.spool")
    filled(tmp_path / "b", [inner.read_bytes(), b"outer"])
    (file,) = (tmp_path / "b").glob("*.spool")
    broken = bytearray(file.read_bytes())
    broken[60] ^= 1
    assert b"inner" not in [entry.data for entry in _read(file, bytes(broken))]


def test_on_a_full_disk_nothing_half_is_left_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Spool(tmp_path)
    assert kept.put(1, b"first")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        real(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not kept.put(2, b"second")
        assert not kept.tell(b"news")
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
        assert not kept.put(2, b"second")
    assert kept.tell(b"news")
    assert kept.put(2, b"second")
    kept.close()
    assert records(tmp_path) == [(1, b"first"), (2, b"second")]
    assert not [e for e in spool.read(tmp_path) if isinstance(e, Damage)]


def test_a_killed_writer_leaves_what_it_wrote_and_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from gradhelm.spool import Spool\n"
        "kept = Spool(Path(sys.argv[1]))\n"
        "for number in range(1, 1001): kept.put(number, b'x' * 100)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode != 0
    assert records(tmp_path) == [(n, b"x" * 100) for n in range(1, 1001)]
    assert not spool.is_written(tmp_path)


def test_segments_are_found_wherever_one_points_to(tmp_path: Path) -> None:
    for name in ("run/a", "run/b", "other/c"):
        filled(tmp_path / name)
    assert set(spool.segments(tmp_path)) == {tmp_path / n for n in ("run/a", "run/b", "other/c")}
    assert spool.segments(tmp_path / "run" / "a") == [tmp_path / "run" / "a"]
    assert spool.segments(tmp_path / "nothing") == []


def test_a_file_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "notes.spool").write_text("mine")
    with pytest.raises(SpoolError, match=r"notes\.spool is not named as"):
        list(spool.read(tmp_path))
