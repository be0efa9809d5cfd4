"""docs/deploying.md as it stands: its nginx and Caddy are run before a real server, on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import torch
import trustme
from certificates import issued, trusted
from support import ROOT, Program, eventually, free_port
from trainer import trainer

import gradhelm
from gradhelm import wire
from gradhelm.errors import ServerError
from gradhelm.rest import Client
from gradhelm_server.settings import Certificate

pytestmark = pytest.mark.joined
NAME = "train.example.org"
TEXT = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
HARMFUL = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=6.6.6.6;proto=http;host=evil.example",
}
"""What a client might say of itself."""


def written(language: str, word: str = "") -> str:
    """The document's block in ``language`` that has ``word`` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return str(found)


@dataclass
class Proxy:
    """One that is up; ``plain`` is its port for http, where it has one."""

    port: int
    plain: int | None

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"


def replaced(text: str, changes: dict[str, str]) -> str:
    for what, by in changes.items():
        assert what in text, what
        text = text.replace(what, by)
    return text


def nginx(folder: Path, to: int, files: Certificate) -> tuple[list[str], Proxy]:
    proxy = Proxy(free_port(), free_port())
    conf = replaced(
        re.sub(r"^ *listen \[::\].*\n", "", written("nginx"), flags=re.MULTILINE),
        {
            "listen 80;": f"listen 127.0.0.1:{proxy.plain};",
            "listen 443 ": f"listen 127.0.0.1:{proxy.port} ",
            "127.0.0.1:8642": f"127.0.0.1:{to}",
            "/etc/letsencrypt/live/train.example.org/fullchain.pem": str(files.certificate),
            "/etc/letsencrypt/live/train.example.org/privkey.pem": str(files.key),
        },
    )
    (folder / "gradhelm.conf").write_text(conf)
    temporary = "".join(
        f"{name}_temp_path {folder / name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder / 'pid'};"
        "events { worker_connections 256; }"
        f"http {{ access_log off; {temporary} include {folder / 'gradhelm.conf'}; }}"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], proxy


def caddy(folder: Path, to: int, files: Certificate) -> tuple[list[str], Proxy]:
    proxy = Proxy(free_port(), None)
    conf = replaced(
        written("caddyfile"),
        {
            f"{NAME} {{": f"{proxy.url} {{\n\tbind 127.0.0.1\n\ttls {files.certificate} {files.key}",
            "127.0.0.1:8642": f"127.0.0.1:{to}",
        },
    )
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n\tauto_https disable_redirects\n"
        f"\tstorage file_system {folder / 'storage'}\n}}\n{conf}"
    )
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")], proxy


