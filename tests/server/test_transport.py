"""Whom a server believes how a request came: nobody, unless a trusted proxy passes it on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import Running, running
from trainer import trainer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gradhelm_server.settings import Certificate, ServerSettings
from gradhelm_server.transport import Transport

NAME = "train.example.org"
PROXY = "10.0.0.2"


def passed(
    peer: str | None, headers: dict[str, str], kind: str = "http", **values: Any
) -> tuple[str | None, tuple[str, int] | None, list[dict[str, Any]]]:
    """The scheme and client of a request as the application sees it (None: it does not), and what
    was answered."""
    seen: list[tuple[str, tuple[str, int] | None]] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope["client"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    settings = ServerSettings(home=Path("x"), database_url="sqlite://", **values)
    scope = {
        "type": kind,
        "scheme": {"http": "http", "websocket": "ws"}[kind],
        "client": None if peer is None else (peer, 5),
        "headers": [(k.lower().encode(), v.encode()) for k, v in {"Host": NAME, **headers}.items()],
    }
    asyncio.run(Transport(app, settings)(scope, receive, send))
    scheme, client = seen[0] if seen else (None, None)
    return scheme, client, sent


TRUSTED = {"trusted_proxies": (ip_network(PROXY), ip_network("10.9.0.0/16"), ip_network("fd00::2"))}
SAID = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", PROXY, "203.0.113.9"])
def test_nobody_is_believed_by_default(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # the server's library would read it
    assert passed(peer, SAID)[:2] == ("http", (peer, 5))


@pytest.mark.parametrize("peer", [PROXY, "10.9.255.1", "fd00::2", f"::ffff:{PROXY}"])
def test_a_trusted_proxy_is(peer: str) -> None:
    assert passed(peer, SAID, **TRUSTED)[:2] == ("https", ("203.0.113.7", 0))
    assert passed(peer, SAID, "websocket", **TRUSTED)[0] == "wss"


@pytest.mark.parametrize(
    "peer", ["10.0.0.3", "10.8.0.1", "127.0.0.1", "fd00::3", "::ffff:10.0.0.3"]
)
def test_others_beside_it_are_not(peer: str) -> None:
    assert passed(peer, SAID, **TRUSTED)[:2] == ("http", (peer, 5))


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # the left one is the client's own word
        ("6.6.6.6, 203.0.113.7, 10.9.0.4", "203.0.113.7"),  # by two proxies
        ("127.0.0.1, 203.0.113.7", "203.0.113.7"),
        ("10.9.0.4", "10.9.0.4"),
        ("[2001:db8::7]:1234", "2001:db8::7"),
    ],
)
def test_who_it_was_is_the_last_that_no_proxy_is(said: str, client: str) -> None:
    found = passed(PROXY, {"X-Forwarded-For": said}, **TRUSTED)[1]
    assert found is not None
    assert found[0] == client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Proto": "https, http"},
        {"X-Forwarded-Proto": "HTTPS://"},
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Scheme": "https"},
        {"X-Forwarded-Ssl": "on"},
        {"Forwarded": f"for=203.0.113.7;proto=https;host={NAME}"},
        {"Front-End-Https": "on"},
        {"X-Url-Scheme": "https"},
    ],
)
def test_nothing_else_makes_it_https(headers: dict[str, str]) -> None:
    assert passed(PROXY, headers, **TRUSTED)[0] == "http"


def hsts(sent: list[dict[str, Any]]) -> bool:
    return any(name == b"strict-transport-security" for name, _ in sent[0]["headers"])


def test_a_name_is_pinned_to_https_where_it_came_by_it() -> None:
    assert hsts(passed(PROXY, SAID, **TRUSTED)[2])
    assert not hsts(passed("10.0.0.3", SAID, **TRUSTED)[2])
    assert not hsts(passed(PROXY, {}, **TRUSTED)[2])


@pytest.mark.parametrize("host", ["localhost", "localhost:8642", "127.0.0.1:8642", "[::1]:8642"])
def test_what_else_runs_on_localhost_keeps_its_http(host: str) -> None:
    assert not hsts(passed(PROXY, {**SAID, "Host": host}, **TRUSTED)[2])


def test_where_only_the_proxy_does_https_nobody_comes_by_it() -> None:
    values = {**TRUSTED, "host": "0.0.0.0", "allowed_hosts": frozenset({NAME})}
    for peer in (PROXY, "10.9.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert passed(peer, {}, **values)[0] == "http", peer
    for peer in ("10.0.0.3", "203.0.113.9", "::ffff:203.0.113.9", None):
        scheme, _, sent = passed(peer, SAID, **values)
        assert scheme is None
        assert sent[0]["status"] == 403
        assert json.loads(sent[1]["body"])["error"]["code"] == "by_proxy_only"
        assert passed(peer, SAID, "websocket", **values)[2][0]["type"] == "websocket.close"
    tls = Certificate(Path("c"), Path("k"))
    assert passed("10.0.0.3", {}, **values, tls=tls)[0]
    assert passed("10.0.0.3", {}, **values, insecure_http=True)[0]


# -- a real server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that takes this machine for its proxy."""
    with running(
        tmp_path_factory.mktemp("proxied"),
        trusted_proxies=(ip_network("127.0.0.1"),),
        allowed_hosts=frozenset({NAME}),
    ) as found:
        yield found


