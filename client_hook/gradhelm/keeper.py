"""The keeper: in place of the link, the one thread of a run that keeps its records on disk.

Law: as the link's. Training is not slowed, and the end of the process is not held up beyond the
drain limit; what finds no room on the disk waits in memory as long as there is room there, and is
then declared missing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import wire
from .cargo import Cargo, declared
from .notice import Notices
from .outbox import Outbox
from .spool import Spool

PACE: Final = 1.0
"""Seconds between two looks at what there is to keep."""
AFTERWARDS: Final = 0.2
"""Seconds beyond its limit that the end waits for the thread."""


class Keeper:
    """Carries ``cargo`` to the folder of the segment in ``hello``, until :meth:`finish`.

    Raises SpoolError when nothing can be kept there.
    """

    connected = False

    def __init__(self, folder: Path, hello: wire.Hello, cargo: Cargo, notices: Notices) -> None:
        self.outbox = Outbox()
        self._spool = Spool(folder / hello.run / hello.segment)
        self._hello = hello
        self._cargo = cargo
        self._notices = notices
        self._finish: wire.Finish | None = None
        self._finish_kept = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gradhelm-keeper", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def finish(self, end: wire.Finish, limit: float) -> bool:
        """Keeps what is left and ``end``, within ``limit`` seconds; whether all that was."""
        self._finish = end
        self._hurry.set()
        self._thread.join(limit + AFTERWARDS)
        return self._finish_kept

    def _run(self) -> None:
        while True:
            # Read once: an end that comes after the ring was emptied has rows that are still in it.
            finish = self._finish
            try:
                self._cargo.load(self.outbox, over=finish is not None)
                kept = self._keep()
                if finish is not None:
                    if not kept:
                        self.outbox.abandon("the process ended, and the disk was full")
                        kept = self._keep()
                    self._finish_kept = kept and self._spool.end(wire.encode(finish))
                    self._spool.close()
            except Exception as error:
                self._notices.fault("keeping", error)
            if finish is not None:
                return
            self._hurry.wait(PACE)

    def _keep(self) -> bool:
        """Everything that is there, to disk; whether it found room."""
        for message in self._told():
            if not self._spool.tell(wire.encode(message)):
                return self._full()
        while (record := self.outbox.next(1)) is not None:
            number = self.outbox.acked + 1
            if not self._spool.put(number, record):
                self.outbox.rewind(number)
                return self._full()
            self.outbox.ack(number)
        if self._notices.forget("spool"):
            self._notices.warn("spool again", f"{self._spool.folder}: there is room again")
        return True

    def _told(self) -> Iterator[wire.Hello | wire.Columns]:
        """What a server has to know before the records."""
        yield self._hello
        for lane in self._cargo.lanes:
            for group in lane.groups:
                columns = tuple(lane.columns[group.start : group.stop])
                yield from declared(group.number, columns, lane.stream)
        for number, columns in self._cargo.scalars.groups.items():
            yield from declared(number, columns)

    def _full(self) -> bool:
        self._notices.warn(
            "spool",
            f"{self._spool.folder}: no room for more records ({self._spool.size / 2**20:.0f} MB are "
            f"kept); training goes on, and what is measured is kept in memory up to "
            f"{self.outbox.budget // 2**20} MB",
        )
        return False