PROXIES = [
    pytest.param(
        made,
        marks=pytest.mark.skipif(
            not shutil.which(made.__name__) and "CI" not in os.environ,
            reason=f"no {made.__name__} to run: apt-get install {made.__name__}",
        ),
        id=made.__name__,
    )
    for made in (nginx, caddy)
]
Made = Callable[[Path, int, Certificate], tuple[list[str], Proxy]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def run(made: Made, folder: Path, to: int, authority: trustme.CA) -> Iterator[Proxy]:
    command, proxy = made(folder, to, issued(authority, folder, NAME))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin"}
        )
    try:

        def there() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", proxy.port)) == 0

        eventually(there, 30, "the proxy")
        yield proxy
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path) -> None:
    """The proxy's name leads to this machine, and its authority is trusted."""
    resolve = socket.getaddrinfo

    def resolved(host: object, *more: object, **named: object) -> object:
        return resolve("127.0.0.1" if host == NAME else host, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted(authority, tmp_path / "authority")))
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path / "home of a job"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(
        tmp_path_factory.mktemp("deployed") / "home",
        free_port(),
        variables={"GRADHELM_ALLOWED_HOSTS": NAME, "GRADHELM_TRUSTED_PROXIES": "127.0.0.1"},
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest,
    program: Program,
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    yield from run(request.param, tmp_path_factory.mktemp("proxy"), program.port, authority)


@pytest.fixture
def token(program: Program) -> str:
    return (program.home / "token").read_text().strip()


def person(proxy: Proxy, **headers: str) -> httpx.Client:
    context = ssl.create_default_context()  # of SSL_CERT_FILE
    return httpx.Client(
        base_url=proxy.url, verify=context, headers={"Origin": proxy.url, **headers}, timeout=30
    )


def test_a_person_comes_in_by_https(proxy: Proxy, program: Program) -> None:
    code = program.run("link").stdout.strip().partition("#")[2]
    for harm in ({}, HARMFUL):
        with person(proxy, **harm) as client:
            assert client.get("/login").status_code == 200
            answer = client.post("/login", json={"code": code or "x"})
            if harm:  # the code is used up, and that is why; not the origin
                assert answer.json()["error"]["code"] == "bad_code"
                continue
            assert answer.status_code == 204
            assert answer.headers["set-cookie"].startswith("__Host-gradhelm=")
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert client.get("/api/v1/runs").status_code == 200
            assert client.patch("/api/v1/runs/x", json={"note": ""}).status_code == 404
            wrong = {"Origin": f"http://{NAME}:{proxy.port}"}
            refused = client.patch("/api/v1/runs/x", json={"note": ""}, headers=wrong)
            assert refused.json()["error"]["code"] == "bad_origin"


def test_a_job_is_watched_and_steered_through_it(proxy: Proxy, token: str) -> None:
    client = Client(proxy.url, token)
    model = torch.nn.Linear(3, 3)
    run = gradhelm.attach(model, max_norm=1.0, server=proxy.url, token=token, name="through")

    def applied() -> bool:
        model(torch.ones(3)).sum().backward()
        run.clip()
        told = client.ask("GET", f"runs/{run.id}/control/history").body["versions"]
        return bool(told[0]["status"] == "applied")

    eventually(lambda: client.ask("GET", f"runs/{run.id}", accept=(404,)).status == 200)
    client.ask("PUT", f"runs/{run.id}/control", body={"max_norm": 0.5}, headers={"If-Match": '"0"'})
    eventually(applied, 20, "the change at the trainer")
    run.close()
    assert client.ask("GET", f"runs/{run.id}").body["status"] == "finished"


def test_the_largest_messages_go_through(proxy: Proxy, token: str) -> None:
    rows = wire.MAX_FRAME // 4 // (6 + 1000)
    layers = [f"layer {n}" for n in range(1000)]
    with trainer(proxy.url.replace("https", "wss"), token, layers=layers) as fake:
        fake.send(0, fake.rows([0.5] * rows))
        fake.say(wire.Finish("finished", rows - 1))
        fake.hear(wire.Finished)


def test_bodies_are_as_large_as_the_servers_may_be(proxy: Proxy, token: str) -> None:
    with person(proxy, Authorization=f"Bearer {token}") as client:
        small, large = ({"note": "x" * size} for size in (900_000, 1_200_000))
        assert client.patch("/api/v1/runs/x", json=small).status_code in (404, 422)
        assert client.patch("/api/v1/runs/x", json=large).status_code == 413


def test_who_comes_by_http_is_led_to_https(proxy: Proxy) -> None:
    if proxy.plain is None:
        pytest.skip("Caddy does it by itself on port 80, which is not ours to take")
    answer = httpx.get(f"http://127.0.0.1:{proxy.plain}/runs/x", headers={"Host": NAME})
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{NAME}/runs/x")


def test_a_command_whose_authority_is_unknown_says_so(
    proxy: Proxy, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ServerError, match="SSL_CERT_FILE names the file"):
        Client(proxy.url, token).ask("GET", "runs")


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps([[k.lower(), v] for k, v in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("made", PROXIES)
def test_what_a_client_says_of_itself_does_not_go_on(
    made: Made, authority: trustme.CA, tmp_path: Path
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever)
        thread.start()
        for proxy in run(made, tmp_path, echo.server_port, authority):
            with person(proxy, **HARMFUL) as client:
                heard = client.get("/").json()
        echo.shutdown()
        thread.join()
    said = {name: [v for k, v in heard if k == name] for name, _ in heard}
    assert said["host"] == [f"{NAME}:{proxy.port}"]
    assert said["x-forwarded-proto"] == ["https"]
    assert said["x-forwarded-for"] == ["127.0.0.1"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here to ask")
def test_the_unit_is_one_and_is_closed(tmp_path: Path) -> None:
    unit = tmp_path / "gradhelm.service"
    unit.write_text(
        replaced(written("ini", "[Service]"), {"/opt/gradhelm/bin/gradhelm": "/bin/true"})
    )
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert str(unit) not in checked.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
    )
    assert judged.returncode == 0, judged.stdout[-500:] + judged.stderr
