"""A simulated trainer: the real protocol at the real pace, without a model.

Steps are taken by the clock, sent as frames as often as the server asks for, kept until they are
acknowledged, and sent again after a lost connection. What is reported is made up once for all
trainers of a process, so that they take as little of the machine as they can.

Law: what is counted as stored was acknowledged; everything that went wrong is counted under its
cause.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from typing import Final, NamedTuple, Protocol

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from gradhelm import wire
from gradhelm.errors import WireError

from .figures import Tally

SCALARS: Final = ("global_norm", "threshold", "clip_coef", "clipped", "skipped", "nonfinite")
PROJECT: Final = "load"
"""Project and tag of all simulated runs."""
MATERIAL: Final = 512
"""Steps that are made up; then they repeat."""
CHUNK: Final = 1000
"""Columns of one message."""
THRESHOLD: Final = 1.0
BEAT: Final = 5.0
"""Seconds between heartbeats, as of a real trainer."""
WELCOME_LIMIT: Final = 10.0
FIRST_DELAY, LAST_DELAY = 0.25, 5.0
"""Seconds between two tries to connect."""

LOST = (ConnectionClosed, InvalidHandshake, OSError, EOFError)
"""What the end of a connection, or its refusal, is raised as."""


class Surroundings(Protocol):
    """What a trainer needs of the load that it is a part of."""

    tally: Tally
    columns: list[bytes]
    material: wire.FloatArray
    rate: float
    gate: asyncio.Semaphore

    @property
    def over(self) -> bool: ...

    def connect(self, path: str, subprotocol: str | None = None) -> connect: ...


class Sent(NamedTuple):
    """A frame that waits for its acknowledgement; ``at`` is when it was first sent."""

    seq: int
    data: bytes
    points: int
    at: float


class Trainer:
    """One run, from its first connection to its finish."""

    def __init__(self, load: Surroundings, name: str, phase: int) -> None:
        self.run = run_id()
        self.welcomed = asyncio.Event()
        self.wake = asyncio.Event()
        self._load = load
        self._name = name
        self._phase = phase
        self._segment = secrets.token_hex(8)
        self._most = min(MATERIAL, max(1, wire.MAX_FRAME // (4 * load.material.shape[1])))
        self._sent: deque[Sent] = deque()
        self._changes: deque[wire.Change] = deque()
        self._began = 0.0
        self._taken = self._seq = self._version = 0
        self._window, self._pace = 1, 1.0
        self._full = self._finished = False

    @property
    def unacknowledged(self) -> int:
        """Frames that were sent and not heard of again."""
        return len(self._sent)

    async def live(self) -> None:
        """Connect, report, and come back after every lost connection, until the load is over."""
        delay = FIRST_DELAY
        while not self._finished and (self.welcomed.is_set() or not self._load.over):
            try:
                await self._connection()
                delay = FIRST_DELAY
            except (*LOST, WireError) as error:
                self._load.tally.errors[words(error)] += 1
            if not self._finished:
                # Nothing secret, here and below: only when simulated trainers do what.
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # nosec B311
                delay = min(2 * delay, LAST_DELAY)

    async def _connection(self) -> None:
        """One connection, from its opening to its end."""
        load = self._load
        async with load.gate:
            if load.over and not self.welcomed.is_set():
                return
            socket = await load.connect(wire.INGEST_PATH, wire.SUBPROTOCOL)
        async with socket:
            async with asyncio.timeout(WELCOME_LIMIT):
                await self._greet(socket)
            load.tally.connected += 1
            sending = asyncio.ensure_future(self._send(socket))
            try:
                await self._listen(socket)
            finally:
                load.tally.connected -= 1
                sending.cancel()
                # What ended the sending has ended the listening too, and that tells of it.
                await asyncio.gather(sending, return_exceptions=True)

    async def _greet(self, socket: ClientConnection) -> None:
        again = self.welcomed.is_set()
        await socket.send(wire.encode(self._hello(again)))
        for message in self._load.columns:
            await socket.send(message)
        welcome = await _hear(socket)
        if not isinstance(welcome, wire.Welcome):
            raise WireError(f"expected a welcome, not {type(welcome).__name__}")
        self._window, self._pace = welcome.window, welcome.pace_ms / 1000
        self._acknowledged(welcome.high_water)
        for sent in self._sent:
            await socket.send(sent.data)
        if again:
            self._load.tally.reconnects += 1
        else:
            # Trainers are not in step with each other.
            self._began = time.monotonic() + random.random() * self._pace  # nosec B311
            self.welcomed.set()

    def _hello(self, resume: bool) -> wire.Hello:
        limits = {"max_norm": wire.Limit(THRESHOLD / 100, THRESHOLD * 100)}
        return wire.Hello(
            run=self.run,
            segment=self._segment,
            name=self._name,
            project=PROJECT,
            tags=(PROJECT,),
            coded=(wire.Coded("GlobalNorm", {"max_norm": THRESHOLD}, "max_norm", limits),),
            limits=wire.Limits(),
            started=time.time(),
            resume=resume,
            version=self._version,
        )

    # -- what goes --------------------------------------------------------------------------------

    async def _send(self, socket: ClientConnection) -> None:
        """Frames at the server's pace, heartbeats, answers to changes, and at last the finish."""
        loop = asyncio.get_running_loop()
        flush = max(time.monotonic(), self._began)
        beat = flush + random.random() * BEAT  # nosec B311
        while True:
            now = time.monotonic()
            while self._changes:
                await self._apply(socket, self._changes.popleft())
            if (now >= flush or self._full) and not self._load.over:
                while (due := self._due(now)) and len(self._sent) < self._window:
                    await socket.send(self._frame(now, min(due, self._most)))
                self._full = due > 0
                flush = max(flush, now) if now < flush else now + self._pace
            if now >= beat:
                await socket.send(wire.encode(wire.Heartbeat(self._last, {})))
                beat = now + BEAT
            if self._load.over and not self._sent:
                await socket.send(wire.encode(wire.Finish("finished", self._last)))
                return
            timer = loop.call_later(max(0.0, min(flush, beat) - now), self.wake.set)
            await self.wake.wait()
            timer.cancel()
            self.wake.clear()

    def _due(self, now: float) -> int:
        """Steps taken by the clock that are in no frame yet."""
        return max(0, int((now - self._began) * self._load.rate) - self._taken)

    @property
    def _last(self) -> int | None:
        return self._taken - 1 if self._taken else None

    def _frame(self, now: float, count: int) -> bytes:
        """The next ``count`` steps, as bytes; of the material each run begins at another place."""
        first, at = self._taken, (self._taken + self._phase) % MATERIAL
        steps = np.arange(first, first + count, dtype=np.uint64)
        began = time.time() - now + self._began
        times = began + (steps.astype(np.float64) + 1.0) / self._load.rate
        values = self._load.material[at : at + count]
        self._taken += count
        self._seq += 1
        data = wire.encode(wire.pack_frame(self._seq, 0, self._version, steps, times, values))
        self._sent.append(Sent(self._seq, data, values.size, now))
        return data

    async def _apply(self, socket: ClientConnection, change: wire.Change) -> None:
        if change.version > self._version:
            self._version = change.version
            await socket.send(wire.encode(wire.Delivered(change.version)))
            await socket.send(wire.encode(wire.Applied(change.version, self._taken, change.rules)))

    # -- what comes -------------------------------------------------------------------------------

    async def _listen(self, socket: ClientConnection) -> None:
        while not self._finished:
            match await _hear(socket):
                case wire.Ack(seq=seq):
                    self._acknowledged(seq)
                    if self._full or self._load.over:
                        self.wake.set()
                case wire.Pace(ms=ms):
                    self._pace = ms / 1000
                    self._full = True  # whoever watches now need not wait for the old pace
                    self.wake.set()
                case wire.Change() as change:
                    self._changes.append(change)
                    self.wake.set()
                case wire.Resend(seq=seq):
                    for sent in [sent for sent in self._sent if sent.seq >= seq]:
                        await socket.send(sent.data)
                case wire.Refused(reason=reason):
                    self._load.tally.errors[f"refused: {reason}"] += 1
                case wire.Finished():
                    self._finished = True
                case _:
                    pass

    def _acknowledged(self, seq: int) -> None:
        tally, now = self._load.tally, time.monotonic()
        while self._sent and self._sent[0].seq <= seq:
            sent = self._sent.popleft()
            tally.points += sent.points
            tally.frames += 1
            tally.acks.add(now - sent.at)


