"""The gate: one outermost middleware that lets in who may, and nobody else.

Deny by default. A path that is in no rule is refused for everybody, whatever app is mounted behind
it; so is another Host (DNS rebinding) and, for anything unsafe or by cookie over a socket, another
Origin. Trainers' sockets take a bearer token and no cookie; browsers' sockets the reverse of that
risk: cookie and exact Origin.

A path that names a run is looked at here as well: for who has no grant for the run's project there
is no such run, whatever is asked of it.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import runs, sessions, tokens
from .errors import error_body
from .roles import Identity
from .settings import LOOPBACK, ServerSettings
from .store import Store
from .watch import Key, Pass, Sockets

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY = 1024 * 1024
MAX_NEXT = 4096
"""Characters of an address that somebody goes on to after signing in; deep links are some hundreds."""
REMEMBER = 2.0
"""Seconds for which a credential that was found good is not looked up again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use the paths that match: ``action`` None is everybody, cookie or not. A group "run"
    in the path: who may do that in the run's project."""

    methods: frozenset[str]  # "WEBSOCKET" for sockets
    path: re.Pattern[str]
    action: str | None
    cookie: bool = True

    @classmethod
    def of(cls, methods: str, path: str, action: str | None, *, cookie: bool = True) -> Rule:
        return cls(frozenset(methods.split()), re.compile(path), action, cookie)


