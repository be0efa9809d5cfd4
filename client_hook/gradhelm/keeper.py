"""The keeper: in place of the link, the one thread of a run that keeps its records on disk.

Law: as the link's. Training is not slowed, and the end of the process is not held up beyond the
drain limit; what finds no room on the disk waits in memory as long as there is room there, and is
then declared missing.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from . import wire
from .cargo import Cargo
from .notice import Notices
from .shelf import Shelf
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
        self.outbox = Shelf(
            lambda: Spool(folder / hello.run / hello.segment), lambda: hello, cargo, notices
        )
        self._cargo = cargo
        self._notices = notices
        self._finish: wire.Finish | None = None
        self._finish_kept = False
        self._faulty = False
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

    def forget(self) -> None:
        """In a forked child: nothing of this is the child's."""
        self.outbox.spool.forget()

    def _run(self) -> None:
        while True:
            # Read once: an end that comes after the ring was emptied has rows that are still in it.
            finish = self._finish
            try:
                self._cargo.load(self.outbox, over=finish is not None)
                if finish is None:
                    self.outbox.keep()
                else:
                    self._finish_kept = self.outbox.put_away(finish)
            except Exception as error:
                self._notices.fault("keeping", error)
                if finish is not None and not self._faulty:
                    self._faulty = True  # once more: it is the last chance
                    continue
            if finish is not None:
                return
            self._hurry.wait(PACE)
