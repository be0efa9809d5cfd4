"""The trainers' socket: takes frames, answers when they are stored, and hands over changes.

Law: acknowledge after commit. What arrives while a commit is under way goes into the next one
together and in its order; after each commit viewers are told, and the trainer is answered. A
message that cannot be read is refused by itself and the connection lives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any, Final

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from gradhelm import wire
from gradhelm.errors import WireError

from . import control, lost, runs
from .errors import ApiError
from .events import show_event
from .recorder import Recorded, Recorder
from .roles import Identity
from .state import State, identity_of, state_of
from .store import Commit, OutOfStep

log = logging.getLogger(__name__)
router = APIRouter()
WINDOW = 256
"""Messages of one trainer that may wait for their commit."""
HELD = 8 * 1024 * 1024
"""Bytes of them after which no more is read until a commit is done."""
SLICE = 512 * 1024
"""Bytes of them that are stored at a time: what is urgent waits for no more than that."""
HELLO_WITHIN = 10.0
PATIENCE_WITH_GARBAGE = 16

Record = wire.Frame | wire.Gap
_RECORDS: Final = (wire.Frame, wire.Gap)
Answer = wire.Resend | wire.Ack
_CODES: Final = {403: wire.CloseCode.FORBIDDEN, 409: wire.CloseCode.RUN_IS_TAKEN}
Work = Callable[[Commit], Any]
Outcome = Callable[[Any], None]


@router.websocket(wire.INGEST_PATH)
async def ingest(socket: WebSocket) -> None:
    """Speaks ``gradhelm.v1``; docs/protocol.md shows every message."""
    state = state_of(socket)
    await socket.accept(
        wire.SUBPROTOCOL if wire.SUBPROTOCOL in socket.scope["subprotocols"] else None
    )
    connection = TrainerConnection(socket, state, identity_of(socket))
    try:
        first = await asyncio.wait_for(connection.hello(), HELLO_WITHIN)
        if first is not None:
            await connection.serve(first)
    except TimeoutError:
        await connection.close(wire.CloseCode.BAD_MESSAGE, "no hello came")
    except (WebSocketDisconnect, RuntimeError):
        pass  # gone; what was queued is stored all the same


class TrainerConnection:
    """One trainer's connection from its hello to its end."""

    def __init__(self, socket: WebSocket, state: State, who: Identity) -> None:
        self.socket = socket
        self.state = state
        self.who = who
        self.run = ""
        self.segment = ""
        self.replaced = False
        self.replay = False
        self._recorder: Recorder | None = None
        self._asked: wire.Resend | None = None
        self._ending: wire.CloseCode | None = None
        self._out: asyncio.Queue[wire.ToTrainer | None] = asyncio.Queue()
        self._arrived: asyncio.Queue[tuple[wire.ToServer, float]] = asyncio.Queue(WINDOW)
        self._held = 0
        self._lost = False
        self._settled = asyncio.Event()
        self._deaf = False  # what is told goes nowhere any more
        self._heard = asyncio.Event()

    def tell(self, message: wire.ToTrainer) -> None:
        """Send when possible; the order is kept."""
        self._out.put_nowait(message)

    async def hello(self) -> wire.Hello | wire.Replay | None:
        try:
            message = await self._receive()
        except WireError as error:
            await self.close(wire.CloseCode.BAD_MESSAGE, str(error))
            return None
        if not isinstance(message, wire.Hello | wire.Replay):
            await self.close(wire.CloseCode.BAD_MESSAGE, "the first message must be a hello")
            return None
        hello = message.hello if isinstance(message, wire.Replay) else message
        if hello.protocol != wire.PROTOCOL:
            await self.close(wire.CloseCode.SPEAK_NEWER)
            return None
        if len({*hello.streams}) < len(hello.streams):
            await self.close(wire.CloseCode.BAD_MESSAGE, "the name of a stream stands twice")
            return None
        return message

    async def serve(self, first: wire.Hello | wire.Replay) -> None:
        self.replay = isinstance(first, wire.Replay)
        hello = first.hello if isinstance(first, wire.Replay) else first
        self.run, self.segment = hello.run, hello.segment
        try:
            change = await self._begin(hello)
        except ApiError as error:
            await self.close(_CODES.get(error.status, wire.CloseCode.TRY_LATER), error.message)
            return
        except DBAPIError as error:
            _log_unstored(self.run, error)
            await self.close(wire.CloseCode.TRY_LATER)
            return
        if change.version > hello.version and not self.replay:
            self.tell(change)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                outcomes = tasks.create_task(self._settle())
                await self._listen()
                await self._arrived.join()
                outcomes.cancel()
                self._out.put_nowait(None)
        finally:
            if self.state.hub.trainers.get(self.run) is self:
                del self.state.hub.trainers[self.run]
            if self.replay:
                self.state.hub.replays.discard(self.segment)

    async def _begin(self, hello: wire.Hello) -> wire.Change:
        """Take over the run: whoever spoke for it before is heard no more. A replay only joins."""
        # First, or anybody's hello would end the one who may.
        await self.state.store.read(lambda c: runs.check_reporter(c, hello, self.who))
        trainers = self.state.hub.trainers
        if self.replay:
            self._alone(trainers.get(self.run))
        now = time.time()

        def work(connection: Connection) -> tuple[Recorder, wire.Change, list[dict[str, Any]]]:
            told = runs.begin(connection, hello, self.who, now, replay=self.replay)
            recorder = Recorder.load(connection, hello.run, hello.segment, replay=self.replay)
            return recorder, control.desired(connection, hello.run), told

        try:
            recorder, change, told = await self.state.store.write(work)
        except BaseException:
            if self.replay:
                self.state.hub.replays.discard(self.segment)
            raise
        self._recorder = recorder
        if not self.replay:
            # Only now: one that may not have the run takes it from nobody.
            before = trainers.get(self.run)
            if isinstance(before, TrainerConnection) and before.segment != self.segment:
                before.replaced = True
                before.tell_end(wire.CloseCode.REPLACED)
            trainers[self.run] = self
        self.tell(wire.Welcome(recorder.high_water, WINDOW, self.state.hub.pace(self.run)))
        self.state.hub.changed(self.run)
        self.state.hub.publish_all(self.run, "event", ({"event": show_event(e)} for e in told))
        return change

    def _alone(self, trainer: object) -> None:
        """A segment has one writer. Raises ApiError 409 when it has one already."""
        replays = self.state.hub.replays
        live = isinstance(trainer, TrainerConnection) and trainer.segment == self.segment
        if live or self.segment in replays:
            who = "its trainer is connected" if live else "somebody is at it already"
            raise ApiError(409, "run_is_taken", f"{who}, and delivers this itself")
        replays.add(self.segment)

    # -- what comes -------------------------------------------------------------------------------

    async def _receive(self) -> wire.ToServer:
        """The next message. Raises WireError for one that cannot be read."""
        data = await self.socket.receive()
        if data["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(data.get("code", 1000))
        if data.get("bytes") is None:
            raise WireError("text message; this protocol is binary (msgpack)")
        return wire.decode_from_trainer(data["bytes"])

    async def _listen(self) -> None:
        garbage = 0
        try:
            while not self.replaced:
                while self._out.qsize() > WINDOW and not self._deaf:
                    # Who does not read the answers is asked for no more.
                    self._heard.clear()
                    await self._heard.wait()
                try:
                    await self._take(await self._receive())
                except WireError as error:
                    garbage += 1
                    self.tell(wire.Refused(str(error)[:1000]))
                    if garbage > PATIENCE_WITH_GARBAGE:
                        self.tell_end(wire.CloseCode.BAD_MESSAGE)
                        return
        except (WebSocketDisconnect, RuntimeError):
            return

    async def _take(self, message: wire.ToServer) -> None:
        if isinstance(message, wire.Hello | wire.Replay):
            raise WireError("hello was said before")
        while self._held > HELD:
            self._settled.clear()
            await self._settled.wait()
        self._held += _size(message)
        await self._arrived.put((message, time.time()))

    def _work(self, message: wire.ToServer, now: float) -> tuple[Work, Outcome]:
        """What to do about a message that is no frame, and whom to tell of it."""
        match message:
            case wire.Columns():
                return lambda c: self._declare(c.connection, message), self._declared
            case wire.Heartbeat():
                return (
                    lambda c: runs.heard(c, self.run, now, message.stats),
                    lambda _: self.state.hub.changed(self.run),
                )
            case wire.Applied() | wire.Delivered() | wire.Rejected() | wire.Reverted():
                return lambda c: self._report(c.connection, message, now), self._reported
            case wire.Finish():
                return lambda c: self._finish(c.connection, message, now), self._finished
        raise AssertionError(message)

    # -- in the writer thread ---------------------------------------------------------------------

    def _store(
        self, arrived: list[tuple[wire.ToServer, float]], commit: Commit
    ) -> list[tuple[Outcome, Any]]:
        """Everything that arrived, in its order; neighbouring frames go together."""
        if self._lost:
            raise OutOfStep("what came before was not stored")
        done: list[tuple[Outcome, Any]] = []
        for frames, some in groupby(arrived, lambda one: isinstance(one[0], _RECORDS)):
            if frames:
                records = [message for message, _ in some if isinstance(message, _RECORDS)]
                done.append((self._recorded, (records, self._record(commit, records))))
            else:
                for message, now in some:
                    work, then = self._work(message, now)
                    done.append((then, work(commit)))
        return done

    def _record(self, commit: Commit, records: list[Record]) -> list[Recorded | Answer]:
        """What became of each record; of those that come too early only the first is answered."""
        recorder = self._recorder
        assert recorder is not None
        known, fresh, early = sorted_out(records, recorder.high_water)
        answers: list[Recorded | Answer] = [wire.Ack(recorder.high_water)] if known else []
        if fresh:
            answers += recorder.append(commit, fresh, time.time())
        if early:
            answers.append(wire.Resend(recorder.high_water + 1))
        return answers

    def _declare(
        self, connection: Connection, message: wire.Columns
    ) -> list[dict[str, Any]] | wire.Refused:
        assert self._recorder is not None
        try:
            return self._recorder.declare(connection, message)
        except WireError as error:
            return wire.Refused(str(error)[:1000])

    def _report(
        self,
        connection: Connection,
        message: control.Report,
        now: float,
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        event = control.report(connection, self.run, self.segment, message, now)
        return control.document(connection, self.run), event

    def _finish(
        self, connection: Connection, message: wire.Finish, now: float
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        if self.replay:
            lost.withdraw(connection, self.run, self.segment)
            if message.lost:
                lost.declare(connection, self.run, self.segment, now)
            if lost.newest(connection, self.run) != self.segment:
                return None  # the run has gone on since
        control.expire(connection, self.run, now)
        event = runs.end(connection, self.run, message, now)
        return control.document(connection, self.run), event

    # -- after the commit -------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Store what has arrived, wait for the commit, and tell who is concerned; then the next."""
        while True:
            arrived = [await self._arrived.get()]
            weight = _size(arrived[0][0])
            while weight < SLICE and not self._arrived.empty():
                arrived.append(self._arrived.get_nowait())
                weight += _size(arrived[-1][0])
            try:
                work = self.state.store.share(partial(self._store, arrived), weight=weight)
                done = await asyncio.wrap_future(work)
            except Exception as error:
                # Not stored, so not acknowledged: the trainer keeps it and comes back. What the
                # recorder remembers is no longer what is stored; with it, this connection ends.
                self._lost = True
                if self._ending is None:  # once, not for all that came behind it
                    _log_unstored(self.run, error)
                self.tell_end(wire.CloseCode.TRY_LATER)
            else:
                for then, result in done:
                    then(result)
            finally:
                for message, _ in arrived:
                    self._held -= _size(message)
                    self._arrived.task_done()
                self._settled.set()

    def _recorded(self, told: tuple[list[Record], list[Recorded | Answer]]) -> None:
        records, answers = told
        frames = {record.seq: record for record in records if isinstance(record, wire.Frame)}
        hub, observed, stored, points = self.state.hub, self.state.observed, 0, 0
        missing: wire.Resend | None = None
        for answer in answers:
            if isinstance(answer, wire.Resend):
                missing = answer
                continue
            self._asked = None
            if isinstance(answer, wire.Ack):
                self.tell(answer)
                continue
            stored = answer.seq
            if answer.refused is not None:
                self.tell(wire.Refused(answer.refused[:1000], answer.seq))
            elif answer.layout is not None:
                frame = frames[answer.seq]
                points += len(frame.values) // 4
                observed.frames.inc()
                hub.publish_frame(self.run, frame, answer.layout, list(answer.columns), time.time())
                if answer.full:
                    self.state.compactor.wake(self.run, self.segment, answer.layout)
            for event in answer.events:
                if event["kind"] == "gap":
                    observed.gap(event["text"])
            hub.publish_all(self.run, "event", ({"event": show_event(e)} for e in answer.events))
        if stored:
            observed.points.inc(points)
            self.state.meter.add(points, time.monotonic())
            self.tell(wire.Ack(stored))
        if missing is not None and missing != self._asked:
            self._asked = missing  # once, not for each frame that is still on its way
            self.tell(missing)

    def _declared(self, result: list[dict[str, Any]] | wire.Refused) -> None:
        if isinstance(result, wire.Refused):
            self.tell(result)
        elif result:
            shown = [runs.show_column(c["idx"], c["name"], c["kind"]) for c in result]
            self.state.hub.publish(self.run, "columns", {"columns": shown})

    def _reported(self, result: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
        document, event = result
        self.state.hub.publish(self.run, "control", {"control": document})
        if event is not None:
            self.state.hub.publish(self.run, "event", {"event": show_event(event)})
        self.state.hub.changed(self.run)

    def _finished(self, result: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        if result is not None:
            self._reported(result)
        self.state.compactor.wake(self.run, self.segment)
        self.tell(wire.Finished())

    # -- what goes --------------------------------------------------------------------------------

    def tell_end(self, code: wire.CloseCode) -> None:
        """End the connection after what is to be sent before."""
        self._ending = code
        self._out.put_nowait(None)

    async def _send(self) -> None:
        try:
            while (message := await self._out.get()) is not None:
                await self.socket.send_bytes(wire.encode(message))
                self._heard.set()
            if self._ending is not None:
                await self.close(self._ending)
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            self._deaf = True
            self._heard.set()

    async def close(self, code: wire.CloseCode, reason: str = "") -> None:
        # A close frame holds 123 bytes of reason, not characters.
        words = (reason or wire.CLOSE_REASONS[code]).encode()[:120].decode(errors="ignore")
        await self.socket.close(code, words)


def sorted_out(records: list[Record], high: int) -> tuple[bool, list[Record], bool]:
    """Whether some of ``records`` are stored already, up to the number ``high``; those that are next,
    in their order; and whether one came whose turn it is not yet.

    One that came too early does not keep those behind it from their turn: they may be what was asked
    for again because of it.
    """
    known = False
    fresh: list[Record] = []
    newest = high
    for record in records:
        known |= record.seq <= high
        if record.seq == high + 1 + len(fresh):
            fresh.append(record)
        newest = max(newest, record.seq)
    return known, fresh, newest > high + len(fresh)


def _size(message: wire.ToServer) -> int:
    return len(message.values) if isinstance(message, wire.Frame) else 0


def _log_unstored(run: str, error: Exception) -> None:
    """A full disk or a locked database is told in a line; anything else is ours to mend."""
    if isinstance(error, DBAPIError):
        log.error("run %s: cannot store what its trainer sends: %s", run, error.orig)
    else:
        log.error("run %s: cannot store what its trainer sends", run, exc_info=error)
