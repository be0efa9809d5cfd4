"""Any order of sending, storing, losing, repeating and dying, by a machine that looks for a bad one.

Both ends are the real ones; between them, in place of sockets, there are two lists.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import select

import gradhelm_migrations
from gradhelm import wire
from gradhelm.arguments import run_id
from gradhelm.dial import new_segment
from gradhelm.notice import Notices
from gradhelm.outbox import Outbox
from gradhelm.salvage import numbered
from gradhelm.shelf import Shelf
from gradhelm.spool import Spool
from gradhelm_server import runs, tables
from gradhelm_server.ingest import TrainerConnection
from gradhelm_server.matrix import Reader, Stretch
from gradhelm_server.recorder import Recorder
from gradhelm_server.roles import LOCAL, Identity
from gradhelm_server.store import Store

ADMIN = Identity("local", "token", LOCAL)

WINDOW = 6
COLUMN = wire.Columns(0, 0, (wire.Column("global_norm", "scalar"),))


class Cargo:
    groups = 1

    def told(self, known: int = 0) -> Iterator[wire.Columns]:
        yield from [COLUMN][known:]


class Delivery(RuleBasedStateMachine):
    """``store`` and ``spooled`` are set on subclasses."""

    store: Store
    spooled: bool

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gradhelm-machine-"))
        self.run = run_id(None, False)
        self.step = 0
        self.produced: set[int] = set()
        self.told_stored: set[tuple[str, int]] = set()
        self.live()

    # -- the two ends -----------------------------------------------------------------------------

    def live(self) -> None:
        """A life of the trainer begins, with a connection."""
        self.hello = wire.Hello(
            run=self.run,
            segment=new_segment(),
            name="machine",
            project="chaos",
            coded=(wire.Coded("Observe", {}),),
            limits=wire.Limits(),
            started=time.time(),
            resume=True,
        )
        self.home = self.folder / self.hello.segment
        self.outbox: Outbox = (
            Shelf(
                lambda: Spool(self.home, file_size=300),
                lambda: self.hello,
                Cargo(),  # type: ignore[arg-type]
                Notices(),
            )
            if self.spooled
            else Outbox(budget=1200)
        )
        self.connect()

    def connect(self) -> None:
        self.up: list[bytes] = []
        self.down: list[wire.ToTrainer] = []
        self.connection = self.begun(self.hello, replay=False)
        self.outbox.resume(self.connection._recorder.high_water)  # type: ignore[union-attr]

    def begun(self, hello: wire.Hello, *, replay: bool) -> TrainerConnection:
        connection = TrainerConnection(None, None, ADMIN)  # type: ignore[arg-type]
        connection.run, connection.segment, connection.replay = hello.run, hello.segment, replay

        def work(database: object) -> None:
            runs.begin(database, hello, ADMIN, time.time(), replay=replay)  # type: ignore[arg-type]
            recorder = Recorder.load(database, hello.run, hello.segment, replay=replay)  # type: ignore[arg-type]
            recorder.declare(database, COLUMN)  # type: ignore[arg-type]
            connection._recorder = recorder

        self.store.submit(work).result()
        return connection

    def stored(self, connection: TrainerConnection, records: list[wire.Frame | wire.Gap]) -> None:
        done = self.store.share(lambda commit: connection._record(commit, records), weight=1)
        for answer in done.result():
            if isinstance(answer, wire.Ack | wire.Resend):
                self.down.append(answer)
            else:
                assert answer.refused is None, answer
                self.down.append(wire.Ack(answer.seq))

    # -- what happens -----------------------------------------------------------------------------

    @rule(rows=st.integers(1, 4))
    def measure(self, rows: int) -> None:
        steps = np.arange(self.step, self.step + rows, dtype=np.uint64)
        values = steps.astype(np.float32)[:, None]
        self.outbox.put(wire.pack_frame(1, 0, 0, steps, steps.astype(float), values))
        self.produced |= set(steps.tolist())
        self.step += rows
        if isinstance(self.outbox, Shelf):
            self.outbox.keep()

    @rule(rows=st.integers(1, 3))
    def refuse(self, rows: int) -> None:
        """The ring had no room."""
        self.outbox.declare(self.step, self.step + rows - 1, rows, "ring full")
        self.produced |= set(range(self.step, self.step + rows))
        self.step += rows
        if isinstance(self.outbox, Shelf):
            self.outbox.keep()

    @rule(most=st.integers(1, 8))
    def send(self, most: int) -> None:
        for _ in range(most):
            record = self.outbox.next(WINDOW)
            if record is None:
                break
            self.up.append(record)

    @precondition(lambda self: self.up)
    @rule(most=st.integers(1, 8))
    def deliver(self, most: int) -> None:
        records = [wire.decode_from_trainer(data) for data in self.up[:most]]
        del self.up[:most]
        self.stored(self.connection, records)  # type: ignore[arg-type]

    @precondition(lambda self: self.up)
    @rule(at=st.integers(0, 20))
    def repeat(self, at: int) -> None:
        self.up.insert(0, self.up[at % len(self.up)])

    @precondition(lambda self: len(self.up) > 1)
    @rule(at=st.integers(0, 20))
    def swap(self, at: int) -> None:
        at %= len(self.up) - 1
        self.up[at : at + 2] = reversed(self.up[at : at + 2])

    @precondition(lambda self: self.up)
    @rule(at=st.integers(0, 20))
    def skip(self, at: int) -> None:
        del self.up[at % len(self.up)]

    @precondition(lambda self: self.down)
    @rule(most=st.integers(1, 4))
    def hear(self, most: int) -> None:
        for message in self.down[:most]:
            if isinstance(message, wire.Ack):
                self.outbox.ack(message.seq)
            elif isinstance(message, wire.Resend):
                self.outbox.rewind(message.seq)
        del self.down[:most]

    @precondition(lambda self: self.down)
    @rule(at=st.integers(0, 20))
    def lose_an_answer(self, at: int) -> None:
        del self.down[at % len(self.down)]

    @rule()
    def cut(self) -> None:
        """The connection ends; so does what the server remembers of it."""
        self.connect()

    @precondition(lambda self: self.spooled)
    @rule()
    def die(self) -> None:
        """The trainer is killed; its next life takes up later, and delivers what it left."""
        assert isinstance(self.outbox, Shelf)
        self.outbox.spool.close()  # as the end of a process does
        left, hello = self.home, self.hello
        self.live()
        connection = self.begun(hello, replay=True)
        recorder = connection._recorder
        assert recorder is not None
        for record in numbered(left, recorder.high_water, "not there", growing=False):
            if isinstance(record, wire.Frame | wire.Gap):
                self.stored(connection, [record])
        self.down.clear()

    # -- what holds -------------------------------------------------------------------------------

    @invariant()
    def no_more_is_acknowledged_than_is_stored(self) -> None:
        recorder = self.connection._recorder
        assert recorder is not None
        assert self.outbox.acked <= recorder.high_water

    def teardown(self) -> None:
        try:
            self.connect()
            for _ in range(200):
                if not len(self.outbox):
                    break
                if isinstance(self.outbox, Shelf):
                    self.outbox.keep()
                self.send(8)
                if self.up:
                    self.deliver(8)
                self.hear(100)
            assert not len(self.outbox)
            self.reckon()
        finally:
            shutil.rmtree(self.folder)

    def reckon(self) -> None:
        with self.store.reading() as database:
            table = tables.segments
            held: list[int] = []
            for segment in database.scalars(
                select(table.c.segment).where(table.c.run_id == self.run)
            ):
                reader = Reader(database, self.run, segment)
                part = Stretch(segment, 0, 1 << 52)
                for layout in reader.layouts:
                    for steps, _, values in reader.rows(part, layout, np.array([0])):
                        assert values[:, 0].tolist() == steps.tolist()
                        held += steps.tolist()
            events = database.execute(
                select(tables.events).where(
                    tables.events.c.run_id == self.run, tables.events.c.kind == "gap"
                )
            ).all()
        assert len(held) == len(set(held))
        declared = set(held)
        for event in events:
            if event.count:
                declared |= set(range(event.first_step, event.last_step + 1))
        assert self.produced <= declared


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path_factory.mktemp('machine') / 'gradhelm.db'}"
    gradhelm_migrations.upgrade(url)
    found = Store(url)
    yield found
    found.close()


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
def test_no_order_of_things_loses_or_doubles_a_record(store: Store, spooled: bool) -> None:
    made = type("Made", (Delivery,), {"store": store, "spooled": spooled})
    run_machine(
        made,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
