"""Leftovers: what earlier lives of a run kept on disk, brought to the server beside its training.

Law: as delivery's; and a run that goes on is never held up by what an earlier one left.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from . import spool, wire
from .delivery import Undelivered, deliver
from .errors import SpoolError
from .notice import Notices, logger
from .salvage import DAMAGED

REASON: Final = f"{DAMAGED}, or lost by the server"
"""The numbers may also be those that the server had once, and has forgotten."""


class Leftovers:
    """Those in ``folder`` (None: nothing is kept on disk), for ``server``; in a thread of their own,
    which ends with the process: what it has not delivered is still there."""

    def __init__(self, folder: Path | None, server: str, token: str, notices: Notices) -> None:
        self._folder = folder
        self._server = server
        self._token = token
        self._notices = notices
        self._thread: threading.Thread | None = None

    def deliver(self, hello: wire.Hello) -> None:
        """Starts with all segments of the run of ``hello`` that nobody writes to, if there are any
        and it is not at it already."""
        if self._folder is None or (self._thread is not None and self._thread.is_alive()):
            return
        folder = self._folder / hello.run
        found = [one for one in spool.segments(folder) if not spool.is_written(one)]
        if found:
            self._thread = threading.Thread(
                target=self._all, args=(found,), name="gradhelm-leftovers", daemon=True
            )
            self._thread.start()

    def _all(self, folders: list[Path]) -> None:
        try:
            for folder in folders:
                done = deliver(folder, self._server, self._token, reason=REASON)
                logger.info("%d steps that were kept on disk are delivered", done.steps)
        except (Undelivered, SpoolError) as error:
            self._notices.warn("leftovers", f"{error}; to try again: gradhelm sync {self._folder}")
        except Exception as error:
            self._notices.fault("delivering what was kept", error)
