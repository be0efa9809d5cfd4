"""The spool: what a segment of a run has recorded, on disk until a server has it.

Law: whatever was written is read again as it was written, or not at all; damage costs the entries
that it touches and no others. The spool never grows beyond its budget.

A folder for each segment, with files that are only appended to. A file's name says the number of
its first record and the mark that each of its entries begins with; the mark is drawn by chance, so
that nothing that is recorded can look like an entry. An entry is the mark, a CRC-32 of all that
follows, the length of its data, its kind, the record's number, and the data::

    mark 8 | crc u32 | length u32 | kind u8, 3 empty | number u64 | data      (little-endian)

Each file begins with what a server has to be told before the records (who speaks, which columns
there are), so that files can be removed from the oldest on.
"""

from __future__ import annotations

import enum
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

from .errors import SpoolError

BUDGET: Final = 1024 * 1024 * 1024
"""Bytes that a segment may keep."""
FILE: Final = 4 * 1024 * 1024
"""Bytes after which the next file is begun."""
SUFFIX: Final = ".spool"
_MARK: Final = 8
_HEAD: Final = struct.Struct("<IIB3xQ")
_SIZE: Final = _MARK + _HEAD.size


class Kind(enum.IntEnum):
    """What an entry is: said before the records, a record, or how the run ended."""

    TOLD = 1
    RECORD = 2
    END = 3


_KINDS: Final = frozenset(kind.value for kind in Kind)


class Entry(NamedTuple):
    """``number`` is a record's; that of the other kinds is of no meaning. ``data``: as encoded for
    the wire."""

    kind: Kind
    number: int
    data: bytes


class Damage(NamedTuple):
    """Bytes of a file that are no entry."""

    file: Path
    begin: int
    end: int


class Spool:
    """Appends to the folder of one segment, which nobody else may do at the same time.

    Raises SpoolError when the folder cannot be made, or somebody writes to it already.
    """

    def __init__(self, folder: Path, *, budget: int = BUDGET, file_size: int | None = None) -> None:
        self.folder = folder
        self.budget = budget
        self._file_size = FILE if file_size is None else file_size
        self._told: list[bytes] = []
        self._files: list[tuple[Path, int, int]] = []  # first number, bytes; all but the open one
        self._fd = -1
        self._path = folder
        self._first = 0
        self._mark = b""
        self._written = 0
        # Where the records of the open file are, and those of an older one, read as a whole.
        self._places: dict[int, tuple[int, int]] = {}
        self._read: tuple[Path, dict[int, bytes]] = folder, {}
        try:
            _make(folder)
            self._lock = _lock(folder)
        except OSError as error:
            raise SpoolError(
                f"cannot keep records in {folder}: {error.strerror or error}"
            ) from None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._written + sum(size for _, _, size in self._files)

    def tell(self, data: bytes) -> bool:
        """Keep what has to be said before the records; the same again is nothing new."""
        if data in self._told:
            return True
        if self._fd >= 0 and not self._write([Entry(Kind.TOLD, 0, data)]):
            return False
        self._told.append(data)
        return True

    def put(self, number: int, data: bytes) -> bool:
        """Keep a record; False when there is no room for it, in the budget or on the disk.

        Numbers go up.
        """
        another = self._fd < 0 or self._written >= self._file_size
        needed = [data, *self._told] if another else [data]
        if self.size + sum(_SIZE + len(one) for one in needed) > self.budget:
            return False
        if another:
            self._begin(number)
        at = self._written
        if not self._write([Entry(Kind.RECORD, number, data)]):
            return False
        self._places[number] = at, _SIZE + len(data)
        return True

    def get(self, number: int) -> bytes | None:
        """The data of the record that was put under ``number``; None if it cannot be read (again).

        Meant for reading in order: of the files that are full, one is held in memory.
        """
        try:
            if number in self._places:
                at, length = self._places[number]
                with self._path.open("rb") as file:
                    file.seek(at)
                    entry = _entry(file.read(length), 0)
                return None if entry is None or entry.number != number else entry.data
            older = [path for path, first, _ in self._files if first <= number]
            if not older:
                return None
            if self._read[0] != older[-1]:
                entries = _entries(older[-1], older[-1].read_bytes(), _mark_of(older[-1]))
                records = {
                    e.number: e.data
                    for e in entries
                    if isinstance(e, Entry) and e.kind is Kind.RECORD
                }
                self._read = older[-1], records
        except (OSError, SpoolError):
            return None
        return self._read[1].get(number)

    def end(self, data: bytes) -> bool:
        """Keep how the run ended."""
        if self._fd < 0:
            self._begin(0)
        return self._write([Entry(Kind.END, 0, data)])

    def trim(self, number: int) -> None:
        """Remove the files whose records, all up to ``number``, are stored elsewhere."""
        while self._files:
            path, _, _ = self._files[0]
            following = self._files[1][1] if len(self._files) > 1 else self._first
            if following > number + 1:
                return
            with suppress(OSError):
                path.unlink()
            del self._files[0]

    def close(self, *, remove: bool = False) -> None:
        """Write no more; with ``remove`` all is stored elsewhere, and the folder goes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if remove:
            discard(self.folder)
        os.close(self._lock)

    def forget(self) -> None:
        """In a forked child: the files are the parent's, and so is the lock on the folder."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._fd = -1

    def _begin(self, number: int) -> None:
        """The next file; where none can be made the writes to come fail."""
        if self._fd >= 0:
            os.close(self._fd)
            self._files.append((self._path, self._first, self._written))
        self._places.clear()
        self._mark = secrets.token_bytes(_MARK)
        self._path = self.folder / f"{number:016d}-{self._mark.hex()}{SUFFIX}"
        self._first, self._written = number, 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError:
            self._fd = -1
            return
        if not self._write([Entry(Kind.TOLD, 0, data) for data in self._told]):
            # A file that does not say whose it is would be of no use once the older ones are gone.
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):
                self._path.unlink()

    def _write(self, entries: list[Entry]) -> bool:
        """All of them or nothing."""
        if self._fd < 0:
            return False
        data = b"".join(_packed(self._mark, entry) for entry in entries)
        try:
            if os.write(self._fd, data) == len(data):
                self._written += len(data)
                return True
        except OSError:
            pass
        # The disk is full: what was begun is taken back, and if that fails too it is passed over
        # when it is read.
        with suppress(OSError):
            os.ftruncate(self._fd, self._written)
            os.lseek(self._fd, self._written, os.SEEK_SET)
        return False


