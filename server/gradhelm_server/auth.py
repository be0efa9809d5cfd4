"""The gate: one outermost middleware that lets in who may, and nobody else.

Deny by default. A path that is in no rule is refused for everybody, whatever app is mounted behind
it; so is another Host (DNS rebinding) and, for anything unsafe or by cookie over a socket, another
Origin. Trainers' sockets take a bearer token and no cookie; browsers' sockets the reverse of that
risk: cookie and exact Origin.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import accounts
from .accounts import Identity
from .errors import error_body
from .settings import LOOPBACK, ServerSettings
from .store import Store

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY = 1024 * 1024
REMEMBER = 2.0
"""Seconds for which a credential that was found good is not looked up again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use the paths that match: ``action`` None is everybody, cookie or not."""

    methods: frozenset[str]  # "WEBSOCKET" for sockets
    path: re.Pattern[str]
    action: str | None
    cookie: bool = True

    @classmethod
    def of(cls, methods: str, path: str, action: str | None, *, cookie: bool = True) -> Rule:
        return cls(frozenset(methods.split()), re.compile(path), action, cookie)


_RUN = r"/api/v1/runs/[^/]+"
RULES = (
    Rule.of("GET HEAD", r"/livez|/readyz", None),
    Rule.of("GET HEAD", r"/login|/login-assets/[\w.-]+|/favicon\.ico", None),
    Rule.of("POST", r"/login", None),
    Rule.of("POST", r"/logout", "view"),
    Rule.of("WEBSOCKET", r"/api/v1/ingest", "ingest", cookie=False),
    Rule.of("WEBSOCKET", rf"{_RUN}/live", "view"),
    Rule.of("GET HEAD", r"/api/v1/(runs|server|openapi\.json)", "view"),
    Rule.of("GET HEAD", _RUN, "view"),
    Rule.of("PATCH DELETE", _RUN, "control"),
    Rule.of(
        "GET HEAD",
        rf"{_RUN}/(columns|parameters|series|heatmap|events|whatif|control|control/history)",
        "view",
    ),
    Rule.of("PUT", rf"{_RUN}/control", "control"),
    Rule.of("POST", r"/api/v1/(login-links|prune)", "admin"),
    Rule.of("GET HEAD POST", r"/api/v1/tokens", "admin"),
    Rule.of("DELETE", r"/api/v1/tokens/[^/]+", "admin"),
    # The page: the shell, its own traffic, its files.
    Rule.of("GET HEAD", r"/|/runs/[^/]+", "view"),
    Rule.of("GET HEAD", r"/(assets|_dash-component-suites)/.+", "view"),
    Rule.of("GET HEAD", r"/_dash-(layout|dependencies)|/_favicon\.ico|/_reload-hash", "view"),
    Rule.of("POST", r"/_dash-update-component", "view"),
    Rule.of("WEBSOCKET", r"/_dash-ws-callback", "view"),
)
"""Everything that can be reached at all."""

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


class Refusal(Exception):
    """Why a request does not pass the gate."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def cookie_name(connection: HTTPConnection) -> str:
    """One cookie per port: cookies do not know ports, and two servers may run on one machine."""
    if connection.url.scheme in ("https", "wss"):
        return "__Host-gradhelm"
    return f"gradhelm-{connection.url.port or 80}"


def rule_for(method: str, path: str) -> Rule | None:
    return next((r for r in RULES if method in r.methods and r.path.fullmatch(path)), None)


