"""A server at the rim: speaks the protocol over a real socket and keeps all that it was told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from gradhelm import wire

LIMIT = 20.0
"""Seconds after which a test that waits has failed."""


class FakeServer:
    """Stores frames and gaps once each, as a server would, and acknowledges them.

    ``acks`` off: what arrives is neither stored nor acknowledged. ``status``: refuse the upgrade.
    """

    def __init__(self) -> None:
        self.acks = True
        self.status: int | None = None
        self.window = 32
        self.pace_ms = 100
        self.stored: dict[tuple[str, int], wire.Frame | wire.Gap] = {}
        self.high: dict[str, int] = {}
        self.heard: list[wire.ToServer] = []
        self.headers: list[str | None] = []
        self.connections = 0
        self.columns: dict[int, list[wire.Column]] = {}
        self.on_hello: Callable[[FakeServer, wire.Hello], None] | None = None
        self._live: ServerConnection | None = None
        self._news = threading.Condition()
        self._server = serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            process_request=self._upgrade,
            compression=None,
            max_size=wire.MAX_MESSAGE,
            close_timeout=1,
        )
        self.port = self._server.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    # -- what tests do ----------------------------------------------------------------------------

    def say(self, message: wire.ToTrainer) -> None:
        """Sends to the trainer that is connected now."""
        self.wait(lambda: self._live is not None)
        assert self._live is not None
        self._live.send(wire.encode(message))

    def hang_up(self, code: int = 1011) -> None:
        """Ends the trainer's connection."""
        self.wait(lambda: self._live is not None)
        connection, self._live = self._live, None
        assert connection is not None
        connection.close(code)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        if self._live is not None:
            self._live.close()

    def wait(self, true: Callable[[], object]) -> None:
        """Waits until ``true``, checked at each message."""
        with self._news:
            assert self._news.wait_for(true, LIMIT), f"never came; heard {self.heard[-3:]}"

    def of(self, kind: type) -> list:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def hello(self) -> wire.Hello:
        self.wait(lambda: self.of(wire.Hello))
        return self.of(wire.Hello)[-1]

    def rows(self, group: int = 0) -> Iterator[tuple[int, int, dict[str, float]]]:
        """Step, control version and the values present, of each row of ``group``."""
        names = [column.name for column in self.columns.get(group, [])]
        for record in self.stored.values():
            if isinstance(record, wire.Frame) and record.group == group:
                steps, _, values = wire.unpack_frame(record, len(names))
                missing = wire.missing(values)
                for i, step in enumerate(steps):
                    row = {n: values[i, j] for j, n in enumerate(names) if not missing[i, j]}
                    yield int(step), record.version, row

    def table(self, group: int = 0) -> dict[int, dict[str, float]]:
        return {step: row for step, _, row in self.rows(group)}

    def logged(self) -> dict[int, dict[str, float]]:
        """All logged scalars by step, from every group of them."""
        table: dict[int, dict[str, float]] = {}
        for group, columns in self.columns.items():
            if columns and columns[0].kind == "log":
                for step, _, row in self.rows(group):
                    table.setdefault(step, {}).update(row)
        return table

    def gaps(self) -> list[wire.Gap]:
        return [record for record in self.stored.values() if isinstance(record, wire.Gap)]

    # -- the protocol -----------------------------------------------------------------------------

    def _upgrade(self, connection: ServerConnection, request):
        self.headers.append(request.headers.get("Authorization"))
        if self.status is not None:
            with self._news:
                self._news.notify_all()
            return connection.respond(HTTPStatus(self.status), "no\n")
        return None

    def _serve(self, connection: ServerConnection) -> None:
        segment = ""
        try:
            for data in connection:
                message = wire.decode_from_trainer(data)
                answer: wire.ToTrainer | None = None
                with self._news:
                    self.heard.append(message)
                    match message:
                        case wire.Hello():
                            segment = message.segment
                            self.connections += 1
                            self._live = connection
                            answer = wire.Welcome(
                                self.high.get(segment, 0), self.window, self.pace_ms
                            )
                        case wire.Columns():
                            known = self.columns.setdefault(message.group, [])
                            known[message.first :] = message.columns
                        case wire.Frame() | wire.Gap() if self.acks:
                            if message.seq == self.high.get(segment, 0) + 1:
                                self.stored[segment, message.seq] = message
                                self.high[segment] = message.seq
                            answer = wire.Ack(self.high.get(segment, 0))
                        case wire.Finish():
                            answer = wire.Finished()
                    self._news.notify_all()
                if answer is not None:
                    connection.send(wire.encode(answer))
                if isinstance(message, wire.Hello) and self.on_hello is not None:
                    self.on_hello(self, message)
        except ConnectionClosed:
            pass
        finally:
            with self._news:
                if self._live is connection:
                    self._live = None
                self._news.notify_all()


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    server = FakeServer()
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
