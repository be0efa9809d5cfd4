"""Dialling: how a trainer's connection to a server is opened, and what comes over it.

Law: a peer that stops reading or answering holds nobody up for longer than SILENCE_LIMIT.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import sys
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from . import redact, wire
from .errors import WireError
from .settings import is_loopback

BEAT: Final = 5.0
"""Seconds between heartbeats."""
OPEN_LIMIT: Final = 5.0
"""Seconds for the connection to open, and then for the welcome."""
SILENCE_LIMIT: Final = 10.0
"""Seconds without a pong, or stuck in a send, after which a connection counts as dead."""

_log: Final = logging.getLogger(f"{__name__}.websockets")
# At level DEBUG websockets tells every header, and with them the token.
_log.addFilter(redact.Filter())


class Redirected(InvalidHandshake):
    """The server is elsewhere; the token is not for whoever is there."""

    def __init__(self, to: str) -> None:
        super().__init__(
            f"it redirects to {redact.harmless(to)[:200]!r}, and a token is not carried on: if that "
            "is the server, set GRADHELM_SERVER to it"
        )


class Straight(ClientConnection):
    """A connection that follows no redirect, as websockets would on its own from release 17 on."""

    def handshake(self, *arguments: Any, **named: Any) -> None:
        try:
            super().handshake(*arguments, **named)
        except InvalidStatus as refusal:
            if 300 <= refusal.response.status_code < 400:
                raise Redirected(" ".join(refusal.response.headers.get_all("Location"))) from None
            raise


def ingest_url(server: str) -> str:
    """The WebSocket URL for trainers on ``server`` (an http or https URL, with or without path)."""
    parts = urlsplit(server)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + wire.INGEST_PATH, "", ""))


def options(server: str, token: str) -> dict[str, Any]:
    """How a trainer's connection to ``server`` is opened."""
    found: dict[str, Any] = {
        "subprotocols": [Subprotocol(wire.SUBPROTOCOL)],
        "compression": None,
        "max_size": wire.MAX_MESSAGE,
        "open_timeout": OPEN_LIMIT,
        "close_timeout": 1.0,
        "ping_interval": BEAT,
        "ping_timeout": SILENCE_LIMIT,
        "create_connection": Straight,
        "logger": _log,
    }
    if token:
        found["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if is_loopback(server):  # a proxy from the environment is not meant for this machine
        found["proxy"] = None
    return found


def new_segment() -> str:
    """A random name for one life of a trainer."""
    return secrets.token_hex(8)


def binary(data: str | bytes) -> bytes:
    """A message as it has to come. Raises WireError for text."""
    if isinstance(data, str):
        raise WireError("a text message; only binary ones are part of the protocol")
    return data


def limit_sends(connection: ClientConnection) -> None:
    """A peer that stopped reading must not hold us."""
    if sys.platform == "win32":
        limit = struct.pack("<L", int(1000 * SILENCE_LIMIT))
    else:
        limit = struct.pack("@ll", int(SILENCE_LIMIT), 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
