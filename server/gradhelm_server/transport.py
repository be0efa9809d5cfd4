"""The transport: over what a request came in, and from whom; settled before anything looks at it.

Law: what a request says about that itself (X-Forwarded-Proto, X-Forwarded-For) counts only when a
trusted proxy has passed it on. X-Forwarded-Host and Forwarded never count: the Host header is the
one that the browser sent, and a proxy has to leave it alone.
"""

from __future__ import annotations

import json
from ipaddress import IPv6Network, ip_address
from typing import Any, Final, cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .errors import error_body
from .settings import LOOPBACK, Network, ServerSettings

SECURE: Final = ("https", "wss")
HSTS: Final = (b"strict-transport-security", b"max-age=31536000")


class Transport:
    """Wraps the gate; behind it ``scheme`` and ``client`` of a scope are those of the person's own
    connection, as far as that is known."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._proxies = settings.trusted_proxies
        # Where others could come by without the proxy, it would be over plain http.
        self._by_proxy_only = bool(self._proxies) and not (
            settings.local or settings.tls or settings.insecure_http
        )
        trusted = [str(one) for network in self._proxies for one in _both(network)]
        self._inner: ASGIApp = self._answer
        if trusted:
            believing: Any = ProxyHeadersMiddleware(cast(Any, self._answer), trusted)
            self._inner = believing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._by_proxy_only and not self._came_by_proxy(scope):
            await _refuse(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HSTS is for all ports of a name: what else runs on localhost must not lose its http by it.
        pinned = scope["scheme"] in SECURE and _host(scope) not in LOOPBACK

        async def pinning(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message = {**message, "headers": [*message.get("headers", ()), HSTS]}
            await send(message)

        await self._app(scope, receive, pinning if pinned else send)

    def _came_by_proxy(self, scope: Scope) -> bool:
        """Or from this machine, as health checks do."""
        try:
            peer = ip_address(scope["client"][0])
        except (TypeError, ValueError):  # no address at all
            return False
        peer = getattr(peer, "ipv4_mapped", None) or peer
        return peer.is_loopback or any(peer in network for network in self._proxies)


def _both(network: Network) -> list[Network]:
    """A network as it is, and as it looks to a socket of both IP versions (::ffff:10.0.0.1)."""
    if isinstance(network, IPv6Network):
        return [network]
    mapped = f"::ffff:{network.network_address}/{96 + network.prefixlen}"
    return [network, IPv6Network(mapped)]


def _host(scope: Scope) -> str:
    """The name in the Host header."""
    try:
        return urlsplit("//" + Headers(scope=scope).get("host", "")).hostname or ""
    except ValueError:
        return ""


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    why = "this server is reached by its proxy only (https://…), not over plain http"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    body = json.dumps(error_body("by_proxy_only", why)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
