"""The shelf: an outbox whose records lie on disk until the server has them.

Law: as the outbox's, and more: a record gets its number when it is written to the spool, and what
is in the spool outlives the process. While the disk takes nothing, records wait in memory and go to
the server from there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from .notice import Notices
from .outbox import BUDGET, Outbox, size
from .salvage import DAMAGED, missing_steps
from .spool import Spool
from .wire import Finish, Gap, Hello, encode

if TYPE_CHECKING:
    from .cargo import Cargo


class Shelf(Outbox):
    """``open_spool`` makes the spool of the segment that ``hello`` speaks for now; what ``cargo``
    declares is kept before the records that need it.

    Raises SpoolError when nothing can be kept there.
    """

    def __init__(
        self,
        open_spool: Callable[[], Spool],
        hello: Callable[[], Hello],
        cargo: Cargo,
        notices: Notices,
        budget: int = BUDGET,
    ) -> None:
        super().__init__(budget)
        self._open = open_spool
        self._hello = hello
        self._cargo = cargo
        self._notices = notices
        self.spool = open_spool()
        self._introduced = False
        self._groups_told = 0

    def keep(self) -> bool:
        """Writes all that is not on disk yet; whether all of it found room."""
        if not self._introduce():
            return self._full()
        # Those that went to the server from memory come first: numbers go up in a spool.
        for number, sent in list(self._flight.items()):
            if not self.spool.put(number, encode(sent)):
                return self._full()
            self._size -= size(self._flight.pop(number))
        while (record := self._oldest()) is not None:
            if not self.spool.put(self._next, encode(record)):
                return self._full()
            self._take()
            self._size -= size(record)
        if self._notices.forget("spool"):
            self._notices.warn("spool again", f"{self.spool.folder}: there is room again")
        return True

    def next(self, window: int) -> bytes | None:
        if self._cursor == self._next or self._cursor in self._flight:
            return super().next(window)  # not on disk: there was no room
        if self.in_flight >= window:
            return None
        number = self._cursor
        self._cursor += 1
        self.frames_sent += 1
        data = self.spool.get(number)
        if data is None:
            first, last = missing_steps(self.spool.folder, number, number)
            data = encode(Gap(number, first, last, 1, DAMAGED))
        return data

    def ack(self, seq: int) -> None:
        super().ack(seq)
        self.spool.trim(self.acked)

    def renumber(self) -> None:
        """A new segment begins. What the old one has kept stays where it is, to be replayed."""
        super().renumber()
        self.spool.end(encode(Finish("finished", None)))  # this segment, not the run
        self.spool.close()
        self.spool = self._open()
        self._introduced = False
        self._groups_told = 0

    def put_away(self, end: Finish | None) -> bool:
        """Nothing comes any more: all there is goes to disk, with ``end``, how the run ended. None:
        the server knows that and has everything, and the spool goes. Whether that was possible."""
        kept = end is None or self._keep_last(end)
        self.spool.close(remove=end is None)
        with suppress(OSError):
            self.spool.folder.parent.rmdir()  # that of the run, if no other segment is in it
        return kept

    def _keep_last(self, end: Finish) -> bool:
        if not self.keep():
            self.abandon("the process ended, and the disk was full")
            if not self.keep():
                return False
        return self.spool.end(encode(end))

    def _introduce(self) -> bool:
        """Keeps what a server has to know before the records."""
        if not self._introduced:
            self._introduced = self.spool.tell(encode(self._hello()))
        groups = self._cargo.groups
        if self._groups_told < groups:
            told = self._cargo.told(self._groups_told)
            if not all(self.spool.tell(encode(message)) for message in told):
                return False
            self._groups_told = groups
        return self._introduced

    def _full(self) -> bool:
        self._notices.warn(
            "spool",
            f"{self.spool.folder}: no room for more records ({self.spool.size / 2**20:.0f} MB are "
            f"kept); training goes on, and what is measured is kept in memory up to "
            f"{self.budget // 2**20} MB",
        )
        return False
