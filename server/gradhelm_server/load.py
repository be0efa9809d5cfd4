"""A load: simulated trainers and viewers on one server, and how it bore them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from gradhelm import address, wire
from gradhelm.rest import Client
from gradhelm.settings import is_loopback

from . import process, simulated
from .endings import Failed
from .figures import Figures, Tally
from .simulated import FIRST_DELAY, LAST_DELAY, LOST, SCALARS, Trainer, words

TELL: Final = 5.0
"""Seconds between two reports of progress."""
AT_ONCE: Final = 16
"""Connections that are being opened at the same time."""
CONNECT_LIMIT: Final = 60.0
"""Seconds after which the measurement begins even if not all are connected."""
SPARE_FILES: Final = 64
"""Files that a process needs besides its connections."""
SETTLE: Final = 2.0
"""Seconds before the measurement, until the first frames of all are under way."""
DRAIN: Final = 15.0
"""Seconds at the end in which what is under way may be acknowledged."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``rate``: steps per second of each run. ``duration``: seconds, once all are there."""

    runs: int
    layers: int
    rate: float
    duration: float
    viewers: int

    @property
    def offered(self) -> float:
        """Points per second."""
        return self.runs * (len(SCALARS) + self.layers) * self.rate


class Load:
    """One load; ``told`` hears every few seconds what the last seconds were like."""

    def __init__(self, client: Client, plan: Plan, told: Callable[[Figures], None]) -> None:
        self.client = client
        self.plan = plan
        self.tally = Tally()
        self.columns = [wire.encode(message) for message in simulated.columns(plan.layers)]
        self.material = simulated.material(plan.layers)
        self.rate = plan.rate
        self.gate = asyncio.Semaphore(AT_ONCE)
        self._told = told
        self._stop = asyncio.Event()
        began = time.strftime("%m-%d %H:%M:%S")
        self._trainers = [Trainer(self, f"load {began} #{n}", 37 * n) for n in range(plan.runs)]
        self._local = is_loopback(client.server)
        port = urlsplit(client.server).port
        self._pid = process.listening_on(port) if self._local and port else None

    @property
    def over(self) -> bool:
        return self._stop.is_set()

    @property
    def missing(self) -> int:
        """Runs that never got through."""
        return sum(not trainer.welcomed.is_set() for trainer in self._trainers)

    @property
    def unacknowledged(self) -> int:
        """Frames that were sent and not heard of again."""
        return sum(trainer.unacknowledged for trainer in self._trainers)

    def run(self) -> Figures:
        """The figures of the whole. Ctrl-C ends it early but in order, twice at once.

        Raises Failed when the server cannot be reached or wants another token, or this process may
        not open so many connections.
        """
        _allow_files(self.plan.runs + self.plan.viewers + SPARE_FILES)
        with asyncio.Runner(loop_factory=process.fast_loop()) as runner:
            return runner.run(self._run())

    def delete(self) -> int:
        """Take the runs out of the server's lists; how many they were.

        Raises Failed when the token may not, or nobody answers.
        """
        runs = [trainer.run for trainer in self._trainers if trainer.welcomed.is_set()]
        for run in runs:
            self.client.ask("DELETE", f"runs/{run}", accept=(404,))
        return len(runs)

    def connect(self, path: str, subprotocol: str | None = None) -> connect:
        server = urlsplit(self.client.server)
        scheme = "wss" if server.scheme == "https" else "ws"
        return connect(
            urlunsplit((scheme, server.netloc, server.path.rstrip("/") + path, "", "")),
            subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
            additional_headers={"Authorization": f"Bearer {self.client.token}"},
            compression=None,
            max_size=None,
            close_timeout=1.0,
            proxy=None if self._local else True,
            create_connection=Straight,
        )

    async def _run(self) -> Figures:
        await self._knock()
        with _interrupting(self._stop):
            async with asyncio.TaskGroup() as tasks:
                training = [tasks.create_task(trainer.live()) for trainer in self._trainers]
                watching = [
                    tasks.create_task(self._watch(self._trainers[n % self.plan.runs]))
                    for n in range(self.plan.viewers)
                ]
                telling = tasks.create_task(self._tell())
                await self._all_there()
                await self._pass(SETTLE)
                began = self.tally.read(self._pid)
                await self._pass(self.plan.duration)
                figures = self.tally.figures(began, self.tally.read(self._pid))
                self._stop.set()
                for trainer in self._trainers:
                    trainer.wake.set()
                await asyncio.wait(training, timeout=DRAIN)
                for task in (telling, *watching, *training):
                    task.cancel()
        return figures

    async def _knock(self) -> None:
        """One connection first, so that what is wrong for all is said once."""
        server = self.client.server
        try:
            async with self.connect(wire.INGEST_PATH, wire.SUBPROTOCOL):
                pass
        except InvalidStatus as refusal:
            if refusal.response.status_code in (401, 403):
                why = f"{server} wants a token that may report: set GRADHELM_TOKEN"
            else:
                why = f"{server} is no gradhelm server: {words(refusal)}"
            raise Failed(why) from None
        except LOST as error:
            why = address.unreached(error)
            raise Failed(f"cannot reach {server}: {why}; is `gradhelm up` running?") from None

    async def _all_there(self) -> None:
        """Until every trainer was welcomed, or there is no more hope for the rest."""

        async def everybody() -> None:
            for trainer in self._trainers:
                await trainer.welcomed.wait()

        waits = {asyncio.ensure_future(everybody()), asyncio.ensure_future(self._stop.wait())}
        await asyncio.wait(waits, timeout=CONNECT_LIMIT, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _pass(self, seconds: float) -> None:
        """Let time pass, unless it is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _watch(self, trainer: Trainer) -> None:
        """An open page: takes what comes, and looks how old it is."""
        await trainer.welcomed.wait()
        delay = FIRST_DELAY
        while True:
            try:
                async with self.connect(f"/api/v1/runs/{trainer.run}/live") as socket:
                    delay = FIRST_DELAY
                    async for message in socket:
                        if isinstance(message, bytes):
                            self.tally.views += 1
                            self.tally.sights.add(time.time() - newest(message))
            except LOST as error:
                self.tally.errors[f"viewer: {words(error)}"] += 1
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_DELAY)

    async def _tell(self) -> None:
        before = self.tally.read(self._pid)
        while True:
            await asyncio.sleep(TELL)
            now = self.tally.read(self._pid)
            self._told(self.tally.figures(before, now))
            before = now


class Straight(ClientConnection):
    """A connection that follows no redirect: the token is for the server that was named."""

    async def handshake(self, *arguments: Any, **named: Any) -> None:
        try:
            await super().handshake(*arguments, **named)
        except InvalidStatus as refusal:
            if 300 <= refusal.response.status_code < 400:
                raise InvalidHandshake("it redirects elsewhere") from None
            raise


def newest(frame: bytes) -> float:
    """When the last step of a browser's frame was taken, in seconds since the epoch."""
    start = 4 + int(struct.unpack_from("<I", frame)[0])
    count = json.loads(frame[4:start])["n"]
    return float(struct.unpack_from("<d", frame, start + 8 * (2 * count - 1))[0])


@contextlib.contextmanager
def _interrupting(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C sets ``stop``; where it is set already, it ends the task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    # Windows has no such handlers, and threads may not set them: there Ctrl-C ends it at once.
    impossible = (NotImplementedError, ValueError, RuntimeError)
    with contextlib.suppress(*impossible):
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        with contextlib.suppress(*impossible):
            loop.remove_signal_handler(signal.SIGINT)


def _allow_files(wanted: int) -> None:
    """As many open files as this process may have; raises Failed when these are too few."""
    if importlib.util.find_spec("resource") is None:  # Windows has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Failed(f"{wanted:,} open files are needed and {hard:,} allowed: see `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
