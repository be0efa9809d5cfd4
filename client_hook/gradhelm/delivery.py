"""Delivery: records that were kept on disk, brought to a server (``gradhelm sync``).

Law: a record goes under the number that it was kept under, and its file is removed only when the
server has acknowledged all that is in it. So this may be stopped at any point, repeated, and done
while the run still keeps more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from . import spool, wire
from .errors import SpoolError, WireError
from .link import OPEN_LIMIT, binary, ingest_url, options
from .spool import Damage, Kind

PATIENCE: Final = 60.0
"""Seconds without an acknowledgement after which the server counts as stuck."""
REPORT: Final = 1.0
"""Seconds between two reports of progress."""


class Undelivered(Exception):
    """The server could not be reached, or did not take it; what was kept is kept. The text says
    why."""


@dataclass
class Delivered:
    """What was done about one segment. ``records`` were sent and stored now, ``before`` were stored
    already; ``missing`` could not be read. ``ended``: the run's end is delivered too, and nothing is
    left here. ``going_on``: the run is still keeping more."""

    run: str
    name: str
    before: int = 0
    records: int = 0
    steps: int = 0
    missing: int = 0
    ended: bool = False
    going_on: bool = False


def deliver(
    folder: Path,
    server: str,
    token: str,
    told: Callable[[Delivered], None] = lambda _: None,
) -> Delivered:
    """Bring what is kept in ``folder``, that of one segment, to ``server``; ``told`` hears how it
    goes about once a second.

    Raises Undelivered, and SpoolError when there is nothing that could be delivered.
    """
    hello, columns = _introduction(folder)
    done = Delivered(hello.run, hello.name, going_on=spool.is_written(folder))
    try:
        with connect(ingest_url(server), **options(server, token)) as connection:
            _Delivery(folder, connection, done, told).carry(hello, columns)
    except InvalidStatus as refusal:
        status = refusal.response.status_code
        if status in (401, 403):
            raise Undelivered(f"{server} refused the token: set GRADHELM_TOKEN") from None
        raise Undelivered(f"{server} answered with HTTP status {status}") from None
    except ConnectionClosed as closed:
        raise Undelivered(f"{server} closed the connection: {_reason(closed)}") from None
    except TimeoutError:
        raise Undelivered(f"{server} did not answer in time") from None
    except (OSError, InvalidHandshake, EOFError, WireError) as error:
        raise Undelivered(f"cannot reach {server}: {error}") from None
    return done


class _Delivery:
    """One connection that carries one segment."""

    def __init__(
        self,
        folder: Path,
        connection: ClientConnection,
        done: Delivered,
        told: Callable[[Delivered], None],
    ) -> None:
        self._folder = folder
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
        for message in _numbered(self._folder, self._acked, self._done):
            if isinstance(message, wire.Finish):
                end = message
            elif isinstance(message, wire.Columns):
                self._send(message)
            else:
                self._record(message)
        while self._acked < self._sent:
            self._hear()
        if end is not None and not self._done.going_on:
            self._send(end)
            while not self._done.ended:
                self._hear()
            spool.discard(self._folder)
        else:
            spool.discard(self._folder, through=self._acked)

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


def _introduction(folder: Path) -> tuple[wire.Hello, list[wire.Columns]]:
    """Who kept this and which columns there are, from the oldest file that says so."""
    hello: wire.Hello | None = None
    columns: list[wire.Columns] = []
    for entry in spool.read(folder):
        if isinstance(entry, Damage):
            continue
        if entry.kind is Kind.TOLD:
            message = _decoded(entry.data)
            if isinstance(message, wire.Hello):
                hello = hello or message
            elif isinstance(message, wire.Columns) and message not in columns:
                columns.append(message)
        elif hello is not None and columns:
            return hello, columns
    if hello is None:
        raise SpoolError(f"{folder} does not say whose records these are")
    return hello, columns


def _numbered(
    folder: Path, above: int, done: Delivered
) -> Iterator[wire.Frame | wire.Gap | wire.Columns | wire.Finish]:
    """What is kept, from the number ``above`` on without holes: what cannot be read is declared."""
    expected = above + 1
    for entry in spool.read(folder):
        if isinstance(entry, Damage):
            continue  # what it held is missing from the numbers
        message = _decoded(entry.data)
        if not isinstance(message, wire.Frame | wire.Gap):
            if isinstance(message, wire.Columns | wire.Finish):
                yield message
            continue
        if message.seq < expected:
            continue
        if message.seq > expected:
            yield from _lost(folder, expected, message.seq - 1)
            done.missing += message.seq - expected
        yield message
        expected = message.seq + 1


def _lost(folder: Path, begin: int, end: int) -> Iterator[wire.Gap]:
    """The numbers ``begin``..``end``: the first says which steps are missing, the others nothing."""
    first, last = _missing_steps(folder, begin, end)
    for number in range(begin, end + 1):
        count = last - first + 1 if number == begin else 0
        yield wire.Gap(number, first, last, count, "kept on disk and damaged there")


def _missing_steps(folder: Path, begin: int, end: int) -> tuple[int, int]:
    """Between which steps something of these numbers was: the widest hole in the steps of a group."""
    before: dict[int, int] = {}
    after: dict[int, int] = {}
    for entry in spool.read(folder):
        message = None if isinstance(entry, Damage) else _decoded(entry.data)
        if isinstance(message, wire.Frame):
            if message.seq < begin:
                before[message.group] = int.from_bytes(message.steps[-8:], "little")
            elif message.seq > end:
                after.setdefault(message.group, int.from_bytes(message.steps[:8], "little"))
    holes = [(before.get(group, -1) + 1, step - 1) for group, step in after.items()]
    first, last = max(holes, key=lambda hole: hole[1] - hole[0], default=(0, -1))
    return (first, last) if last >= first else (first, first)


def _decoded(data: bytes) -> wire.ToServer | None:
    """None for what another release has kept and this one cannot read."""
    try:
        return wire.decode_from_trainer(data)
    except WireError:
        return None


def _reason(closed: ConnectionClosed) -> str:
    if closed.rcvd is None:
        return "without a word"
    return closed.rcvd.reason or f"code {closed.rcvd.code}"
