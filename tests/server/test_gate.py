"""The gate: whatever path, method and socket there is, nobody comes in without being let in."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from support import Running, running
from trainer import trainer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gradhelm_server.auth import RULES, rule_for
from gradhelm_server.roles import ROLES


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the page on it."""
    from gradhelm_dashboard.app import build_ui

    def mount(app: object) -> list[str]:
        return list(build_ui(app, version="0").csp_hashes())

    with running(tmp_path_factory.mktemp("whole"), mount=mount) as found:
        yield found


def inventory(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path with sample values) of every route, mount and socket."""
    for route in routes:
        if isinstance(route, Mount):
            inner = list(inventory(list(route.routes or ()), prefix + route.path))
            yield from inner or [("GET", f"{prefix}{route.path}/file.js")]
        elif isinstance(route, APIWebSocketRoute | WebSocketRoute):
            yield "WEBSOCKET", prefix + sample(route.path)
        elif isinstance(route, APIRoute | Route):
            for method in sorted(route.methods or {"GET"}):
                yield method, prefix + sample(route.path)
        elif getattr(route, "original_router", None) is not None:
            yield from inventory(list(route.original_router.routes), prefix)
        else:
            raise AssertionError(f"a route of a kind that is not looked at: {route!r}")


def sample(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "x", path)


PUBLIC = {"/livez", "/readyz", "/login", "/favicon.ico"}


def every_path(whole: Running) -> list[tuple[str, str]]:
    app = whole.service.asgi._app
    found = sorted(set(inventory(app.routes)))
    assert len(found) > 30, found
    return found


def test_no_route_answers_without_credentials(whole: Running) -> None:
    tried = 0
    with httpx.Client(base_url=whole.url) as stranger:
        for method, path in every_path(whole):
            if path in PUBLIC or path.startswith("/login"):
                continue
            tried += 1
            if method == "WEBSOCKET":
                with pytest.raises(InvalidStatus) as refused:
                    connect(whole.ws + path, proxy=None).__enter__()
                assert refused.value.response.status_code == 401, path
            else:
                answer = stranger.request(method, path)
                assert answer.status_code == 401, (method, path)
                if method != "HEAD":
                    assert answer.json()["error"]["code"] == "unauthorized"
    assert tried > 30


def test_every_route_that_is_offered_stands_in_the_table(whole: Running) -> None:
    """What no rule names is refused, so a route that was forgotten here would be dead."""
    dead = {
        path
        for method, path in every_path(whole)
        if method not in ("HEAD", "OPTIONS") and rule_for(method, path) is None
    }
    # Dash's answer to every path that is left, and the guard before it.
    unused = {"x", "/api/x"}
    assert {path for path in dead if not path.startswith("/_")} == unused


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer gh_wrong"}, 401),
        ({"Authorization": "Basic Z2g6eA=="}, 401),
        ({"Cookie": "gradhelm-80=x"}, 401),
    ],
)
def test_wrong_credentials_are_no_credentials(server: Running, headers, status) -> None:
    answer = httpx.get(f"{server.url}/api/v1/runs", headers=headers)
    assert answer.status_code == status


def test_a_token_in_the_query_is_not_looked_at(server: Running) -> None:
    assert httpx.get(f"{server.url}/api/v1/runs?token={server.token}").status_code == 401


def test_a_person_is_led_to_the_login_page(server: Running) -> None:
    for wanted, login in (
        ("/", "/login"),
        ("/runs/x", "/login?next=/runs/x"),
        (
            "/runs/x%2F?window=10&layer=a%20b",
            "/login?next=/runs/x%252F%3Fwindow%3D10%26layer%3Da%2520b",
        ),
        ("//evil.example/x", "/login?next=//evil.example/x"),  # the login page goes nowhere else
        ("/runs/" + "x" * 5000, "/login"),
    ):
        answer = httpx.get(server.url + wanted, headers={"Accept": "text/html"})
        assert (answer.status_code, answer.headers["location"]) == (303, login)


def token(server: Running, role: str, **values: object) -> dict[str, str]:
    made = server.rest.post("/api/v1/tokens", json={"role": role, **values})
    assert made.status_code == 201
    return {"Authorization": f"Bearer {made.json()['token']}"}


ACTIONS = {
    "view": ("GET", "/api/v1/runs"),
    "control": ("PATCH", "/api/v1/runs/x"),
    "admin": ("GET", "/api/v1/users"),
}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_its_own_and_no_more(server: Running, role: str) -> None:
    headers = token(server, role)
    for action, (method, path) in ACTIONS.items():
        status = httpx.request(
            method,
            server.url + path,
            headers=headers,
            json={"note": ""} if method != "GET" else None,
        ).status_code
        assert (status != 403) == (action in ROLES[role]), (role, action)
    secret = headers["Authorization"].split()[1]
    if "ingest" in ROLES[role]:
        with trainer(server.ws, secret):
            pass
    else:
        with pytest.raises(InvalidStatus) as refused, trainer(server.ws, secret):
            pass
        assert refused.value.response.status_code == 403


def test_an_expired_and_a_revoked_token_are_worth_nothing(server: Running) -> None:
    brief = token(server, "viewer", expires_in=1e-3)
    time.sleep(0.005)
    assert httpx.get(f"{server.url}/api/v1/runs", headers=brief).status_code == 401
    kept = token(server, "viewer", name="to be revoked")
    assert httpx.get(f"{server.url}/api/v1/runs", headers=kept).status_code == 200
    found = server.get("tokens")["tokens"]
    (mine,) = [t for t in found if t["name"] == "to be revoked"]
    assert "hash" not in mine
    assert server.rest.delete(f"/api/v1/tokens/{mine['id']}").status_code == 204
    assert server.rest.delete(f"/api/v1/tokens/{mine['id']}").status_code == 404
    server.service.asgi._known.clear()  # what is remembered for two seconds, forgotten now
    assert httpx.get(f"{server.url}/api/v1/runs", headers=kept).status_code == 401


HOSTS = ["evil.example", "127.0.0.1.evil.example", "localhost:x", "", "[::1", "a b", "127.0.0.1@x"]


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_name_is_refused(server: Running, host: str) -> None:
    answer = server.rest.get("/api/v1/runs", headers={"Host": host})
    assert answer.status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:8642", "LOCALHOST", "[::1]:8642"])
def test_this_machine_is_answered_on_any_port(server: Running, host: str) -> None:
    assert server.rest.get("/api/v1/runs", headers={"Host": host}).status_code == 200


@pytest.fixture(scope="module")
def browser(server: Running) -> Iterator[httpx.Client]:
    """Somebody who has logged in by the link."""
    code = server.rest.post("/api/v1/login-links", json={}).json()["code"]
    with httpx.Client(base_url=server.url, headers={"Origin": server.url}) as client:
        assert client.post("/login", json={"code": code}).status_code == 204
        yield client


ORIGINS = [
    "http://evil.example",
    "null",
    "",
    "{url}.evil.example",
    "{url}/",
    "https{rest}",
    "{url}0",
]


def evil(server: Running, origin: str) -> str:
    return origin.replace("{url}", server.url).replace("{rest}", server.url[4:])


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_origin_changes_nothing_with_a_good_cookie(server, browser, origin) -> None:
    headers = {"Origin": evil(server, origin)}
    answer = browser.patch("/api/v1/runs/x", json={"note": "x"}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "bad_origin"


def cookie_header(browser: httpx.Client) -> str:
    return "; ".join(f"{k}={v}" for k, v in browser.cookies.items())


@pytest.mark.parametrize("origin", [*ORIGINS, None])
def test_another_origin_opens_no_socket_with_a_good_cookie(server, browser, origin) -> None:
    with trainer(server.ws, server.token) as fake:
        url = f"{server.ws}/api/v1/runs/{fake.run}/live"
        headers = {"Cookie": cookie_header(browser)}
        with connect(url, additional_headers=headers, origin=server.url, proxy=None) as socket:
            assert '"run"' in socket.recv(timeout=5)
        if origin is not None:
            headers["Origin"] = evil(server, origin)
        with pytest.raises(InvalidStatus) as refused:
            connect(url, additional_headers=headers, proxy=None).__enter__()
        assert refused.value.response.status_code == 403


def test_a_cookie_opens_no_trainers_socket(server, browser) -> None:
    headers = {"Cookie": cookie_header(browser), "Origin": server.url}
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.ws}/api/v1/ingest", additional_headers=headers, proxy=None).__enter__()
    assert refused.value.response.status_code == 401


def test_a_login_link_works_once(server: Running) -> None:
    code = server.rest.post("/api/v1/login-links", json={}).json()["code"]
    first = httpx.post(f"{server.url}/login", json={"code": code})
    assert first.status_code == 204
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    again = httpx.post(f"{server.url}/login", json={"code": code})
    assert again.status_code == 401
    assert "gradhelm link" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [{}, {"code": 1}, {"code": ""}, {"code": "x" * 9999}, {"code": None}]
)
def test_no_other_code_logs_in(server: Running, body: dict) -> None:
    assert httpx.post(f"{server.url}/login", json=body).status_code == 401


def test_after_logging_out_the_cookie_is_worthless(server: Running) -> None:
    code = server.rest.post("/api/v1/login-links", json={}).json()["code"]
    with httpx.Client(base_url=server.url, headers={"Origin": server.url}) as client:
        client.post("/login", json={"code": code})
        cookie = cookie_header(client)
        assert client.get("/api/v1/runs").status_code == 200
        assert client.post("/logout").status_code == 204
    server.service.asgi._known.clear()
    assert httpx.get(f"{server.url}/api/v1/runs", headers={"Cookie": cookie}).status_code == 401


def test_secrets_are_not_in_the_database(server: Running, browser) -> None:
    data = b"".join(path.read_bytes() for path in server.home.glob("gradhelm.db*"))
    for secret in (server.token, *browser.cookies.values()):
        assert secret.encode() not in data
    assert (server.home / "token").stat().st_mode & 0o077 == 0


def test_every_answer_carries_the_security_headers(whole: Running) -> None:
    wanted = {"content-security-policy", "x-content-type-options", "referrer-policy"}
    with httpx.Client(base_url=whole.url) as stranger:
        for client, path in itertools.product(
            (stranger, whole.rest), ("/", "/login", "/livez", "/api/v1/runs", "/nothing")
        ):
            headers = client.get(path).headers
            assert wanted <= headers.keys(), path
            assert "unsafe-eval" not in headers["content-security-policy"]


def test_a_large_body_is_refused(server: Running) -> None:
    answer = server.rest.patch(
        "/api/v1/runs/x",
        content=b"[" * (2 * 1024 * 1024),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413


def test_unknown_paths_and_methods_are_told_apart(whole: Running) -> None:
    assert whole.rest.get("/api/v1/nothing").status_code == 404
    assert whole.rest.get("/api/v1/runs/..%2f..%2fetc/control").status_code == 404
    assert whole.rest.put("/api/v1/runs").status_code == 405
    assert "GET" in whole.rest.put("/api/v1/runs").json()["error"]["message"]


def test_a_mistyped_address_shows_a_person_the_page_and_a_program_json(whole: Running) -> None:
    person = whole.rest.get("/nothing/here", headers={"Accept": "text/html"})
    assert person.status_code == 404
    assert person.headers["content-type"].startswith("text/html")
    assert whole.rest.get("/nothing/here").json()["error"]["code"] == "not_found"
    assert whole.rest.get("/api/x", headers={"Accept": "text/html"}).json()["error"]


def test_the_table_names_only_methods_and_paths_that_exist(whole: Running) -> None:
    offered = every_path(whole)
    for rule in RULES:
        hit = [
            (method, path)
            for method, path in offered
            if method in rule.methods and rule.path.fullmatch(path)
        ]
        # The page's own paths are all Dash's one catch-all.
        page = rule.path.fullmatch("/") or rule.path.fullmatch("/_reload-hash")
        assert hit or page or rule.path.fullmatch("/assets/x"), rule