_RUN = r"/api/v1/runs/(?P<run>[^/]+)"
RULES = (
    Rule.of("GET HEAD", r"/livez|/readyz", None),
    Rule.of("GET HEAD", r"/metrics", "metrics"),
    Rule.of(
        "GET HEAD",
        r"/login|/login/(ways|oidc|oidc/callback)|/login-assets/[\w.-]+|/favicon\.ico",
        None,
    ),
    Rule.of("POST", r"/login", None),
    Rule.of("POST", r"/logout", "view"),
    Rule.of("WEBSOCKET", r"/api/v1/ingest", "ingest", cookie=False),
    Rule.of("WEBSOCKET", rf"{_RUN}/live", "view"),
    Rule.of("GET HEAD", r"/api/v1/(runs|server|openapi\.json)", "view"),
    Rule.of("GET HEAD", _RUN, "view"),
    Rule.of("PATCH DELETE", _RUN, "control"),
    Rule.of("POST", rf"{_RUN}/restore", "control"),
    Rule.of(
        "GET HEAD",
        rf"{_RUN}/(columns|parameters|series|times|heatmap|events|whatif|advice|export|control)",
        "view",
    ),
    Rule.of("GET HEAD", rf"{_RUN}/control/history", "view"),
    Rule.of("PUT", rf"{_RUN}/control", "control"),
    Rule.of("POST", r"/api/v1/(login-links|prune)", "admin"),
    Rule.of("GET HEAD POST", r"/api/v1/users", "admin"),
    Rule.of("GET HEAD PATCH DELETE", r"/api/v1/users/[^/]+", "admin"),
    # What is one's own; of others' tokens only admins learn.
    Rule.of("GET HEAD POST", r"/api/v1/tokens", "view"),
    Rule.of("DELETE", r"/api/v1/tokens/[^/]+", "view"),
    Rule.of("POST", r"/api/v1/me/password", "view"),
    Rule.of("GET HEAD", r"/api/v1/me/sessions", "view"),
    Rule.of("DELETE", r"/api/v1/me/sessions/[^/]+", "view"),
    # The page: the shell, its own traffic, its files.
    Rule.of("GET HEAD", r"/|/compare|/settings|/runs/[^/]+", "view"),
    Rule.of("GET HEAD", r"/(assets|_dash-component-suites)/.+", "view"),
    Rule.of("GET HEAD", r"/_dash-(layout|dependencies)|/_favicon\.ico|/_reload-hash", "view"),
    Rule.of("POST", r"/_dash-update-component", "view"),
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

    def __init__(self, status: int, code: str, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.allow = allow


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
        self._known: dict[Key, tuple[float, Identity]] = {}
        self._noted: dict[Key, float] = {}
        self._sockets = Sockets(store, _identify)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sender = self._dressed(send)
        try:
            let_in = await self._admit(HTTPConnection(scope))
        except Refusal as refusal:
            if refusal.status != 404 or not _wants_page(scope):
                await _refuse(scope, receive, sender, refusal)
                return
            # Somebody who is logged in mistyped an address: the page says so better than JSON.
            scope, sender = {**scope, "path": "/", "raw_path": b"/"}, _not_found(sender)
        if scope["type"] == "http":
            await self._app(scope, _limited(receive), sender)
        elif let_in is None:
            await self._app(scope, receive, sender)
        else:
            await self._sockets.serve(self._app, scope, receive, sender, let_in)

    async def _admit(self, connection: HTTPConnection) -> Pass | None:
        """What somebody came in with and for, None for what is open to all; who it is stands in
        the scope. Raises Refusal."""
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
            why = "requests from other origins are not accepted"
            if origin == f"https://{hosts[0]}":
                why = "this came by https to a proxy that GRADHELM_TRUSTED_PROXIES does not name"
            raise Refusal(403, "bad_origin", why)
        if rule is not None and rule.action is None:
            return None
        bearer = connection.headers.get("authorization")
        if bearer is not None:
            key = _bearer(bearer)
        elif rule is not None and not rule.cookie:
            raise Refusal(401, "unauthorized", "a token is needed: Authorization: Bearer gh_…")
        else:
            key = _key("session", connection.cookies.get(cookie_name(connection)))
        identity = None if key is None else await self._known_as(key)
        if key is None or identity is None:
            raise Refusal(401, "unauthorized", "log in, or send a valid token")
        if bearer is None and method not in SAFE and origin is None:
            raise Refusal(403, "bad_origin", "an Origin header is needed with a cookie")
        if rule is None:
            methods = {m for r in RULES if r.path.fullmatch(path) for m in r.methods}
            allow = ", ".join(sorted(methods - {"WEBSOCKET"}))
            if allow and method != "WEBSOCKET":
                raise Refusal(405, "method_not_allowed", f"this path takes {allow}", allow)
            raise Refusal(404, "not_found", "there is nothing here")
        assert rule.action is not None
        if not identity.may(rule.action):
            raise Refusal(
                403, "forbidden", f"the role {identity.role!r} may not {rule.action} here"
            )
        named = rule.path.fullmatch(path)
        run = named.groupdict().get("run") if named is not None else None
        project = None if run is None else await self._project(identity, rule.action, run)
        if method == "WEBSOCKET" and self._sockets.full(key):
            raise Refusal(429, "too_many_sockets", "so many sockets are open by this credential")
        scope["gradhelm.identity"] = identity
        return Pass(key, rule.action, project)

    async def _project(self, identity: Identity, action: str, run: str) -> str | None:
        """The run's project, in which somebody may do that; None for no run, of which routes tell
        themselves. Raises Refusal."""
        project = await self._store.read(lambda connection: runs.project_of(connection, run))
        if project is None:
            return None
        if not identity.may("view", project):
            raise Refusal(404, "not_found", runs.there_is_none(run))
        if not identity.may(action, project):
            raise Refusal(
                403, "forbidden", f"nobody with your role in {project!r} may {action} there"
            )
        return project

    async def _known_as(self, key: Key) -> Identity | None:
        moment = time.monotonic()
        known = self._known.get(key)
        if known is not None and known[0] > moment:
            return known[1]
        now = time.time()
        identity = await self._store.read(lambda connection: _identify(connection, key, now))
        if identity is None:  # not remembered: guesses must not fill the memory
            self._known.pop(key, None)
            self._noted.pop(key, None)
            return None
        self._known[key] = (moment + REMEMBER, identity)
        if self._noted.get(key, -60.0) + 60 < moment:
            self._noted[key] = moment
            kind, hashed = key
            note = tokens.used if kind == "token" else sessions.used
            self._store.submit(lambda connection: note(connection, hashed, now))
        return identity

    def _dressed(self, send: Send) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                present = {name.lower() for name, _ in message.get("headers", ())}
                extra = [(n, v) for n, v in self._headers if n not in present]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        return dressed


def _bearer(header: str) -> Key | None:
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token.startswith(tokens.PREFIX):
        return None
    return _key("token", token.strip())


def _key(kind: str, secret: str | None) -> Key | None:
    return (kind, tokens.digest(secret)) if secret and len(secret) <= 200 else None


def _identify(connection: Connection, key: Key, now: float) -> Identity | None:
    kind, hashed = key
    look = tokens.identify if kind == "token" else sessions.identify
    return look(connection, hashed, now)


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
            headers.append((b"location", _login(scope)))
    if refusal.allow:
        headers.append((b"allow", refusal.allow.encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": f"{prefix}.response.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.response.body", "body": body})


def _login(scope: Scope) -> bytes:
    """The login page's address, from which one goes on to what was asked for."""
    query: bytes = scope["query_string"]
    wanted: bytes = scope["raw_path"] + (b"?" + query if query else b"")
    if wanted == b"/" or len(wanted) > MAX_NEXT:
        return b"/login"
    return b"/login?next=" + quote(wanted).encode()


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
