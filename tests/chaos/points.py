"""Points at which a process dies: before or after the n-th call of a function, as by kill -9."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple


class Point(NamedTuple):
    """``where``: ``module:function`` or ``module:Class.method``. ``when``: before or after it."""

    where: str
    when: str = "before"
    call: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.where}, call {self.call}"

    @property
    def needs_leftovers(self) -> bool:
        """Whether it is only met when an earlier life left something on disk."""
        return self.where.startswith(
            ("gradhelm.delivery:", "gradhelm.spool:discard", "gradhelm_server.lost:")
        )

    def arm(self) -> None:
        """From here on this process dies there."""
        module, _, path = self.where.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, self._deadly(getattr(owner, name)))

    def _deadly(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = itertools.count(1)

        @wraps(function)
        def deadly(*given: Any, **named: Any) -> Any:
            last = next(calls) == self.call
            if last and self.when == "before":
                die()
            result = function(*given, **named)
            if last:
                die()
            return result

        return deadly


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


TRAINER = [
    Point("gradhelm.cargo:Cargo.load", "after", 3),
    Point("gradhelm.cargo:_put", "before", 4),
    Point("gradhelm.link:Link._greet", "before"),
    Point("gradhelm.link:Link._greet", "after"),
    Point("gradhelm.link:Link._declare", "after", 2),
    Point("gradhelm.outbox:Outbox.ack", "before", 3),
    Point("gradhelm.outbox:Outbox.ack", "after", 3),
    Point("websockets.sync.client:ClientConnection.send", "before", 7),
    Point("websockets.sync.client:ClientConnection.send", "after", 7),
]
SPOOLING = [
    Point("gradhelm.shelf:Shelf.keep", "before", 3),
    Point("gradhelm.shelf:Shelf.keep", "after", 3),
    Point("gradhelm.shelf:Shelf.next", "after", 4),
    Point("gradhelm.spool:Spool.tell", "after", 1),
    Point("gradhelm.spool:Spool.tell", "before", 3),
    Point("gradhelm.spool:Spool._write", "before", 5),
    Point("gradhelm.spool:Spool._write", "after", 5),
    Point("gradhelm.spool:Spool._begin", "after", 2),
    Point("gradhelm.spool:Spool.trim", "before", 4),
    Point("gradhelm.spool:Spool.trim", "after", 4),
    Point("gradhelm.delivery:_Delivery._welcomed", "after"),
    Point("gradhelm.delivery:_Delivery._record", "after", 2),
    Point("gradhelm.delivery:_Delivery._hear", "after", 1),
    Point("gradhelm.spool:discard", "before"),
    Point("gradhelm.spool:discard", "after"),
]
SERVER = [
    Point("gradhelm_server.runs:begin", "before"),
    Point("gradhelm_server.runs:begin", "after"),
    Point("gradhelm_server.ingest:TrainerConnection._take", "after", 6),
    Point("gradhelm_server.recorder:Recorder.declare", "after", 2),
    Point("gradhelm_server.recorder:Recorder.append", "before", 3),
    Point("gradhelm_server.recorder:Recorder.append", "after", 3),
    Point("gradhelm_server.store:Commit.finish", "before", 8),
    Point("gradhelm_server.store:Commit.finish", "after", 8),
    Point("gradhelm_server.ingest:TrainerConnection._recorded", "before", 3),
    Point("gradhelm_server.ingest:TrainerConnection._recorded", "after", 3),
    Point("gradhelm_server.compactor:_tile", "after", 2),
    Point("gradhelm_server.compactor:_Made.put", "before"),
    Point("gradhelm_server.compactor:_Made.put", "after"),
    Point("gradhelm_server.lost:declare", "after"),
    Point("gradhelm_server.lost:withdraw", "after"),
]
