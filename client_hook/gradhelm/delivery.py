"""Delivery: records that were kept on disk, brought to a server (``gradhelm sync``).

Law: a record goes under the number that it was kept under, and its file is removed only when the
server has acknowledged all that is in it. So this may be stopped at any point, repeated, and done
while the run still keeps more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from . import redact, spool, wire
from .address import unreached
from .dial import OPEN_LIMIT, binary, ingest_url, options
from .errors import WireError
from .salvage import DAMAGED, introduction, numbered

PATIENCE: Final = 60.0
"""Seconds without an acknowledgement after which the server counts as stuck."""
REPORT: Final = 1.0
"""Seconds between two reports of progress."""

LOST: Final = wire.Finish("failed", None, "the process was lost", lost=True)
"""What is said of a run whose process kept no end of it."""


class Undelivered(Exception):
    """The server could not be reached, or did not take it; what was kept is kept. The text says
    why."""


@dataclass
class Delivered:
    """What was done about one segment. ``records`` were sent and stored now, ``before`` were stored
    already; ``missing`` could not be read. ``ended``: nothing is left here. ``lost``: the process did
    not say how it ended. ``going_on``: the run is still keeping more."""

    run: str
    name: str
    before: int = 0
    records: int = 0
    steps: int = 0
    missing: int = 0
    ended: bool = False
    lost: bool = False
    going_on: bool = False


def deliver(
    folder: Path,
    server: str,
    token: str,
    told: Callable[[Delivered], None] = lambda _: None,
    reason: str = DAMAGED,
) -> Delivered:
    """Bring what is kept in ``folder``, that of one segment, to ``server``; ``told`` hears how it
    goes about once a second. ``reason``: why numbers that the server awaits may not be there.

    Raises Undelivered, and SpoolError when there is nothing that could be delivered.
    """
    hello, columns = introduction(folder)
    done = Delivered(hello.run, hello.name, going_on=spool.is_written(folder))
    try:
        with connect(ingest_url(server), **options(server, token)) as connection:
            _Delivery(folder, connection, done, told, reason).carry(hello, columns)
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        if status in (401, 403):
            raise Undelivered(f"{server} refused the token: set GRADHELM_TOKEN") from None
        raise Undelivered(f"{server} answered with HTTP status {status}") from None
    except ConnectionClosed as closed:
        raise Undelivered(f"{server} closed the connection: {_reason(closed)}") from None
    except TimeoutError:
        raise Undelivered(f"{server} did not answer in time") from None
    except (OSError, WebSocketException, EOFError, WireError) as error:
        raise Undelivered(f"cannot reach {server}: {unreached(error)}") from None
    return done


class _Delivery:
    """One connection that carries one segment."""

    def __init__(
        self,
        folder: Path,
        connection: ClientConnection,
        done: Delivered,
        told: Callable[[Delivered], None],
        reason: str,
    ) -> None:
        self._folder = folder
        self._reason = reason
        self._connection = connection
        self._done = done
        self._told = told
        self._tell_at = time.monotonic() + REPORT
        self._window = 1
        self._acked = 0
        self._sent = 0

    def carry(self, hello: wire.Hello, columns: list[wire.Columns]) -> None:
        hello = msgspec.structs.replace(hello, resume=True)
        self._send(wire.Replay(hello))
        for declaration in columns:
            self._send(declaration)
        self._welcomed()
        end: wire.Finish | None = None
        growing = self._done.going_on
        for message in numbered(self._folder, self._acked, self._reason, growing=growing):
            if isinstance(message, wire.Finish):
                end = message
            elif isinstance(message, wire.Columns):
                self._send(message)
            else:
                self._record(message)
        while self._acked < self._sent:
            self._hear()
        if growing:
            spool.discard(self._folder, through=self._acked)
            return
        self._done.lost = end is None
        self._send(end or LOST)
        while not self._done.ended:
            self._hear()
        spool.discard(self._folder)

    def _welcomed(self) -> None:
        message = wire.decode_from_server(binary(self._connection.recv(OPEN_LIMIT)))
        if not isinstance(message, wire.Welcome):
            raise WireError(f"expected a welcome, not {type(message).__name__}")
        self._window = message.window
        self._acked = self._sent = self._done.before = message.high_water

    def _record(self, record: wire.Frame | wire.Gap) -> None:
        while self._sent - self._acked >= self._window:
            self._hear()
        self._send(record)
        self._sent = record.seq
        self._done.missing += isinstance(record, wire.Gap) and record.reason == self._reason
        self._done.steps += len(record.steps) // 8 if isinstance(record, wire.Frame) else 0

    def _send(self, message: wire.ToServer) -> None:
        self._connection.send(wire.encode(message))

    def _hear(self) -> None:
        """One message of the server, and what follows from it."""
        match wire.decode_from_server(binary(self._connection.recv(PATIENCE))):
            case wire.Ack(seq=seq):
                self._done.records += max(0, seq - self._acked)
                self._acked = max(self._acked, seq)
            case wire.Finished():
                self._done.ended = True
            case wire.Resend(seq=seq):
                raise WireError(f"the server misses record {seq}, which was sent or stored before")
            case _:
                pass  # a refused record is declared missing by the server; the pace is our own
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + REPORT
            self._told(self._done)


def _reason(closed: ConnectionClosed) -> str:
    if closed.rcvd is None:
        return "without a word"
    return redact.harmless(closed.rcvd.reason) or f"code {closed.rcvd.code}"