def segments(folder: Path) -> list[Path]:
    """The folders of segments in ``folder`` and below (itself included), oldest first."""
    found = {path.parent for path in folder.rglob(f"*{SUFFIX}")}
    return sorted(found, key=lambda path: min(file.stat().st_mtime for file in path.iterdir()))


def is_written(folder: Path) -> bool:
    """Whether somebody has this segment open."""
    try:
        os.close(_lock(folder, look=True))
    except OSError:
        return True
    return False


def read(folder: Path) -> Iterator[Entry | Damage]:
    """What is kept of a segment, in its order; of what was begun and never finished, nothing.

    Raises SpoolError for files that cannot be read.
    """
    for path in _files(folder):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue  # stored elsewhere, and removed meanwhile
        except OSError as error:
            raise SpoolError(f"cannot read {path}: {error.strerror or error}") from None
        yield from _entries(path, data, _mark_of(path))


def discard(folder: Path, through: int | None = None) -> None:
    """Remove the files of a segment, or only those whose records all are numbered up to ``through``."""
    files = _files(folder)
    for path, following in zip_longest(files, files[1:]):
        stored = (
            following is not None and through is not None and _first_of(following) <= through + 1
        )
        if through is None or stored:
            with suppress(OSError):
                path.unlink()
    if through is None:
        for rest in (folder / "lock", folder):
            with suppress(OSError):
                rest.unlink() if rest != folder else rest.rmdir()


def _packed(mark: bytes, entry: Entry) -> bytes:
    head = _HEAD.pack(0, len(entry.data), entry.kind, entry.number)
    crc = zlib.crc32(entry.data, zlib.crc32(head[4:]))
    return b"".join((mark, crc.to_bytes(4, "little"), head[4:], entry.data))


def _entries(path: Path, data: bytes, mark: bytes) -> Iterator[Entry | Damage]:
    at = sound = 0
    while (at := data.find(mark, at)) >= 0:
        entry = _entry(data, at)
        if entry is None:
            at += 1  # the next mark, wherever it is
            continue
        if at > sound:
            yield Damage(path, sound, at)
        yield entry
        at = sound = at + _SIZE + len(entry.data)
    if sound < len(data):
        yield Damage(path, sound, len(data))


def _entry(data: bytes, at: int) -> Entry | None:
    """The entry that begins at ``at``, if it is whole."""
    begin = at + _SIZE
    if begin > len(data):
        return None
    crc, length, kind, number = _HEAD.unpack_from(data, at + _MARK)
    if begin + length > len(data):
        return None
    head = zlib.crc32(data[at + _MARK + 4 : begin])
    if zlib.crc32(data[begin : begin + length], head) != crc or kind not in _KINDS:
        return None
    return Entry(Kind(kind), number, data[begin : begin + length])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _first_of(path: Path) -> int:
    return int(path.name[:16])


def _mark_of(path: Path) -> bytes:
    """Raises SpoolError for a name that is none of ours."""
    try:
        mark = bytes.fromhex(path.stem.partition("-")[2])
    except ValueError:
        mark = b""
    if len(mark) != _MARK:
        raise SpoolError(f"{path} is not named as a spool's files are")
    return mark


if sys.platform == "win32":
    import msvcrt

    def _lock(folder: Path, *, look: bool = False) -> int:
        """Raises OSError where it is locked. Who only wants to ``look`` waits for others
        who do."""
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            msvcrt.locking(fd, msvcrt.LK_LOCK if look else msvcrt.LK_NBLCK, 1)
        except OSError:
            os.close(fd)
            raise
        return fd

else:
    import fcntl

    def _lock(folder: Path, *, look: bool = False) -> int:
        """Raises OSError where it is locked. Several may ``look`` at the same time."""
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if look else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd


def _make(folder: Path) -> None:
    """Nobody else may look into it, nor into what had to be made on the way to it, such as the data
    directory (the mode of ``mkdir`` is for the last folder alone)."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises where it is something else
