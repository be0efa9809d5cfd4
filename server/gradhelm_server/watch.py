"""Open sockets, and the end of those whose credential is worth nothing any more.

Law: a token that was revoked or has expired, a session that was ended, an account that was disabled
or lost its grant: its sockets end within EVERY seconds and a little.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradhelm import wire

from .roles import Identity
from .store import Store

EVERY: Final = 3.0
"""Seconds between two looks at what the open sockets came in with."""
MOST: Final = 5000
"""Sockets that one credential may have open."""

Key = tuple[str, str]
"""("token" or "session", the secret's digest)."""
Identify = Callable[[Connection, Key, float], Identity | None]


@dataclass(frozen=True, slots=True)
class Pass:
    """With what, and what for, somebody came in. project: None where it is not known yet."""

    key: Key
    action: str
    project: str | None


class Sockets:
    """Those that are open in this process."""

    def __init__(self, store: Store, identify: Identify) -> None:
        self._store = store
        self._identify = identify
        self._open: dict[Key, set[_Socket]] = {}
        self._looking: asyncio.Task[None] | None = None

    def full(self, key: Key) -> bool:
        return len(self._open.get(key, ())) >= MOST

    async def serve(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, let_in: Pass
    ) -> None:
        """Run the application for one socket until it ends, or has to."""
        socket = _Socket(let_in, receive, send)
        mine = self._open.setdefault(let_in.key, set())
        mine.add(socket)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            await app(scope, socket.receive, socket.send)
        finally:
            mine.discard(socket)
            if not mine and self._open.get(let_in.key) is mine:
                del self._open[let_in.key]

    async def _look(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(EVERY)
                with contextlib.suppress(DBAPIError):  # it cannot be asked; the next look can
                    await self._end_those_that_must()
        finally:
            self._looking = None

    async def _end_those_that_must(self) -> None:
        keys, now = list(self._open), time.time()

        def look(connection: Connection) -> dict[Key, Identity | None]:
            return {key: self._identify(connection, key, now) for key in keys}

        for key, identity in (await self._store.read(look)).items():
            for socket in [*self._open.get(key, ())]:
                what = socket.let_in
                if identity is None or not identity.may(what.action, what.project):
                    socket.end()


class _Socket:
    """What the application sees of a socket: the same, until it is ended from outside."""

    def __init__(self, let_in: Pass, receive: Receive, send: Send) -> None:
        self.let_in = let_in
        self._receive = receive
        self._send = send
        self._goodbye: asyncio.Task[None] | None = None

    def end(self) -> None:
        if self._goodbye is None:
            # A client that does not read would hold up whoever waits for that.
            self._goodbye = asyncio.create_task(self._say_goodbye())

    async def _say_goodbye(self) -> None:
        code = wire.CloseCode.UNAUTHORIZED
        message = {"type": "websocket.close", "code": int(code), "reason": wire.CLOSE_REASONS[code]}
        with contextlib.suppress(RuntimeError, OSError):  # it has gone by itself
            await self._send(message)

    async def receive(self) -> Message:
        message = await self._receive()
        # Whatever it says now, it says in vain.
        return message if self._goodbye is None else {"type": "websocket.disconnect", "code": 1006}

    async def send(self, message: Message) -> None:
        if self._goodbye is None:
            await self._send(message)
