"""What trainers send: messages read, and whole connections of them taken down in a database.

Whatever the bytes are: a message is read or refused by WireError; what was read is the same when it
is written and read again; of a frame that unpacks every part is as the protocol says. Whatever a
trainer says: every number is answered for in its order; what is stored adds up; and what is stored
can be shown, as JSON that every reader takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, create_engine, event, func, select

from . import fuzz
from .draw import Draw

with fuzz.instrumented():
    from gradhelm import wire
    from gradhelm.errors import WireError
    from gradhelm.outbox import Outbox
    from gradhelm_server import control, events, runs, tables
    from gradhelm_server.hub import MAILBOX_BYTES, Hub, Viewer
    from gradhelm_server.ingest import TrainerConnection
    from gradhelm_server.matrix import Reader
    from gradhelm_server.observed import Observed
    from gradhelm_server.recorder import Recorder
    from gradhelm_server.roles import LOCAL, Identity
    from gradhelm_server.runs import Patience
    from gradhelm_server.state import PointsMeter
    from gradhelm_server.store import Commit

RUN = "01912d68-783e-7a03-8467-5661c1243ad4"
SEGMENT = "00ff00ff00ff00ff"
NOW = 1.7e9
WHO = Identity("local", "token", LOCAL)
"""Who says it all: the administrator of this machine."""
SCALARS = ("global_norm", "threshold", "clip_coef", "clipped", "skipped", "nonfinite")
PATIENCE = Patience(15.0, 600.0)
OBSERVED = Observed()
FOUND: list[bytes] = []


def seeds() -> list[bytes]:
    whole = fuzz.golden()
    made = [bytes([kind]) + bytes(range(n)) * 8 for kind in (1, 2) for n in (7, 40)]
    return [b"\0" + data for data in whole] + made + lives()


def lives() -> list[bytes]:
    """Connections as trainers have them, in what ``a_hello`` and ``World`` draw."""
    hello, columns = bytes(14), b"\5\0\0\0"
    frames = [b"\0\0\0\3\0\0\1\0\0\1" + bytes([n, 2 * n]) + b"\0\0" for n in range(8)]
    scalars = b"\6\1\0\1\0\0\0\0\0" + frames[3].replace(b"\0\0", b"\0\1", 1)
    gap, heartbeat = b"\7\0\1\x50\0\1\x60\0\1\5\0\0\0", b"\x08\0\1\x20\0\0\0\1\5\0"
    reports = [b"\x0a\1\0\0\0\1\1\0\1\5\0\0" + bytes([kind]) for kind in range(4)]
    finish = b"\x09\0\1\x99\0\0\0\0"
    stored = b"\1" + columns + frames[0] + b"\3" + b"".join(frames[1:5])
    rest = b"\2" + frames[5] + gap + frames[6] + b"\0" + heartbeat + b"\3" + b"".join(reports)
    return [
        b"\1" + hello + stored,
        b"\1" + hello + stored + rest + b"\0" + finish,
        b"\1" + hello + stored + b"\1" + scalars + b"\1" + finish + frames[7],
    ]


def one(data: bytes) -> None:
    if data[:1] == b"\1":
        a_connection(Draw(data[1:]))
    elif data[:1] == b"\2":
        a_server(Draw(data[1:]))
    else:
        a_message(data[1:])


def a_message(data: bytes) -> None:
    for read in (wire.decode_from_trainer, wire.decode_from_server):
        try:
            message: Any = read(data)
        except WireError as error:
            assert 0 < len(str(error)) < 1000
            continue
        written = wire.encode(message)
        assert read(written) == message
        assert wire.encode(read(written)) == written
        if isinstance(message, wire.Frame):
            for columns in (1, 2, 8, len(message.values) // 4):
                a_frame(message, columns)


def a_frame(frame: wire.Frame, columns: int) -> None:
    try:
        steps, times, values = wire.unpack_frame(frame, columns)
    except WireError:
        return
    count = len(steps)
    assert count > 0
    assert values.shape == (count, columns)
    assert times.shape == (count,)
    assert int(steps[-1]) <= wire.MAX_STEP
    assert bool((steps[1:] > steps[:-1]).all())
    assert bool(((times >= 0) & (times < wire.MAX_TIME)).all())
    again = wire.pack_frame(frame.seq, frame.group, frame.version, steps, times, values)
    assert again == frame


# -- what a server says, to a trainer that has records ------------------------------------------


def a_server(draw: Draw) -> None:
    """Whatever it claims to have, records go in their order, and none is forgotten or kept twice."""
    outbox = Outbox(budget=20_000)
    step = 0
    for _ in range(60):
        if not draw:
            break
        match draw.below(6):
            case 0 | 1:
                values = np.ones((1 + draw.below(4), 2), np.float32)
                steps = np.arange(step, step + len(values), dtype=np.uint64)
                step += len(values)
                outbox.put(wire.pack_frame(1, 0, 0, steps, steps.astype(float), values))
            case 2:
                before, window = outbox._cursor, 1 + draw.below(8)
                sent = outbox.next(window)
                if sent is not None:
                    record: Any = wire.decode_from_trainer(sent)
                    assert record.seq == before == outbox._cursor - 1
                    assert outbox.in_flight <= window
            case 3:
                outbox.ack(draw.whole() if draw.rarely() else outbox.acked + draw.below(4))
            case 4:
                outbox.rewind(max(1, draw.whole()) if draw.rarely() else 1 + draw.below(9))
            case 5:
                outbox.resume(draw.whole() if draw.rarely() else outbox.acked + draw.below(4))
        assert 0 <= outbox.acked < outbox._next
        assert outbox.acked < outbox._cursor <= outbox._next
        assert sorted(outbox._flight) == list(range(outbox.acked + 1, outbox._next))
        assert 0 <= outbox._size <= 20_000 + 1000


# -- a whole connection ---------------------------------------------------------------------------


@cache
def database() -> Any:
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # or savepoints would break

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    tables.metadata.create_all(engine)
    return engine.connect()


class Silent:
    """Nobody is sent anything."""

    async def send_bytes(self, data: bytes) -> None: ...


def a_connection(draw: Draw) -> None:
    connection = database()
    with connection.begin() as transaction:
        try:
            _a_connection(draw, connection)
        finally:
            transaction.rollback()


def _a_connection(draw: Draw, connection: Connection) -> None:
    hello = a_hello(draw)
    try:
        # As it comes over the wire: what the protocol does not allow never gets there.
        hello = wire.decode_from_trainer(wire.encode(hello))  # type: ignore[assignment]
    except (WireError, UnicodeEncodeError):
        return
    runs.begin(connection, hello, WHO, NOW)
    state: Any = SimpleNamespace(
        hub=Hub(),
        meter=PointsMeter(),
        observed=OBSERVED,
        compactor=SimpleNamespace(wake=lambda *_: None),
    )
    viewer = Viewer()
    state.hub.watch(RUN, viewer)
    trainer = TrainerConnection(Silent(), state, WHO)  # type: ignore[arg-type]
    trainer.run, trainer.segment = RUN, SEGMENT
    trainer._recorder = Recorder.load(connection, RUN, SEGMENT)
    world = World()
    high = 0
    while draw:
        some = [(message, NOW) for message in world.messages(draw)]
        commit = Commit(connection)
        done = commit.attempt(lambda c, some=some: trainer._store(some, c))  # type: ignore[misc]
        commit.finish()
        for then, result in done:
            then(result)
        high = answered(trainer, some, high)
        assert viewer._bytes <= MAILBOX_BYTES
    shown(connection)


def answered(trainer: TrainerConnection, some: list[Any], high: int) -> int:
    """Every number in its order, once; returns the newest."""
    assert trainer._recorder is not None
    sent = [m.seq for m, _ in some if isinstance(m, wire.Frame | wire.Gap)]
    told: list[Any] = []
    while not trainer._out.empty():
        told.append(trainer._out.get_nowait())
    for message in told:
        if isinstance(message, wire.Ack):
            assert high <= message.seq <= trainer._recorder.high_water
        if isinstance(message, wire.Refused):
            assert 0 < len(message.reason) <= 1000
        assert wire.decode_from_server(wire.encode(message)) == message
    reached = trainer._recorder.high_water
    assert high <= reached <= max([high, *sent])
    assert set(range(high + 1, reached + 1)) <= set(sent)
    return reached


def shown(connection: Connection) -> None:
    """What is stored adds up, and can be shown."""
    row = runs.find(connection, RUN)
    for answer in (
        runs.get(connection, RUN, NOW, PATIENCE),
        runs.all_columns(connection, RUN),
        runs.parameters(connection, RUN),
        control.document(connection, RUN),
        control.history(connection, RUN),
        events.listed(
            connection, RUN, kind=None, stream=None, first=None, last=None, limit=50, before=None
        ),
    ):
        json.dumps(answer, allow_nan=False).encode()
    frames = tables.frames
    stored = connection.scalar(
        select(func.sum(frames.c.steps)).where(frames.c.run_id == RUN, frames.c.layout == 0)
    )
    assert row.steps <= (stored or 0)
    reader = Reader(connection, RUN)
    if row.last_step is not None:
        low, high = row.first_step, row.last_step
        stride = 2 ** max(0, (high - low).bit_length() - 6)
        for series in reader.series(list(range(4)), low, high, stride).values():
            assert len(series.step) <= (high - low) // stride + 2
            assert bool((np.diff(series.step) > 0).all())
        image, _ = reader.heatmap(list(range(4)), low, high, stride)
        assert image.shape[1] <= (high - low) // stride + 2


def a_hello(draw: Draw) -> wire.Hello:
    limits = {"max_norm": wire.Limit(draw.number(), draw.number())} if draw.flag() else {}
    streams = ("first", "second") if draw.flag() else ()
    return wire.Hello(
        RUN,
        SEGMENT,
        draw.text() or "n",
        "p",
        (wire.Coded("GlobalNorm", {"max_norm": draw.number()}, "max_norm", limits),),
        wire.Limits(draw.number() if draw.flag() else None),
        streams,
        config=draw.pick(
            ("{}", '{"total_steps": 9}', "{", "[]", '{"a": 1e999}', '{"a": "\\ud800"}')
        ),
        tags=(draw.text() or "t",),
        started=draw.number(),
        version=draw.whole(),
    )


class World:
    """What a trainer would know of itself, and a fuzzer has to, or nothing would ever fit."""

    def __init__(self) -> None:
        self.seq = 0
        self.step = 0
        self.widths: dict[int, int] = {}

    def messages(self, draw: Draw) -> Iterator[wire.ToServer]:
        for _ in range(1 + draw.below(4)):
            made = self.message(draw)
            try:
                data = made if isinstance(made, bytes) else wire.encode(made)
                yield wire.decode_from_trainer(data)
            except (WireError, UnicodeEncodeError, OverflowError):
                continue  # refused by itself; the connection goes on

    def message(self, draw: Draw) -> wire.ToServer | bytes:
        kind = draw.below(12)
        if kind < 5:
            return self.frame(draw)
        if kind < 7:
            return self.columns(draw)
        if kind == 7:
            self.seq += 1
            seq = draw.whole() if draw.rarely() else self.seq
            return wire.Gap(seq, draw.whole(), draw.whole(), draw.whole(), draw.text() or "x")
        if kind == 8:
            step = None if draw.flag() else draw.whole()
            return wire.Heartbeat(step, {draw.text() or "x": draw.number()})
        if kind == 9:
            status = draw.pick(("finished", "failed", "stopped", "x"))
            return wire.Finish(status, draw.whole(), draw.text(), draw.flag())
        if kind == 10:
            return self.report(draw)
        return draw.bytes(64)

    def report(self, draw: Draw) -> wire.ToServer:
        rules = (wire.Rule({"max_norm": draw.number()}),)
        version, step = draw.whole(), draw.whole()
        stream = draw.pick((None, "second", "x"))
        match draw.below(4):
            case 0:
                return wire.Applied(version, step, rules, stream, draw.pick((None, 0, 1)))
            case 1:
                return wire.Reverted(version, step, draw.text(), rules, stream)
            case 2:
                return wire.Rejected(version, step, draw.text())
        return wire.Delivered(version)

    def columns(self, draw: Draw) -> wire.Columns:
        group = draw.below(4)
        if group == 0 and 0 not in self.widths and not draw.rarely():
            names = [wire.Column(name, "scalar") for name in SCALARS]
            names += [wire.Column(f"norm/{n}", "norm", (2, 3)) for n in ("a.weight", "b")]
            stream = None
        else:
            kinds = ("log", "norm", "scalar", "detail")
            names = [
                wire.Column(
                    draw.pick(("loss", "second/global_norm", "second/norm/a", "global_norm", ""))
                    or draw.text()
                    or "x",
                    draw.pick(kinds),
                    (draw.whole(),) if draw.rarely() else (),
                )
                for _ in range(draw.below(4))
            ]
            stream = draw.pick((None, None, "second", "x"))
        known = self.widths.get(group, 0)
        first = draw.below(4) if draw.rarely() else known
        self.widths[group] = first + len(names)
        return wire.Columns(group, first, tuple(names), stream)

    def frame(self, draw: Draw) -> wire.Frame:
        group = draw.below(4)
        width = draw.below(10) if draw.rarely() else self.widths.get(group, 8)
        count = 1 + draw.below(6)
        self.seq += 1
        seq = draw.whole() if draw.rarely() else self.seq
        if draw.rarely():
            steps = np.array([draw.whole() % 2**64 for _ in range(count)], np.uint64)
        else:
            self.step += draw.pick((0, 1, 1, 1, 1, 1, 2, 2**20, 2**40))
            steps = np.arange(self.step, self.step + count, dtype=np.uint64)
            self.step += count - 1
        if draw.rarely():
            times = np.array([draw.number() for _ in range(count)])
        else:
            times = NOW + steps.astype(np.float64) % 2**20
        if draw.flag():
            raw = draw.take(4 * count * width).ljust(4 * count * width, b"\0")
            values = np.frombuffer(raw, "<f4").reshape(count, width)
        else:
            values = np.full((count, width), draw.number(), np.float64).astype(np.float32)
        made = wire.pack_frame(seq, group, draw.below(3), steps, times, values)
        if draw.rarely():
            made = msgspec.structs.replace(made, crc=made.crc ^ 1)
        return made


if __name__ == "__main__":
    sys.exit(fuzz.main(["wire"]))
