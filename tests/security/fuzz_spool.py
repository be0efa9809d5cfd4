"""What lies on a trainer's disk: files that were torn, damaged, exchanged, or made by somebody else.

Whatever happened to them: what is read of them was written, in whole; entries and damage together are
all of a file, and nothing twice; what is handed on has numbers without holes; and reading ends.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from . import fuzz
from .draw import Draw

with fuzz.instrumented():
    from gradhelm import salvage, spool, wire
    from gradhelm.errors import SpoolError, WireError
    from gradhelm.spool import Damage, Entry, Kind, Spool

FOUND = [
    # A file that is copied under the name which it has.
    b"\0\xc8\1\0\0\5\0\0\0\1\0\0\0\0\1\0\0\0\0\1\0\0\0\0\1\0\0\0\0\1\0\0"
    b"\xff\0\0\0\1\0\xff\0\0\xff\0\0\xff",
]
MOST = 20_000
"""Numbers that may be handed on of one folder; more would be numbers that nobody has used."""
HIGHEST = 5000
"""Numbers that are used: of a number far away, everything before it is declared missing."""
HELLO = wire.Hello(
    "01912d68-783e-7a03-8467-5661c1243ad4",
    "00ff00ff00ff00ff",
    "n",
    "p",
    (wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm"),),
    wire.Limits(),
)
COLUMNS = wire.Columns(0, 0, (wire.Column("global_norm", "scalar"),))


def seeds() -> list[bytes]:
    written = [b"\1" + message for message in fuzz.golden()]
    return written + [bytes([0, n]) + bytes(range(1, 60)) * 4 for n in (1, 9, 200)]


def one(data: bytes) -> None:
    draw = Draw(data[1:])
    made: Callable[[Draw, Path], list[Entry] | None] = damaged if data[:1] == b"\0" else foreign
    with tempfile.TemporaryDirectory(prefix="gradhelm-fuzz-") as name:
        folder = Path(name) / "segment"
        with fixed_marks():
            written = made(draw, folder)
        read(folder, written, above=draw.below(20))


def fixed_marks() -> Any:
    """Marks are drawn by chance; for a fuzzer they are the same each time."""
    count = itertools.count(1)
    return mock.patch.object(spool.secrets, "token_bytes", lambda n: next(count).to_bytes(n, "big"))


def record(draw: Draw, number: int, step: int) -> bytes:
    if draw.rarely():
        return draw.bytes(40)
    if draw.below(4) == 0:
        last = step + draw.below(5)
        return wire.encode(wire.Gap(number, step, last, draw.below(5), "ring full"))
    count = 1 + draw.below(4)
    steps = np.arange(step, step + count, dtype=np.uint64)
    values = np.ones((count, 1), np.float32)
    return wire.encode(wire.pack_frame(number, 0, 0, steps, steps.astype(float), values))


def damaged(draw: Draw, folder: Path) -> list[Entry]:
    """A spool as it is written, and then what may happen to its files; returns what was written."""
    written: list[Entry] = []
    kept = Spool(folder, file_size=200 + draw.below(2000))
    number = step = 0
    for told in (HELLO, COLUMNS):
        if not draw.rarely():
            data = wire.encode(told)
            kept.tell(data)
            written.append(Entry(Kind.TOLD, 0, data))
    for _ in range(draw.below(24)):
        number += 1 if not draw.rarely() else 1 + draw.below(9)
        step += 1 + draw.below(3)
        data = record(draw, number, step)
        assert kept.put(number, data)
        assert kept.get(number) == data
        written.append(Entry(Kind.RECORD, number, data))
    if draw.flag():
        data = wire.encode(wire.Finish("finished", step))
        kept.end(data)
        written.append(Entry(Kind.END, 0, data))
    kept.close()
    for _ in range(draw.below(6)):
        blow(draw, folder)
    return written


def blow(draw: Draw, folder: Path) -> None:
    files = sorted(folder.glob("*.spool"))
    if not files:
        return
    file = draw.pick(files)
    data = bytearray(file.read_bytes())
    at = draw.below(len(data) + 1)
    match draw.below(8):
        case 0:
            data[at : at + 1] = draw.take(1)
        case 1:
            data = data[:at]
        case 2:
            data[at:at] = draw.bytes(40)
        case 3:
            del data[at : at + draw.below(200)]
        case 4:
            data += data[at : at + draw.below(400)]
        case 5:
            data[at:at] = draw.pick(files).read_bytes()[: draw.below(400)]
        case 6:
            file.unlink()
            return
        case 7:
            other = draw.pick(files)
            copy = folder / f"{draw.below(99):016d}-{other.name.partition('-')[2]}"
            if copy != other:
                shutil.copy(other, copy)
            return
    file.write_bytes(data)


def foreign(draw: Draw, folder: Path) -> None:
    """A file that nobody of ours has written, with entries that look like ours."""
    folder.mkdir()
    mark = b"\0\0\0\0\0\0\0\1"
    parts = []
    while draw and len(parts) < 40:
        kind = draw.below(4)
        data = draw.bytes(200)
        try:
            message = wire.decode_from_trainer(data)
        except WireError:
            message = None
        if getattr(message, "seq", 0) > HIGHEST:
            continue
        entry = Entry(draw.pick(list(Kind)), draw.below(HIGHEST), data)
        whole = spool._packed(mark, entry)
        parts.append((data, mark, whole[: draw.below(len(whole))], whole)[kind])
    name = draw.pick((f"{1:016d}-{mark.hex()}", "x", f"x-{mark.hex()}", f"{1:016d}-zz", "-"))
    (folder / f"{name}.spool").write_bytes(b"".join(parts))


def read(folder: Path, written: list[Entry] | None, above: int) -> None:
    sizes = {path: path.stat().st_size for path in folder.glob("*.spool")}
    seen = 0
    try:
        for found in spool.read(folder):
            if isinstance(found, Damage):
                assert 0 <= found.begin < found.end <= sizes[found.file]
                seen += found.end - found.begin
            else:
                assert written is None or found in written
                seen += spool._SIZE + len(found.data)
        assert seen == sum(sizes.values())
        hello, columns = salvage.introduction(folder)
        assert isinstance(hello, wire.Hello)
        assert all(isinstance(one, wire.Columns) for one in columns)
    except SpoolError as error:
        assert str(folder) in str(error)
    for growing in (False, True):
        handed_on(folder, above, growing)
    spool.discard(folder, through=above)


def handed_on(folder: Path, above: int, growing: bool) -> None:
    expected, ends = above + 1, 0
    try:
        messages = salvage.numbered(folder, above, "damaged", growing=growing)
        for message in itertools.islice(messages, MOST):
            assert not ends, "something comes after the end"
            if isinstance(message, wire.Finish):
                ends += 1
            elif not isinstance(message, wire.Columns):
                assert message.seq == expected
                expected += 1
                if isinstance(message, wire.Gap):
                    assert wire.decode_from_trainer(wire.encode(message)) == message
        assert expected - above < MOST
    except SpoolError:
        pass  # the name of a file is none of ours


if __name__ == "__main__":
    sys.exit(fuzz.main(["spool"]))
