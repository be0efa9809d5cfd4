"""Everything that can be asked, by everybody, from everywhere: who gets in is who should.

Route x method x credential x Origin x Host, straight into the application. The table here says it a
second time, in other words than the gate does, so that neither can be wrong alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support import Running, running
from test_gate import inventory
from trainer import trainer

from gradhelm_server import people, sessions, tokens
from gradhelm_server.roles import LOCAL, Identity

log = logging.getLogger(__name__)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "WEBSOCKET")
HOST = "127.0.0.1:8642"
ORIGINS = (None, f"http://{HOST}", "http://evil.example", "null", f"http://{HOST}.evil.example")

ALL = {"GET", "HEAD"}
ANYBODY: dict[str, set[str]] = {
    "/livez": ALL,
    "/readyz": ALL,
    "/login": {*ALL, "POST"},
    "/login/ways": ALL,
    "/login/oidc": ALL,
    "/login/oidc/callback": ALL,
    "/login-assets/file.js": ALL,
    "/login-assets/inter.woff2": ALL,
    "/favicon.ico": ALL,
}
SIGNED_IN: dict[str, set[str]] = {
    **dict.fromkeys(
        (
            "/",
            "/compare",
            "/settings",
            "/runs/x",
            "/assets/file.js",
            "/_dash-component-suites/x",
            "/_dash-component-suites/x/x",
            "/_dash-layout",
            "/_dash-dependencies",
            "/_favicon.ico",
            "/_reload-hash",
            "/api/v1/runs",
            "/api/v1/server",
            "/api/v1/openapi.json",
            "/api/v1/me/sessions",
        ),
        ALL,
    ),
    "/logout": {"POST"},
    "/api/v1/tokens": {*ALL, "POST"},
    "/api/v1/tokens/x": {"DELETE"},
    "/api/v1/me/password": {"POST"},
    "/api/v1/me/sessions/x": {"DELETE"},
    "/_dash-update-component": {"POST"},
    "/_dash-ws-callback": {"WEBSOCKET"},
}
ADMINS: dict[str, set[str]] = {
    "/api/v1/users": {*ALL, "POST"},
    "/api/v1/users/x": {*ALL, "PATCH", "DELETE"},
    "/api/v1/login-links": {"POST"},
    "/api/v1/prune": {"POST"},
}
VIEWERS_OF_THE_RUN: dict[str, set[str]] = {
    f"/api/v1/runs/x{part}": ALL
    for part in (
        "",
        "/columns",
        "/parameters",
        "/series",
        "/times",
        "/heatmap",
        "/events",
        "/whatif",
        "/advice",
        "/export",
        "/control",
        "/control/history",
    )
} | {"/api/v1/runs/x/live": {"WEBSOCKET"}}
OPERATORS_OF_THE_RUN: dict[str, set[str]] = {
    "/api/v1/runs/x": {"PATCH", "DELETE"},
    "/api/v1/runs/x/restore": {"POST"},
    "/api/v1/runs/x/control": {"PUT"},
}
TRAINERS = {"/api/v1/ingest": {"WEBSOCKET"}}
WATCHERS = {"/metrics": ALL}


class Who(NamedTuple):
    """A credential: its header, and what its holder may (said here once more)."""

    name: str
    header: tuple[str, str] | None
    may: frozenset[str] = frozenset()

    @property
    def by_cookie(self) -> bool:
        return self.header is not None and self.header[0] == "cookie"


class Try(NamedTuple):
    method: str
    path: str
    who: Who
    origin: str | None
    host: str


def allowed(asked: Try) -> bool:
    """Whether this may be answered with 2xx, or the socket opened."""
    method, path, who, origin, host = asked
    if host != HOST:
        return False
    unsafe = method not in ("GET", "HEAD", "OPTIONS")
    if unsafe and origin not in (None, f"http://{HOST}"):
        return False
    if method in ANYBODY.get(path, ()):
        return True
    if unsafe and who.by_cookie and origin is None:
        return False
    if method in TRAINERS.get(path, ()):
        return "report" in who.may and not who.by_cookie
    return (
        (method in SIGNED_IN.get(path, ()) and "look" in who.may)
        or (method in ADMINS.get(path, ()) and "administer" in who.may)
        or (method in WATCHERS.get(path, ()) and "read figures" in who.may)
        or (method in VIEWERS_OF_THE_RUN.get(path, ()) and "see the run" in who.may)
        or (method in OPERATORS_OF_THE_RUN.get(path, ()) and "steer the run" in who.may)
    )


VIEWER = frozenset({"look", "see the run"})
OPERATOR = VIEWER | {"steer the run"}
ADMIN = OPERATOR | {"administer", "report", "read figures"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from gradhelm_dashboard.app import build_ui

    def mount(app: object) -> list[str]:
        return list(build_ui(app, version="0").csp_hashes())

    with running(tmp_path_factory.mktemp("matrix"), mount=mount) as found:
        yield found


def everybody(whole: Running, project: str) -> list[Who]:
    """Every kind of credential, good and bad; the run is in ``project``."""
    now, by = time.time(), Identity("local", "session", LOCAL)

    def make(connection: object) -> list[Who]:
        found = [
            Who("nobody", None),
            Who("an unknown token", ("authorization", "Bearer gh_" + secrets.token_urlsafe(32))),
            Who("no token at all", ("authorization", "Basic Z2g6eA==")),
            Who("an unknown session", ("cookie", "gradhelm-8642=" + secrets.token_urlsafe(32))),
        ]
        for name, role, where, may in (
            ("viewer", "viewer", "*", VIEWER),
            ("viewer there", "viewer", project, VIEWER),
            ("viewer elsewhere", "viewer", "elsewhere", {"look"}),
            ("operator", "operator", "*", OPERATOR),
            ("operator there", "operator", project, OPERATOR),
            ("operator elsewhere", "operator", "elsewhere", {"look"}),
            ("admin", "admin", "*", ADMIN),
            ("ingest", "ingest", "*", {"report"}),
            ("ingest elsewhere", "ingest", "elsewhere", {"report"}),
            ("metrics", "metrics", "*", {"read figures"}),
        ):
            _, secret = tokens.create(connection, by, now, role=role, project=where, name=name)
            found.append(
                Who(f"token: {name}", ("authorization", f"Bearer {secret}"), frozenset(may))
            )
            if role in ("ingest", "metrics"):
                continue
            user = people.create(connection, by, now, name, {where: role}, None)
            cookie = sessions.create(connection, user, "link", "a browser", now, 1000)
            found.append(
                Who(
                    f"session: {name}",
                    ("cookie", f"gradhelm-8642={cookie}"),
                    frozenset(may - {"report"}),
                )
            )
        for name, expires in (("expired", now - 1), ("revoked", None)):
            number, secret = tokens.create(
                connection, by, now, role="admin", name=name, expires=expires
            )
            if name == "revoked":
                tokens.revoke(connection, number, by, now)
            found.append(Who(f"token: {name}", ("authorization", f"Bearer {secret}")))
        over = sessions.create(connection, None, "link", "", now - 100, 1)
        found.append(Who("session: over", ("cookie", f"gradhelm-8642={over}")))
        gone = people.create(connection, by, now, "disabled", {"*": "admin"}, None)
        cookie = sessions.create(connection, gone, "link", "", now, 1000)
        people.change(connection, by, now, gone, disabled=True)
        found.append(Who("session: disabled", ("cookie", f"gradhelm-8642={cookie}")))
        return found

    return whole.store.submit(make).result()


async def ask(app: object, asked: Try, path: str) -> tuple[int, bytes]:
    """What is answered: the status (101 for an opened socket) and the body."""
    headers = [(b"host", asked.host.encode())]
    if asked.origin is not None:
        headers.append((b"origin", asked.origin.encode()))
    if asked.who.header is not None:
        name, value = asked.who.header
        headers.append((name.encode(), value.encode()))
    scope = {
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8642),
        "state": {},
    }
    if asked.method == "WEBSOCKET":
        scope |= {
            "type": "websocket",
            "scheme": "ws",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        coming = iter([{"type": "websocket.connect"}])
        last = {"type": "websocket.disconnect", "code": 1001}
    else:
        scope |= {"type": "http", "scheme": "http", "method": asked.method}
        coming = iter([{"type": "http.request", "body": b"", "more_body": False}])
        last = {"type": "http.disconnect"}
    sent: list[dict] = []

    async def receive() -> dict:
        return next(coming, last)

    async def send(message: dict) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 20)  # type: ignore[operator]
    first = sent[0]
    if first["type"] == "websocket.accept":
        return 101, b""
    if first["type"] == "websocket.close":
        return 403, b""
    return first["status"], b"".join(m.get("body", b"") for m in sent[1:])


def test_who_gets_in_is_who_should(whole: Running) -> None:
    app = whole.service.asgi
    # Dash's answer to every path that is left has none of its own.
    paths = {"/" + path.lstrip("/") for _, path in inventory(app._app.routes)}  # type: ignore[attr-defined]
    told = {
        path
        for table in (
            ANYBODY,
            SIGNED_IN,
            ADMINS,
            VIEWERS_OF_THE_RUN,
            OPERATORS_OF_THE_RUN,
            TRAINERS,
            WATCHERS,
        )
        for path in table
    }
    # Dash offers more than the page needs; all of that is refused, as is whatever is not there.
    closed = {path for path in paths - told if path.startswith("/_")} | {"/x", "/api/x"}
    assert paths - told - closed == set(), "a route that is in no table of this test"
    paths |= told | {"/docs", "/api/v1/runs/x/nothing", "/api/v1/../login"}
    with trainer(whole.ws, whole.token, project="there") as fake:
        fake.send(0, fake.rows([0.5, 2.0]))
    who = everybody(whole, "there")
    # Another Host is refused before anything else is looked at.
    places = [*((origin, HOST) for origin in ORIGINS), (f"http://{HOST}", "evil.example")]
    asked = [
        Try(method, path, one, *place)
        for method, path, one, place in itertools.product(METHODS, sorted(paths), who, places)
    ]
    # Of those who may, only one goes: afterwards there is nothing to go out of.
    asked = [one for one in asked if not (one.path == "/logout" and allowed(one))]
    counted: Counter[str] = Counter()
    wrong = []

    async def run() -> None:
        for one in asked:
            path = one.path.replace("/api/v1/runs/x", f"/api/v1/runs/{fake.run}")
            status, body = await ask(app, one, path)
            good, may = status == 101 or 200 <= status < 300, allowed(one)
            counted["let in" if good else f"refused by {status}"] += 1
            code = json.loads(body)["error"]["code"] if status in (401, 403) and body else ""
            if (good and not may) or (may and code in ("unauthorized", "forbidden", "bad_origin")):
                wrong.append((one.method, one.path, one.who.name, one.origin, one.host, status))
            if status >= 500:
                wrong.append((one.method, one.path, one.who.name, one.origin, one.host, status))

    asyncio.run(run())
    log.info("%s requests: %s", f"{len(asked):,}", dict(sorted(counted.items())))
    assert not wrong, f"{len(wrong)} of {len(asked):,}: {wrong[:10]}"
    assert len(asked) > 50_000
    assert counted["let in"] > 1000
