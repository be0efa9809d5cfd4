"""The processes that are broken: a server, and trainers that keep a journal of what they did.

Both are forked from a process that has everything imported, so that they live within milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from support import ROOT, ROOTS

from .points import Point

PRELOADED = ["chaos.lives", "chaos.warm", "uvloop"]


def nursery() -> ForkServerContext:
    """Where processes come from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*ROOTS, str(ROOT / "tests")])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def serve(home: str, port: int, point: Point | None) -> None:
    """A server, until it is killed or told to end; its tiles are small, so that many are made."""
    from gradhelm_server import compactor, recorder
    from gradhelm_server.serving import run
    from gradhelm_server.settings import ServerSettings

    settings = ServerSettings(
        home=Path(home), database_url=f"sqlite:///{home}/gradhelm.db", port=port
    )
    compactor.steps_of = recorder.steps_of = lambda columns: 64
    if point is not None:
        point.arm()
    run(settings, mount=None, migrate=True, ready=lambda *_: None)


@dataclass(frozen=True)
class Life:
    """One life of a trainer. ``steps`` None: until it is killed, if not at ``point``. ``spool``: a
    folder, or none."""

    run: str
    number: int
    start: int
    server: str
    token: str
    journal: str
    spool: str | None
    steps: int | None = None
    pause: float = 0.002
    point: Point | None = None


def norm_of(step: int) -> float:
    """What every element of every gradient is at a step."""
    return (1 + step % 97) / 16


def train(life: Life) -> None:
    """Takes steps, and says so in the journal before each of them."""
    for name in [name for name in os.environ if name.startswith("GRADHELM_")]:
        del os.environ[name]
    if life.spool is not None:
        os.environ["GRADHELM_SPOOL"] = life.spool
    import torch

    import gradhelm
    from gradhelm import link, spool

    spool.FILE = 4096
    torch.set_num_threads(1)
    link.LAST_DELAY = 0.5  # a server here is back at once
    journal = Journal(life)
    journal.listen()
    if life.point is not None:
        life.point.arm()
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = gradhelm.attach(
        model,
        optimizer,
        max_norm=1e6,
        name="chaos",
        run_id=life.run,
        resume=life.number > 0,
        start_step=life.start,
        server=life.server,
        token=life.token,
    )
    step = life.start
    while life.steps is None or step < life.start + life.steps:
        journal.write("P", life.number, step)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, norm_of(step))
        optimizer.step()
        run.log(loss=float(life.number))
        step += 1
        time.sleep(life.pause)
    run.close()
    journal.write("E", life.number, step)


class Journal:
    """Lines that a kill cannot take back: produced steps, and records sent and acknowledged."""

    def __init__(self, life: Life) -> None:
        self._fd = os.open(life.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._segment = ""

    def write(self, *words: object) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def listen(self) -> None:
        """Hears what the link and the delivery of leftovers send, and what is acknowledged."""
        from gradhelm import delivery, link, outbox, shelf, wire

        def sent(segment: str, record: wire.ToServer) -> None:
            if isinstance(record, wire.Frame):
                steps = [record.steps[:8], record.steps[-8:]]
                first, last = (int.from_bytes(step, "little") for step in steps)
                count = len(record.steps) // 8
                self.write("S", segment, record.seq, record.group, first, last, count)

        for kind in (outbox.Outbox, shelf.Shelf):
            self._next(kind, sent, wire)
        greet, handle = link.Link._greet, link.Link._handle
        carry, record, hear = (
            delivery._Delivery.carry,
            delivery._Delivery._record,
            delivery._Delivery._hear,
        )

        def greeting(one: link.Link, *given: object) -> None:
            self._segment = one._hello.segment
            greet(one, *given)

        def handling(one: link.Link, connection: object, message: wire.ToTrainer) -> None:
            if isinstance(message, wire.Ack):
                self.write("A", one._hello.segment, message.seq)
            handle(one, connection, message)

        def carrying(one: delivery._Delivery, hello: wire.Hello, columns: object) -> None:
            one.segment = hello.segment
            carry(one, hello, columns)

        def recording(one: delivery._Delivery, message: wire.Frame | wire.Gap) -> None:
            sent(one.segment, message)
            record(one, message)

        def hearing(one: delivery._Delivery) -> None:
            hear(one)
            self.write("A", one.segment, one._acked)

        link.Link._greet = greeting
        link.Link._handle = handling
        delivery._Delivery.carry = carrying
        delivery._Delivery._record = recording
        delivery._Delivery._hear = hearing

    def _next(self, kind: type, sent: object, wire: object) -> None:
        following = kind.next

        def telling(one: object, window: int) -> bytes | None:
            data: bytes | None = following(one, window)
            if data is not None:
                sent(self._segment, wire.decode_from_trainer(data))
            return data

        kind.next = telling
