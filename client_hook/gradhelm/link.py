"""The link: the one thread that talks to the server.

Law: whatever happens to the network, training is not slowed and the end of the process is not held
up beyond the drain limit. The thread polls the ring, since waking it would cost the training thread
a system call each step.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
import sys
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from . import wire
from .cargo import Cargo, declared
from .errors import WireError
from .notice import Notices, logger
from .outbox import Outbox
from .settings import is_loopback

SLICE: Final = 0.1
"""Seconds after which a waiting thread looks up: for the end of the run and for the next flush."""
BEAT: Final = 5.0
"""Seconds between heartbeats."""
OPEN_LIMIT: Final = 5.0
"""Seconds for the connection to open, and then for the welcome."""
SILENCE_LIMIT: Final = 10.0
"""Seconds without a pong, or stuck in a send, after which a connection counts as dead."""
FIRST_DELAY: Final = 0.25
LAST_DELAY: Final = 15.0
REFUSED_DELAY: Final = 30.0
"""Seconds before the next try when the server did not like the token."""
GOODBYE: Final = 1.0
"""Seconds of the drain limit that are kept for saying how the run ended."""
BURST: Final = 8
"""Records sent at a stretch, so that a change never waits behind a whole backlog."""


class _Over(Exception):
    """There is nothing left to say, or nobody left to say it to."""


class _Again(Exception):
    """This connection is of no more use; open another at once."""


class Link:
    """Carries ``cargo`` to ``server`` and brings changes back, until :meth:`finish`."""

    def __init__(
        self, server: str, token: str, hello: wire.Hello, cargo: Cargo, notices: Notices
    ) -> None:
        self.server = server
        self.outbox = Outbox()
        self.connected = False
        self._token = token
        self._hello = hello
        self._cargo = cargo
        self._notices = notices
        self._pace = 1.0
        self._window = 1
        self._next_flush = 0.0
        self._next_beat = 0.0
        self._reached = False
        # Whether this connection got anything stored: one that did not is no sign of health.
        self._stored = False
        self._over = False
        self._finish: wire.Finish | None = None
        self._finish_sent = False
        self._finish_stored = False
        self._deadline = 0.0
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gradhelm-link", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def finish(self, end: wire.Finish, limit: float) -> bool:
        """Delivers what is left and says ``end``, within ``limit`` seconds; whether it was stored.

        A server that was never reached gets one more try, not the whole time.
        """
        self._deadline = time.monotonic() + limit
        self._finish = end
        self._hurry.set()
        self._thread.join(limit + 2 * SLICE)
        return self._finish_stored

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            last_try = self._finish is not None
            at_least = self._connection()
            self.connected = False
            if self._stored:
                self._stored, delay = False, FIRST_DELAY
            ending = self._finish is not None
            if (
                self._over
                or (last_try and not self._reached)
                or (ending and time.monotonic() >= self._deadline)
            ):
                return
            self._rest(max(at_least, delay * random.uniform(0.5, 1.0)))
            delay = min(2 * delay, LAST_DELAY)

    def _connection(self) -> float:
        """One connection, from its opening to its end; seconds to wait at least before the next."""
        try:
            with connect(
                ingest_url(self.server), **options(self.server, self._token)
            ) as connection:
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _send_limit())
                self._converse(connection)
        except _Over:
            self._over = True
        except _Again:
            return 0.0
        except ConnectionClosed as closed:
            return self._closed(closed)
        except InvalidStatus as refusal:
            return self._turned_away(refusal.response.status_code)
        except (OSError, InvalidHandshake, EOFError, WireError) as error:
            self._unreachable(error)
        except Exception as error:
            self._notices.fault("sending", error)
        return 0.0

    def _rest(self, seconds: float) -> None:
        """Waits before the next try; the ring goes on being emptied meanwhile."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._cargo.load(self.outbox)
            if self._finish is not None:  # no more patience, but no busy loop either
                time.sleep(min(SLICE, until - now))
                return
            self._hurry.wait(min(until - now, self._pace))

    def _converse(self, connection: ClientConnection) -> None:
        self._greet(connection)
        declared: set[int] = set()
        while True:
            now = time.monotonic()
            # Read once: an end that comes after the ring was emptied has rows that are still in it.
            finish = self._finish
            if now >= self._next_flush or finish is not None:
                self._cargo.load(self.outbox, over=finish is not None)
                self._next_flush = now + self._pace
            self._answer(connection)
            opened = self._cargo.scalars.groups
            for number in [number for number in opened if number not in declared]:
                self._declare(connection, number, opened[number])
                declared.add(number)
            more = self._send(connection)
            if now >= self._next_beat:
                connection.send(wire.encode(wire.Heartbeat(*self._cargo.beat())))
                self._next_beat = now + BEAT
            if finish is not None and not self._finish_sent:
                self._say_finish(connection, finish, now)
            self._listen(connection, 0.0 if more else self._patience())

    def _greet(self, connection: ClientConnection) -> None:
        """Says who is here and which columns there are, and waits for the welcome."""
        cargo = self._cargo
        hello = msgspec.structs.replace(self._hello, version=cargo.steering.version)
        connection.send(wire.encode(hello))
        for lane in cargo.lanes:
            for group in lane.groups:
                columns = tuple(lane.columns[group.start : group.stop])
                self._declare(connection, group.number, columns, lane.stream)
        welcome = wire.decode_from_server(binary(connection.recv(OPEN_LIMIT)))
        if not isinstance(welcome, wire.Welcome):
            raise WireError(f"expected a welcome, not {type(welcome).__name__}")
        # Whoever was welcomed once continues its run, whatever happens to the connection.
        self._hello = msgspec.structs.replace(self._hello, resume=True)
        if welcome.high_water < self.outbox.acked:
            # The server was set back to an older state. A new segment begins, so that its numbers
            # cannot be mistaken for those given out before.
            self.outbox.renumber()
            self._hello = msgspec.structs.replace(self._hello, segment=new_segment())
            raise _Again
        if welcome.high_water > self.outbox.acked:
            self._thrives()
        self.outbox.resume(welcome.high_water)
        cargo.steering.repeat()
        self._window = welcome.window
        self._pace = welcome.pace_ms / 1000
        self._next_flush = self._next_beat = 0.0
        self._finish_sent = False
        self._reached = self.connected = True

    def _declare(
        self,
        connection: ClientConnection,
        group: int,
        columns: tuple[wire.Column, ...],
        stream: str | None = None,
    ) -> None:
        for message in declared(group, columns, stream):
            connection.send(wire.encode(message))

    def _answer(self, connection: ClientConnection) -> None:
        """Tells what became of changes; before frames, so that nobody waits for a backlog."""
        answers = self._cargo.steering.answers()
        while answers:
            connection.send(wire.encode(answers[0]))
            answers.popleft()

    def _send(self, connection: ClientConnection) -> bool:
        """Sends a burst of records; whether there are more that may go."""
        for _ in range(BURST):
            record = self.outbox.next(self._window)
            if record is None:
                return False
            connection.send(record)
        return True

    def _say_finish(self, connection: ClientConnection, finish: wire.Finish, now: float) -> None:
        """Ends the run when all is delivered. When time is short, what was not sent is a gap."""
        if now >= self._deadline - GOODBYE:
            self.outbox.abandon("the process ended")
            # One record more than the window, if need be: the gap has to get through.
            while (record := self.outbox.next(self._window + 1)) is not None:
                connection.send(record)
        elif len(self.outbox):
            return
        connection.send(wire.encode(wire.Heartbeat(*self._cargo.beat())))
        connection.send(wire.encode(finish))
        self._finish_sent = True

    def _patience(self) -> float:
        """Seconds to listen before there is something to do again."""
        if self._cargo.steering.waiting:
            return 0.01  # somebody waits for the answer of the next step boundary
        return max(0.0, min(SLICE, self._next_flush - time.monotonic()))

    def _listen(self, connection: ClientConnection, patience: float) -> None:
        while True:
            try:
                data = binary(connection.recv(patience))
                message = wire.decode_from_server(data)
            except TimeoutError:
                break
            except WireError as error:  # a newer server may say more than we understand
                self._notices.warn("unread message", f"a message was passed over: {error}")
                continue
            self._handle(connection, message)
            patience = 0.0
        if self._finish is not None and time.monotonic() >= self._deadline:
            raise _Over

    def _handle(self, connection: ClientConnection, message: wire.ToTrainer) -> None:
        match message:
            case wire.Ack(seq=seq):
                self.outbox.ack(seq)
                self._thrives()
            case wire.Change():
                answer = self._cargo.steering.receive(message)
                if answer is not None:
                    connection.send(wire.encode(answer))
            case wire.Pace(ms=ms):
                self._pace = ms / 1000
                self._next_flush = min(self._next_flush, time.monotonic() + self._pace)
            case wire.Resend(seq=seq):
                self.outbox.rewind(seq)
            case wire.Refused(reason=reason):
                self._notices.warn("refused", f"the server did not take a message: {reason}")
            case wire.Finished():
                self._finish_stored = self._finish_sent
                raise _Over
            case wire.Welcome(window=window):
                self._window = window

    def _thrives(self) -> None:
        """The server stores what it is sent."""
        self._stored = True
        if self._notices.forget("unreachable"):
            logger.info("%s is back; what was kept is being sent", self.server)

    # -- what went wrong --------------------------------------------------------------------------

    def _closed(self, closed: ConnectionClosed) -> float:
        code = closed.rcvd.code if closed.rcvd is not None else None
        if code in wire.FINAL_CLOSES:
            self._over = True
            reason = wire.CLOSE_REASONS[wire.CloseCode(code)]
            self._notices.warn("over", f"{self.server}: {reason}; training goes on, unwatched")
            return 0.0
        if code == wire.CloseCode.UNAUTHORIZED:
            return self._turned_away(401)
        reasons = {int(known): reason for known, reason in wire.CLOSE_REASONS.items()}
        self._unreachable(ConnectionError(reasons[code]) if code in reasons else closed)
        return 0.0

    def _turned_away(self, status: int) -> float:
        if status not in (401, 403):
            self._unreachable(OSError(f"HTTP status {status}"))
            return 0.0
        self._notices.warn(
            "token",
            f"{self.server} refused the token (set GRADHELM_TOKEN, or attach(token=...)); "
            "training goes on, unwatched",
        )
        return REFUSED_DELAY

    def _unreachable(self, error: Exception) -> None:
        self._notices.warn(
            "unreachable",
            f"cannot reach {self.server} ({error}); training goes on, "
            f"what is measured is kept up to {self.outbox.budget // 2**20} MB",
        )


