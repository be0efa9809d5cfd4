"""The link: the one thread that talks to the server.

Law: whatever happens to the network, training is not slowed and the end of the process is not held
up beyond the drain limit. The thread polls the ring, since waking it would cost the training thread
a system call each step. With a spool, everything is on disk before it is sent, and stays there until
the server has it: it outlives the process, and is not bounded by memory.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from . import dial, wire
from .address import unreached
from .cargo import Cargo
from .dial import BEAT, OPEN_LIMIT, binary, ingest_url, limit_sends, new_segment, options
from .errors import SpoolError, WireError
from .leftovers import Leftovers
from .notice import Notices, logger
from .outbox import Outbox
from .shelf import Shelf
from .spool import Spool

SLICE: Final = 0.1
"""Seconds after which a waiting thread looks up: for the end of the run and for the next flush."""
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
    """Carries ``cargo`` to ``server`` and brings changes back, until :meth:`finish`.

    spool: the folder where records are kept on disk until they are stored; None: in memory.
    """

    def __init__(
        self,
        server: str,
        token: str,
        hello: wire.Hello,
        spool: Path | None,
        cargo: Cargo,
        notices: Notices,
    ) -> None:
        self.server = server
        self.connected = False
        self._token = token
        self._hello = hello
        self._cargo = cargo
        self._notices = notices
        self._shelf = None if spool is None else self._opened(spool)
        self.outbox = Outbox() if self._shelf is None else self._shelf
        self._leftovers = Leftovers(spool, server, token, notices)
        # Whoever fills or empties the outbox: the thread, and at the end the one that finishes.
        self._mine = threading.RLock()
        self._shut = threading.Event()
        self._pace = 1.0
        self._delay = FIRST_DELAY
        self._window = 1
        self._next_flush = 0.0
        self._next_beat = 0.0
        # When what is in flight is sent again: an answer may have been lost.
        self._patient_until = 0.0
        # Groups of columns that this connection has heard of.
        self._declared = 0
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
        """Starts the thread; with a spool, a second one that no server can hold up."""
        self._thread.start()
        if self._shelf is not None:
            threading.Thread(target=self._keep, name="gradhelm-keeper", daemon=True).start()

    def finish(self, end: wire.Finish, limit: float) -> bool:
        """Delivers what is left and says ``end``, within ``limit`` seconds; whether it was stored,
        or else kept in a spool.

        A server that was never reached gets one more try, not the whole time.
        """
        if self._shelf is not None:
            with self._notices.guard("keeping"):
                self._load(over=True)  # whatever happens now, it is on disk
            if "unreachable" in self._notices.counts:
                limit = min(limit, GOODBYE)
        self._deadline = time.monotonic() + limit
        self._finish = end
        self._hurry.set()
        self._thread.join(limit + 2 * SLICE)
        return self._put_away(self._shelf, end) if self._shelf is not None else self._finish_stored

    def forget(self) -> None:
        """In a forked child: nothing of this is the child's."""
        if self._shelf is not None:
            self._shelf.spool.forget()

    def _put_away(self, shelf: Shelf, end: wire.Finish) -> bool:
        """Closes the spool: with everything delivered there is none any more."""
        with self._mine:
            self._shut.set()
            if self._finish_stored:
                return shelf.put_away(None)
            kept = shelf.put_away(end)
        if kept:
            logger.info(
                "what the server does not have is kept; to bring it there: gradhelm sync %s",
                shelf.spool.folder.parent,
            )
        return kept

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._try():
                    return
            except Exception as error:  # one fault of ours must not be the end of all telling
                self._notices.fault("sending", error)
                if self._finish is not None and time.monotonic() >= self._deadline:
                    return

    def _try(self) -> bool:
        """One connection and the rest after it; whether to go on."""
        last_try = self._finish is not None
        at_least = self._connection()
        self.connected = False
        if self._stored:
            self._stored, self._delay = False, FIRST_DELAY
        ending = self._finish is not None
        if (
            self._over
            or (last_try and not self._reached)
            or (ending and time.monotonic() >= self._deadline)
        ):
            return False
        delay, self._delay = self._delay, min(2 * self._delay, LAST_DELAY)
        # So that trainers do not come back all at once; nothing secret.
        self._rest(max(at_least, delay * random.uniform(0.5, 1.0)))  # nosec B311
        return True

    def _keep(self) -> None:
        """Has everything on disk within a second, whatever the other thread is waiting for."""
        while not self._shut.wait(1.0):
            with self._notices.guard("keeping"):
                self._load()

    def _opened(self, folder: Path) -> Shelf | None:
        """Where nothing can be kept on disk, memory has to do."""
        try:
            return Shelf(
                lambda: Spool(folder / self._hello.run / self._hello.segment),
                lambda: self._hello,
                self._cargo,
                self._notices,
            )
        except SpoolError as error:
            self._notices.warn("no spool", f"{error}; what is measured is kept in memory only")
            return None

    def _load(self, *, over: bool = False) -> None:
        """Takes what the training thread left, and has it on disk where there is a spool."""
        with self._mine:
            self._cargo.load(self.outbox, over=over)
            if self._shelf is not None and not self._shut.is_set():
                self._shelf.keep()

    def _connection(self) -> float:
        """One connection, from its opening to its end; seconds to wait at least before the next."""
        try:
            with connect(
                ingest_url(self.server), **options(self.server, self._token)
            ) as connection:
                limit_sends(connection)
                self._converse(connection)
        except _Over:
            self._over = True
        except _Again:
            return 0.0
        except ConnectionClosed as closed:
            return self._closed(closed)
        except InvalidStatus as refusal:
            return self._turned_away(refusal.response.status_code)
        except (OSError, WebSocketException, EOFError, WireError) as error:
            self._unreachable(error)
        except Exception as error:
            self._notices.fault("sending", error)
        return 0.0

    def _rest(self, seconds: float) -> None:
        """Waits before the next try; the ring goes on being emptied meanwhile."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._load()
            if self._finish is not None:  # no more patience, but no busy loop either
                time.sleep(min(SLICE, until - now))
                return
            self._hurry.wait(min(until - now, self._pace))

    def _converse(self, connection: ClientConnection) -> None:
        self._greet(connection)
        while True:
            now = time.monotonic()
            # Read once: an end that comes after the ring was emptied has rows that are still in it.
            finish = self._finish
            if now >= self._next_flush or finish is not None:
                self._load(over=finish is not None)
                self._next_flush = now + self._pace
            self._answer(connection)
            if not self.outbox.in_flight:
                self._patient_until = now + dial.SILENCE_LIMIT
            elif now >= self._patient_until:
                self.outbox.rewind(self.outbox.acked + 1)
                self._patient_until = now + dial.SILENCE_LIMIT
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
        self._declared = 0
        with self._mine:
            columns = self._undeclared()
        self._declare(connection, columns)
        welcome = wire.decode_from_server(binary(connection.recv(OPEN_LIMIT)))
        if not isinstance(welcome, wire.Welcome):
            raise WireError(f"expected a welcome, not {type(welcome).__name__}")
        # Whoever was welcomed once continues its run, whatever happens to the connection.
        self._hello = msgspec.structs.replace(self._hello, resume=True)
        if welcome.high_water < self.outbox.acked:
            # The server was set back to an older state. A new segment begins, so that its numbers
            # cannot be mistaken for those given out before.
            self._hello = msgspec.structs.replace(self._hello, segment=new_segment())
            with self._mine:
                self.outbox.renumber()
            raise _Again
        if welcome.high_water > self.outbox.acked:
            self._thrives()
        with self._mine:
            self.outbox.resume(welcome.high_water)
        self._leftovers.deliver(self._hello)
        cargo.steering.repeat()
        self._window = welcome.window
        self._pace = welcome.pace_ms / 1000
        self._next_flush = self._next_beat = 0.0
        self._patient_until = time.monotonic() + dial.SILENCE_LIMIT
        self._finish_sent = False
        self._reached = self.connected = True

    def _undeclared(self) -> list[wire.Columns]:
        """The columns that this connection has not heard of; whoever asks declares them."""
        columns = list(self._cargo.told(self._declared))
        self._declared = self._cargo.groups
        return columns

    def _declare(self, connection: ClientConnection, columns: list[wire.Columns]) -> None:
        for message in columns:
            connection.send(wire.encode(message))

    def _answer(self, connection: ClientConnection) -> None:
        """Tells what became of changes; before frames, so that nobody waits for a backlog."""
        answers = self._cargo.steering.answers()
        while answers:
            connection.send(wire.encode(answers[0]))
            answers.popleft()

    def _send(self, connection: ClientConnection) -> bool:
        """Sends a burst of records; whether there are more that may go.

        Groups of scalars that were opened since are declared before the records that may need them.
        """
        for _ in range(BURST):
            with self._mine:
                record = self.outbox.next(self._window)
                new = self._undeclared() if self._declared < self._cargo.groups else []
            if new:
                self._declare(connection, new)
            if record is None:
                return False
            connection.send(record)
        return True

    def _say_finish(self, connection: ClientConnection, finish: wire.Finish, now: float) -> None:
        """Ends the run when all is delivered. When time is short, what was not sent is a gap."""
        if self._shelf is not None and len(self.outbox):
            return  # what is not delivered in time stays on disk, and the end with it
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
                with self._mine:
                    self.outbox.ack(seq)
                self._patient_until = time.monotonic() + dial.SILENCE_LIMIT
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
        budget = self.outbox.budget if self._shelf is None else self._shelf.spool.budget
        where = "" if self._shelf is None else f" in {self._shelf.spool.folder.parent}"
        self._notices.warn(
            "unreachable",
            f"cannot reach {self.server} ({unreached(error)}); training goes on, "
            f"what is measured is kept{where} up to {budget // 2**20} MB",
        )
