"""The page's scripts and styles, sent compressed: each is compressed once, beside the event loop.

Starlette's own middleware would do so for every visitor, on the loop that also takes the trainers'
frames; a megabyte of JavaScript would hold these up for tens of milliseconds.
"""

from __future__ import annotations

import gzip
import hashlib

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDERS = ("/assets/", "/_dash-component-suites/")
KINDS = ("text/", "application/javascript", "application/json", "image/svg")
LEAST = 500
"""Bytes below which it is not worth it."""


class Packed:
    """Middleware: answers with files of ``FOLDERS`` are gzipped where the browser takes that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._packed: dict[str, tuple[bytes, bytes]] = {}  # by path: digest, gzipped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(FOLDERS):
            await self._app(scope, receive, send)
            return
        taken = "gzip" in Headers(scope=scope).get("accept-encoding", "")
        start: Message = {}
        body = bytearray()

        async def packing(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.add_vary_header("Accept-Encoding")
                if not taken or not _worth_it(message["status"], headers):
                    await send(message)
                else:
                    start = message
                return
            if not start:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body", False):
                return
            packed = await self._pack(scope["path"], bytes(body))
            headers = MutableHeaders(raw=start["headers"])
            headers["Content-Encoding"] = "gzip"
            headers["Content-Length"] = str(len(packed))
            if (etag := headers.get("etag")) and not etag.startswith("W/"):
                headers["ETag"] = f"W/{etag}"  # the same file in other bytes
            await send(start)
            await send({"type": "http.response.body", "body": packed})

        await self._app(scope, receive, packing)

    async def _pack(self, path: str, body: bytes) -> bytes:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        kept = self._packed.get(path)
        if kept is None or kept[0] != digest:  # a file that was changed under its name
            kept = digest, await anyio.to_thread.run_sync(gzip.compress, body)
            self._packed[path] = kept
        return kept[1]


def _worth_it(status: int, headers: Headers) -> bool:
    kind = headers.get("content-type", "")
    length = int(headers.get("content-length", LEAST))
    return (
        status == 200
        and kind.startswith(KINDS)
        and length >= LEAST
        and "content-encoding" not in headers
    )