async def _hear(socket: ClientConnection) -> wire.ToTrainer:
    data = await socket.recv()
    return wire.decode_from_server(data if isinstance(data, bytes) else data.encode())


def columns(layers: int) -> list[wire.Columns]:
    """In several messages: the names of thousands of layers do not fit into one."""
    scalars = (wire.Column(name, "scalar") for name in SCALARS)
    norms = (
        wire.Column(f"norm/blocks.{n}.weight", "norm", (64, 64), "float32") for n in range(layers)
    )
    every = (*scalars, *norms)
    return [wire.Columns(0, n, every[n : n + CHUNK]) for n in range(0, len(every), CHUNK)]


def material(layers: int) -> wire.FloatArray:
    """Norms as they are: each layer wanders about a size of its own; a step in twenty is clipped.

    [steps x columns], and the same once more, so that every slice is in one piece.
    """
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0.0, 1.0, layers)
    wander = np.cumsum(rng.normal(0.0, 0.02, (MATERIAL, layers)), axis=0)
    norms = sizes * np.exp(wander + rng.normal(0.0, 0.1, (MATERIAL, layers)))
    total = np.linalg.norm(norms, axis=1)
    scale = THRESHOLD / np.quantile(total, 0.95)
    rows = np.zeros((MATERIAL, len(SCALARS) + layers), np.float32)
    rows[:, 0] = total * scale
    rows[:, 1] = THRESHOLD
    rows[:, 2] = np.minimum(1.0, THRESHOLD / (rows[:, 0] + 1e-6))
    rows[:, 3] = rows[:, 2] < 1.0
    rows[:, len(SCALARS) :] = norms * scale
    return np.concatenate([rows, rows])


def run_id() -> str:
    """A UUIDv7."""
    stamp, noise = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(9)
    return f"{stamp[:8]}-{stamp[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"


def words(error: BaseException) -> str:
    """The cause of a lost connection, the same for all that were lost by it."""
    match error:
        case InvalidStatus(response=response):
            return f"HTTP status {response.status_code}"
        case ConnectionClosed(rcvd=close) if close is not None:
            return f"closed with {close.code}: {close.reason or 'no reason given'}"
        case TimeoutError():
            return "no answer in time"
        case OSError(strerror=str(text)):
            return text
    return str(error) or type(error).__name__
