"""A trainer that speaks the protocol by hand, to say what the real hook never would."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from websockets.sync.client import ClientConnection, connect

from gradhelm import wire

SCALARS = ("global_norm", "threshold", "clip_coef", "clipped", "skipped", "nonfinite")


def new_run() -> str:
    """A UUIDv7 of its own."""
    stamp, noise = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(9)
    return f"{stamp[:8]}-{stamp[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"


class FakeTrainer:
    """One connection. ``layers`` are the parameters; columns are SCALARS, then their norms."""

    def __init__(
        self, socket: ClientConnection, run: str, segment: str, layers: Sequence[str]
    ) -> None:
        self.socket = socket
        self.run = run
        self.segment = segment
        self.layers = list(layers)
        self.seq = 0
        self.heard: list[wire.ToTrainer] = []

    def say(self, message: wire.ToServer | bytes | str) -> None:
        raw = message if isinstance(message, bytes | str) else wire.encode(message)
        self.socket.send(raw)

    def hear(self, kind: type, timeout: float = 10) -> wire.ToTrainer:
        """The next message of a kind; what comes before it is kept in ``heard``."""
        while True:
            message = wire.decode_from_server(self.socket.recv(timeout=timeout))
            self.heard.append(message)
            if isinstance(message, kind):
                return message

    def hello(self, **values: object) -> wire.Welcome:
        limits = {"max_norm": wire.Limit(0.01, 100.0)}
        self.say(
            wire.Hello(
                **{
                    "run": self.run,
                    "segment": self.segment,
                    "name": "fake",
                    "project": "tests",
                    "coded": (wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limits),),
                    "limits": wire.Limits(),
                    **values,
                }
            )
        )
        welcome = self.hear(wire.Welcome)
        assert isinstance(welcome, wire.Welcome)
        self.seq = welcome.high_water
        return welcome

    def columns(self) -> None:
        names = [wire.Column(name, "scalar") for name in SCALARS]
        norms = [wire.Column(f"norm/{n}", "norm", (4, 4), "float32") for n in self.layers]
        self.say(wire.Columns(0, 0, (*names, *norms)))

    def frame(
        self, first: int, values: np.ndarray, *, seq: int | None = None, version: int = 0
    ) -> wire.Frame:
        """The next frame of ``values`` [steps x columns], beginning at step ``first``."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        steps = np.arange(first, first + len(values), dtype=np.uint64)
        times = 1_000_000.0 + steps.astype(np.float64)
        return wire.pack_frame(seq, 0, version, steps, times, np.asarray(values, np.float32))

    def send(self, first: int, values: np.ndarray) -> None:
        """Send a frame and wait until it is stored."""
        frame = self.frame(first, values)
        self.say(frame)
        while self.hear(wire.Ack).seq < frame.seq:  # type: ignore[union-attr]
            pass

    def rows(self, norms: Sequence[float], threshold: float = 1.0) -> np.ndarray:
        """Rows with these global norms, shared evenly by the layers."""
        rows = np.zeros((len(norms), len(SCALARS) + len(self.layers)), np.float32)
        rows[:, 0] = norms
        rows[:, 1] = threshold
        with np.errstate(invalid="ignore"):
            rows[:, 2] = np.minimum(1, threshold / (rows[:, 0] + 1e-6))
        rows[:, 3] = rows[:, 2] < 1
        rows[:, 5] = ~np.isfinite(rows[:, 0])
        if self.layers:
            rows[:, len(SCALARS) :] = rows[:, :1] / np.sqrt(len(self.layers))
        return rows


@contextmanager
def trainer(
    ws: str,
    token: str,
    *,
    run: str | None = None,
    segment: str | None = None,
    layers: Sequence[str] = ("a.weight", "b.weight"),
    hello: bool = True,
    **values: object,
) -> Iterator[FakeTrainer]:
    """A connected trainer that has said hello and declared its columns."""
    with connect(
        ws + wire.INGEST_PATH,
        subprotocols=[wire.SUBPROTOCOL],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
        compression=None,
    ) as socket:
        made = FakeTrainer(socket, run or new_run(), segment or secrets.token_hex(8), layers)
        if hello:
            made.hello(**values)
            made.columns()
        yield made