class Gate:
    """Wraps the whole application. ``csp`` is the content security policy of every answer."""

    def __init__(self, app: ASGIApp, store: Store, settings: ServerSettings, csp: str) -> None:
        self._app = app
        self._store = store
        self._hosts = LOOPBACK | settings.allowed_hosts
        self._headers = [*HEADERS.items(), (b"content-security-policy", csp.encode())]
        self._known: dict[str, tuple[float, Identity | None]] = {}
        self._noted: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sender = self._dressed(send)
        try:
            scope["gradhelm.identity"] = await self._admit(HTTPConnection(scope))
        except Refusal as refusal:
            if refusal.status != 404 or not _wants_page(scope):
                await _refuse(scope, receive, sender, refusal)
                return
            # Somebody who is logged in mistyped an address: the page says so better than JSON.
            scope, sender = {**scope, "path": "/", "raw_path": b"/"}, _not_found(sender)
        await self._app(scope, _limited(receive) if scope["type"] == "http" else receive, sender)

    async def _admit(self, connection: HTTPConnection) -> Identity | None:
        scope = connection.scope
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        hosts = connection.headers.getlist("host")
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts:
            raise Refusal(
                400,
                "bad_host",
                "this server does not answer to that host name; GRADHELM_ALLOWED_HOSTS names "
                "the ones that it does",
            )
        path = scope["path"]
        rule = rule_for(method, path)
        origin = connection.headers.get("origin")
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        if origin is not None and method not in SAFE and origin != f"{scheme}://{hosts[0]}":
            raise Refusal(403, "bad_origin", "requests from other origins are not accepted")
        if rule is not None and rule.action is None:
            return None
        bearer = connection.headers.get("authorization")
        if bearer is not None:
            identity = await self._identify_bearer(bearer)
        elif rule is not None and not rule.cookie:
            raise Refusal(401, "unauthorized", "a token is needed: Authorization: Bearer gh_…")
        else:
            identity = await self._identify(
                "session", connection.cookies.get(cookie_name(connection))
            )
            if identity is not None and method not in SAFE and origin is None:
                raise Refusal(403, "bad_origin", "an Origin header is needed with a cookie")
        if identity is None:
            raise Refusal(401, "unauthorized", "log in, or send a valid token")
        if rule is None:
            allowed = sorted({m for r in RULES if r.path.fullmatch(path) for m in r.methods})
            if allowed and method != "WEBSOCKET":
                raise Refusal(405, "method_not_allowed", f"{path} takes {', '.join(allowed)}")
            raise Refusal(404, "not_found", "there is nothing here")
        assert rule.action is not None
        if not identity.may(rule.action):
            raise Refusal(
                403, "forbidden", f"the role {identity.role!r} may not {rule.action} here"
            )
        return identity

    async def _identify_bearer(self, header: str) -> Identity | None:
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token.startswith(accounts.TOKEN_PREFIX):
            return None
        return await self._identify("token", token.strip())

    async def _identify(self, kind: str, secret: str | None) -> Identity | None:
        if not secret or len(secret) > 200:
            return None
        key, moment = kind + accounts.digest(secret), time.monotonic()
        known = self._known.get(key)
        if known is not None and known[0] > moment:
            return known[1]
        look = accounts.identify_token if kind == "token" else accounts.identify_session
        now = time.time()
        identity = await self._store.read(lambda connection: look(connection, secret, now))
        if identity is None:  # not remembered: guesses must not fill the memory
            self._known.pop(key, None)
            return None
        self._known[key] = (moment + REMEMBER, identity)
        if kind == "token" and self._noted.get(key, 0.0) + 60 < moment:
            self._noted[key] = moment
            self._store.submit(lambda connection: accounts.used_token(connection, secret, now))
        return identity

    def _dressed(self, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                present = {name.lower() for name, _ in message.get("headers", ())}
                extra = [(n, v) for n, v in self._headers if n not in present]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        return dressed


def _host_name(host: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-f:]+\]|[^:\[\]]+)(:\d{1,5})?", host.lower())
    return match[1].strip("[]") if match else ""


def _limited(receive: Receive) -> Receive:
    """Bodies of more than MAX_BODY bytes are not read to their end."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise BodyTooLarge
        return message

    return limited


class BodyTooLarge(Exception):
    """The body of a request is larger than MAX_BODY."""


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message})
            return
        prefix = "websocket.http"
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    status, body = refusal.status, json.dumps(error_body(refusal.code, refusal.message)).encode()
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
        if _wants_page(scope):
            status, body = 303, b""
            headers.append((b"location", b"/login"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{prefix}.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _not_found(send: Send) -> Send:
    async def not_found(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            message = {**message, "status": 404}
        await send(message)

    return not_found


def _wants_page(scope: Scope) -> bool:
    """Whether a person sits in front of it."""
    accept: dict[bytes, Any] = dict(scope["headers"])
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and not scope["path"].startswith("/api/")
        and b"text/html" in accept.get(b"accept", b"")
    )
