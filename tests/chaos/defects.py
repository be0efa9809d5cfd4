"""The tests' own test: ten defects, each of which has to turn the suite red.

As a plugin (``pytest -p chaos.defects`` with ``GRADHELM_DEFECT=name``) it puts one of them in.
``python -m chaos.defects`` (from ``tests``) tries all and prints what found them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "GRADHELM_DEFECT"
OPTIONS = ["-q", "--maxfail=1", "-p", "no:cacheprovider", "--timeout=25"]


def ack_before_commit() -> None:
    from gradhelm import wire
    from gradhelm_server.ingest import TrainerConnection

    take = TrainerConnection._take

    async def taking(self: Any, message: Any) -> None:
        if isinstance(message, wire.Frame):
            self.tell(wire.Ack(message.seq))
        await take(self, message)

    TrainerConnection._take = taking


def no_dedupe() -> None:
    from gradhelm_server.ingest import TrainerConnection

    record = TrainerConnection._record

    def recording(self: Any, commit: Any, records: list[Any]) -> Any:
        begin = self._recorder.high_water + 1
        fresh = [
            msgspec.structs.replace(one, seq=number) for number, one in enumerate(records, begin)
        ]
        return record(self, commit, fresh)

    TrainerConnection._record = recording


def trim_before_ack() -> None:
    from gradhelm.shelf import Shelf

    following = Shelf.next

    def hasty(self: Any, window: int) -> bytes | None:
        data = following(self, window)
        self.spool.trim(self._cursor - 1)
        return data

    Shelf.next = hasty


def high_water_in_another_transaction() -> None:
    from gradhelm_server import recorder

    advance = recorder.Recorder._advance

    def lagging(self: Any, commit: Any, seq: int) -> None:
        stored = getattr(self, "_stored", self.high_water)
        late, self._stored = self.high_water, self.high_water
        self.high_water = stored
        advance(self, commit, late)
        self.high_water = seq

    recorder.Recorder._advance = lagging


def no_crc() -> None:

    from gradhelm import spool

    def trusting(data: bytes, at: int) -> Any:
        begin = at + spool._SIZE
        if begin > len(data):
            return None
        _, length, kind, number = spool._HEAD.unpack_from(data, at + spool._MARK)
        if begin + length > len(data) or kind not in spool._KINDS:
            return None
        return spool.Entry(spool.Kind(kind), number, data[begin : begin + length])

    spool._entry = trusting


def unbounded_queue() -> None:
    from gradhelm.outbox import Outbox, size

    def hoard(self: Any, frame: Any) -> None:
        self._waiting.append(frame)
        self._size += size(frame)

    Outbox.put = hoard


def blocking_send() -> None:
    from gradhelm.recorder import Recorder

    put = Recorder._put

    def waiting(self: Any, entry: Any) -> None:
        while len(self) >= self.capacity:
            time.sleep(0.001)
        put(self, entry)

    Recorder._put = waiting


def silent_drop() -> None:
    from gradhelm.outbox import Outbox, size
    from gradhelm.wire import Frame

    def forget(self: Any, reason: str) -> None:
        oldest = self._waiting.popleft()
        if isinstance(oldest, Frame):
            self._size -= size(oldest)

    Outbox._give_way = forget


def no_fencing() -> None:
    from gradhelm import wire
    from gradhelm_server.ingest import TrainerConnection

    end = TrainerConnection.tell_end

    def lenient(self: Any, code: Any) -> None:
        if code is not wire.CloseCode.REPLACED:
            end(self, code)

    TrainerConnection.replaced = property(lambda self: False, lambda self, value: None)
    TrainerConnection.tell_end = lenient


def exception_escapes() -> None:
    from gradhelm.notice import Notices

    def raising(self: Any, where: str, error: Exception) -> None:
        raise error

    Notices.fault = raising


class Defect(NamedTuple):
    """How it is put in, and the tests that are run for it."""

    put_in: Callable[[], None]
    tests: str


DEFECTS: dict[str, Defect] = {
    "ack before commit": Defect(ack_before_commit, "tests/server/test_ingest.py"),
    "no dedupe": Defect(no_dedupe, "tests/server/test_ingest.py"),
    "trim before ack": Defect(trim_before_ack, "tests/hook/test_shelf.py"),
    "high-water mark in another transaction": Defect(
        high_water_in_another_transaction, "tests/server/test_ingest.py"
    ),
    "no CRC": Defect(no_crc, "tests/hook/test_spool.py"),
    "unbounded queue": Defect(unbounded_queue, "tests/hook/test_outbox.py"),
    "blocking send": Defect(
        blocking_send,
        "tests/hook/test_faults.py::test_a_sender_that_is_stuck_does_not_stop_a_step",
    ),
    "silent drop": Defect(silent_drop, "tests/hook/test_outbox.py"),
    "no fencing": Defect(no_fencing, "tests/server/test_ingest.py"),
    "exception escapes the hook": Defect(exception_escapes, "tests/hook/test_faults.py"),
}


def pytest_configure() -> None:
    name = os.environ.get(VARIABLE)
    if name is not None:
        DEFECTS[name].put_in()


def attempt(name: str) -> list[str]:
    """The tests that fail with the defect in: none if the suite does not see it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "chaos.defects", *OPTIONS, DEFECTS[name].tests],
        cwd=ROOT,
        env={**os.environ, VARIABLE: name, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?::(\w+)", done.stdout, re.MULTILINE)
    assert bool(failed) == (done.returncode != 0), done.stdout + done.stderr
    return sorted(set(failed))


def main() -> int:
    missed = 0
    for name in DEFECTS:
        failed = attempt(name)
        missed += not failed
        print(f"{name:<42} {'red: ' + ', '.join(failed) if failed else 'NOT SEEN'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
