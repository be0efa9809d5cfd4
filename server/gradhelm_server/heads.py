"""Heads: how much of a request is read, and how long is waited for it, before anybody is known.

Law: what a stranger sends takes a bounded place for a bounded time. uvicorn's parser keeps a header
of any length, and a connection that says nothing for ever; here both end with an answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import error_body

MAX_HEAD: Final = 64 * 1024
"""Bytes of the request line and all header fields; trailers count too."""
WITHIN: Final = 30.0
"""Seconds in which a request has to come in whole, its body included."""


class HeadTooLong(Exception):
    """The head of a request is longer than MAX_HEAD."""


class Heads(HttpToolsProtocol):
    """One HTTP connection. What cannot be read is refused in the shape that all errors have."""

    _head = 0
    _silent = 0
    _told = False
    _too_long = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._told = False
        super().data_received(data)
        # What the parser has not told of yet it keeps: half of a header, or of a chunk's extension.
        self._silent = 0 if self._told else self._silent + len(data)
        if self._silent > MAX_HEAD and not self.transport.is_closing():
            self._too_long = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._told = True
        self._head = 0
        self._wait()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._told = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._told = True
        self._wait_no_more()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._wait_no_more()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read. ``msg`` is uvicorn's and says less."""
        if self._too_long:
            status, body = (
                "431 Request Header Fields Too Large",
                error_body("too_large", f"a request's head has at most {MAX_HEAD // 1024} KiB"),
            )
        else:
            error = sys.exception()  # uvicorn calls this while it handles the parser's error
            why = str(getattr(error, "__context__", None) or error)[:200]
            status = "400 Bad Request"
            body = error_body("bad_request", f"this is no HTTP request: {why}")
        content = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
            "\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._told = True
        self._head += size
        if self._head > MAX_HEAD:
            self._too_long = True
            raise HeadTooLong

    def _wait(self) -> None:
        self._wait_no_more()
        self._timer = self.loop.call_later(WITHIN, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