VIA = {"Host": NAME, "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
ORIGIN = {"Origin": f"https://{NAME}"}


def log_in(server: Running, headers: dict[str, str]) -> httpx.Response:
    code = server.rest.post("/api/v1/login-links", json={}).json()["code"]
    return httpx.post(f"{server.url}/login", json={"code": code}, headers=headers)


def test_a_person_behind_the_proxy_gets_a_cookie_for_https_alone(proxied: Running) -> None:
    answer = log_in(proxied, {**VIA, **ORIGIN})
    assert answer.status_code == 204
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == "__Host-gradhelm"
    words = [word.strip().lower() for word in rest.split(";")[1:]]
    assert {"secure", "httponly", "path=/"} <= set(words)
    assert not [word for word in words if word.startswith("domain")]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    cookie = {"Cookie": f"{name}={rest.partition(';')[0]}"}
    assert httpx.get(f"{proxied.url}/api/v1/runs", headers={**VIA, **cookie}).status_code == 200
    # Over http the same cookie is none.
    assert (
        httpx.get(f"{proxied.url}/api/v1/runs", headers={"Host": NAME, **cookie}).status_code == 401
    )
    out = httpx.post(f"{proxied.url}/logout", headers={**VIA, **ORIGIN, **cookie})
    assert out.status_code == 204
    # A browser ignores a __Host- cookie that is not Secure, also when it is to end.
    assert "secure" in out.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "headers",
    [
        {**VIA, "Origin": f"http://{NAME}"},
        {**VIA, "Origin": "https://evil.example"},
        {**VIA, "X-Forwarded-Proto": "http", **ORIGIN},
        {"Host": NAME, **ORIGIN},
        {"Host": NAME, "Forwarded": f"proto=https;host={NAME}", **ORIGIN},
        {**VIA, "X-Forwarded-Host": "evil.example", "Origin": "https://evil.example"},
    ],
)
def test_the_origin_is_compared_with_what_the_proxy_told(proxied: Running, headers) -> None:
    assert log_in(proxied, headers).json()["error"]["code"] == "bad_origin"


def test_a_name_that_only_the_proxy_says_is_no_host(proxied: Running) -> None:
    for header in ({"X-Forwarded-Host": NAME}, {"Forwarded": f"host={NAME}"}, {"X-Host": NAME}):
        headers = {**VIA, "Host": "evil.example", **header}
        answer = proxied.rest.get("/api/v1/runs", headers=headers)
        assert answer.json()["error"]["code"] == "bad_host"


def test_sockets_behind_the_proxy(proxied: Running) -> None:
    cookie = log_in(proxied, {**VIA, **ORIGIN}).headers["set-cookie"].partition(";")[0]
    via = {k: v for k, v in VIA.items() if k != "Host"}
    with trainer(proxied.ws, proxied.token) as fake:
        url = f"ws://{NAME}/api/v1/runs/{fake.run}/live"

        def opened(**headers: str) -> str:
            with (
                socket.create_connection(("127.0.0.1", int(proxied.url.rsplit(":")[-1]))) as raw,
                connect(url, sock=raw, additional_headers=headers, proxy=None) as live,
            ):
                return str(live.recv(timeout=5))

        assert '"run"' in opened(Cookie=cookie, **ORIGIN, **via)
        for wrong in (
            {"Cookie": cookie, "Origin": f"http://{NAME}", **via},
            {"Cookie": cookie, **ORIGIN},
            {"Cookie": cookie, **via},
        ):
            with pytest.raises(InvalidStatus) as refused:
                opened(**wrong)
            assert refused.value.response.status_code in (401, 403)


def test_a_server_without_proxies_believes_no_header(server: Running) -> None:
    headers = {"X-Forwarded-Proto": "https", "Origin": server.url.replace("http:", "https:")}
    assert log_in(server, headers).json()["error"]["code"] == "bad_origin"
    plain = log_in(server, {"X-Forwarded-Proto": "https"})
    assert plain.headers["set-cookie"].startswith("gradhelm-")
    assert "strict-transport-security" not in plain.headers


def test_what_was_refused_because_of_the_scheme_names_the_remedy(server: Running) -> None:
    answer = log_in(server, {"Origin": server.url.replace("http:", "https:")})
    assert "GRADHELM_TRUSTED_PROXIES" in answer.json()["error"]["message"]


# -- oddities of requests -------------------------------------------------------------------------


def raw(server: Running, *lines: str) -> str:
    """The answer to a request that no client library would send."""
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":")[-1]))) as wire:
        wire.settimeout(10)
        wire.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        answer = b""
        while data := wire.recv(65536):
            answer += data
    return answer.decode("latin-1")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["OPTIONS * HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["OPTIONS /api/v1/runs HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["TRACE / HTTP/1.1", "Host: 127.0.0.1", "Cookie: a=hunter2"], "401"),
        (["CONNECT 127.0.0.1:22 HTTP/1.1", "Host: 127.0.0.1"], "40"),
        (["GET http://evil.example/api/v1/runs HTTP/1.1", "Host: evil.example"], "400"),
        (["GET http://evil.example/api/v1/runs HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["GET /livez HTTP/1.1"], "400"),
        (["GET /livez HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example"], "400"),
        (["GET /livez HTTP/1.1", "Host: evil.example", "Host: 127.0.0.1"], "400"),
        (["GET /livez HTTP/1.0", "Host: 127.0.0.1"], "200"),
    ],
)
def test_odd_requests_come_to_nothing(server: Running, lines: list[str], status: str) -> None:
    answer = raw(server, *lines)
    assert answer.split(" ", 2)[1].startswith(status), answer
    assert "hunter2" not in answer


def test_no_preflight_of_another_origin_is_answered_with_leave(server: Running) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,if-match",
        "Access-Control-Request-Private-Network": "true",
    }
    for path in ("/", "/login", "/api/v1/runs", "/api/v1/runs/x/control", "/nothing"):
        for client in (httpx.options, server.rest.options):
            url = path if client == server.rest.options else server.url + path
            answer = client(url, headers=asked)
            assert answer.status_code in (401, 404, 405)
            assert not [name for name in answer.headers if name.startswith("access-control")]