def ingest_url(server: str) -> str:
    """The WebSocket URL for trainers on ``server`` (an http or https URL, with or without path)."""
    parts = urlsplit(server)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + wire.INGEST_PATH, "", ""))


def options(server: str, token: str) -> dict[str, Any]:
    """How a trainer's connection to ``server`` is opened."""
    found: dict[str, Any] = {
        "subprotocols": [Subprotocol(wire.SUBPROTOCOL)],
        "compression": None,
        "max_size": wire.MAX_MESSAGE,
        "open_timeout": OPEN_LIMIT,
        "close_timeout": 1.0,
        "ping_interval": BEAT,
        "ping_timeout": SILENCE_LIMIT,
    }
    if token:
        found["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if is_loopback(server):  # a proxy from the environment is not meant for this machine
        found["proxy"] = None
    return found


def new_segment() -> str:
    """A random name for one life of a trainer."""
    return secrets.token_hex(8)


def binary(data: str | bytes) -> bytes:
    """A message as it has to come. Raises WireError for text."""
    if isinstance(data, str):
        raise WireError("a text message; only binary ones are part of the protocol")
    return data


def _send_limit() -> bytes:
    """SILENCE_LIMIT as the socket option wants it: a peer that stopped reading must not hold us."""
    if sys.platform == "win32":
        return struct.pack("<L", int(1000 * SILENCE_LIMIT))
    return struct.pack("@ll", int(SILENCE_LIMIT), 0)
