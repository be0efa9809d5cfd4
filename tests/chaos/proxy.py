"""Networks that misbehave: a proxy for bytes, and one for messages."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gradhelm import wire


@dataclass
class Bytes:
    """A proxy between a trainer and a server that works on bytes. Everything may be set at any time.

    delay: seconds that each piece takes longer. rate: bytes per second, 0 for any. piece: bytes
    that are passed on at once. blackhole: takes everything and passes nothing on, and closes
    nothing. away: refuses connections.
    """

    target: int
    delay: float = 0.0
    rate: float = 0.0
    piece: int = 65536
    blackhole: bool = False
    away: bool = False
    port: int = 0
    connections: int = 0
    passed: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Every connection there is ends with a reset."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in list(self._writers):
            ended = writer.get_extra_info("socket")
            if ended is not None:
                ended.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.away:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(back)
            await asyncio.wait(
                [
                    asyncio.create_task(self._pass(reader, back)),
                    asyncio.create_task(self._pass(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            back.close()
            self._writers.discard(back)
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for start in range(0, len(data), self.piece):
                    part = data[start : start + self.piece]
                    while self.blackhole:  # noqa: ASYNC110 - set from another thread
                        await asyncio.sleep(0.01)
                    if self.delay or self.rate:
                        await asyncio.sleep(
                            self.delay + (len(part) / self.rate if self.rate else 0)
                        )
                    writer.write(part)
                    await writer.drain()
                    self.passed += len(part)


Change = Callable[[bytes], list[bytes]]


@dataclass
class Messages:
    """A proxy that works on messages: ``up`` and ``down`` say what becomes of each."""

    target: int
    up: Change = lambda data: [data]
    down: Change = lambda data: [data]
    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def run(self, ready: threading.Event) -> None:
        async with serve(
            self._accept,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            compression=None,
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            ready.set()
            await server.serve_forever()

    async def _accept(self, trainer: ServerConnection) -> None:
        self.connections += 1
        assert trainer.request is not None
        async with connect(
            f"ws://127.0.0.1:{self.target}{wire.INGEST_PATH}",
            subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
            additional_headers={"Authorization": trainer.request.headers["Authorization"]},
            compression=None,
            proxy=None,
        ) as server:

            async def carry(source: Any, sink: Any, change: Callable[[bytes], list[bytes]]) -> None:
                with contextlib.suppress(ConnectionClosed):
                    async for data in source:
                        for one in change(data):
                            await sink.send(one)
                await sink.close()

            await asyncio.gather(
                carry(trainer, server, lambda data: self.up(data)),
                carry(server, trainer, lambda data: self.down(data)),
            )


@contextmanager
def running(proxy: Bytes | Messages) -> Iterator[Any]:
    """``proxy`` in a thread of its own."""
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main(work: Coroutine[Any, Any, None]) -> None:
        loops.append(asyncio.get_running_loop())
        with contextlib.suppress(asyncio.CancelledError):
            await work

    thread = threading.Thread(target=lambda: asyncio.run(main(proxy.run(ready))), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop = loops[0]
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)
