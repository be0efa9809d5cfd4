"""What the hook tells the user: a few lines through the ``gradhelm`` logger, each cause once.

Law: nothing here raises into the training loop. Where a program has set logging up, its handlers
decide; where it has not, the lines go to stderr.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from . import redact

logger: Final = logging.getLogger("gradhelm")

strict = False
"""Whether faults of our own are raised instead of told. The project's tests turn it on."""


class _Stderr(logging.Handler):
    """Speaks only while nobody configured logging, like ``logging.lastResort`` but from INFO on."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers or sys.stderr is None:
            return
        try:
            sys.stderr.write(f"gradhelm: {self.format(record)}\n")
        except (OSError, ValueError):
            return  # stderr is closed: there is nobody to tell


def speak() -> None:
    """Makes INFO lines visible unless the program decided otherwise. Idempotent."""
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


class Notices:
    """Warnings of one run: the first of each cause is told, all are counted."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def warn(self, cause: str, text: str) -> None:
        """Tells ``text`` unless ``cause`` was told before."""
        self.counts[cause] = self.counts.get(cause, 0) + 1
        if self.counts[cause] == 1:
            logger.warning("%s", redact.harmless(text))

    def fault(self, where: str, error: Exception) -> None:
        """A fault of our own, met while ``where``: training goes on without this piece of news."""
        if strict:
            raise error
        self.warn(
            f"{where}: {type(error).__name__}",
            f"a fault of gradhelm's own while {where} ({type(error).__name__}: {error}); "
            "training goes on, clipped as before, but less is reported",
        )

    @contextmanager
    def guard(self, where: str) -> Iterator[None]:
        """What is done in it may fail by a fault of our own; what comes after is done all the same."""
        try:
            yield
        except Exception as error:
            self.fault(where, error)

    def forget(self, cause: str) -> bool:
        """Lets ``cause`` be told again (it had passed); whether it had been told."""
        return self.counts.pop(cause, 0) > 0
