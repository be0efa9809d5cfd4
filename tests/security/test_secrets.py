"""A sweep for secrets: everything that a server, its commands and a job write, with all logs on."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from certificates import issued, trusted
from support import Program, eventually, free_port
from trainer import FakeTrainer, new_run
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gradhelm import wire

HERE = Path(__file__).parent
pytestmark = pytest.mark.joined


class Loud(Program):
    """``gradhelm up`` over TLS, with all logs on."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ws(self) -> str:
        return f"wss://localhost:{self.port}"


@dataclass
class Sweep:
    """What must not be found, and where it was looked for."""

    secrets: dict[str, str] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def client(self, program: Loud, **options: Any) -> httpx.Client:
        """One that knows the server's authority; closed at the end."""
        context = ssl.create_default_context(cafile=program.variables["SSL_CERT_FILE"])
        made = httpx.Client(base_url=program.url, verify=context, timeout=60, **options)
        return self.clients.enter_context(made)

    def hide(self, what: str, secret: str) -> str:
        assert len(secret) >= 20, "too short to be found by nothing else"
        self.secrets[what] = secret
        return secret

    def keep(self, where: str, text: str | bytes) -> None:
        self.places[where] = text.encode() if isinstance(text, str) else text

    def found(self) -> list[str]:
        return [
            f"{what} in {where}"
            for where, text in self.places.items()
            for what, secret in self.secrets.items()
            if secret.encode() in text
        ]


def made_up() -> str:
    """Of the alphabet and about the length of our own tokens."""
    return "m4rk3r" + secrets.token_hex(16)


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    made = Sweep()
    with made.clients:
        yield made


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, sweep: Sweep) -> Iterator[Loud]:
    folder = tmp_path_factory.mktemp("loud")
    authority = trustme.CA()
    files = issued(authority, folder, "localhost")
    for n, line in enumerate(files.key.read_text().splitlines()[1:-1]):
        if len(line) >= 20:
            sweep.hide(f"line {n} of the TLS key", line)
    fault = sweep.hide("a token in a traceback", "gh_" + made_up())
    password = sweep.hide("a password in a traceback", made_up())
    program = Loud(
        folder / "home",
        free_port(),
        variables={
            "SSL_CERT_FILE": str(trusted(authority, folder)),
            "GRADHELM_TLS_CERT": str(files.certificate),
            "GRADHELM_TLS_KEY": str(files.key),
            "GRADHELM_TRUSTED_PROXIES": "127.0.0.1",
            "GRADHELM_TEST_LOG": str(folder / "log"),
            "GRADHELM_TEST_WHEN": str(folder / "now"),
            "GRADHELM_TEST_FAULT": f"headers: [(b'authorization', b'Bearer {fault}')], "
            f"postgresql://ann:{password}@db/runs\nINFO: forged",
            "PYTHONASYNCIODEBUG": "1",
        },
        program=(str(HERE / "loud.py"),),
    )
    program.folder = folder  # type: ignore[attr-defined]
    program.link = program.start()  # type: ignore[attr-defined]
    yield program
    program.stop()


def session(program: Loud, sweep: Sweep, what: str, code: str) -> httpx.Client:
    """Somebody who came in by a login link."""
    client = sweep.client(program, headers={"Origin": program.url})
    answer = client.post("/login", json={"code": code})
    assert answer.status_code == 204
    ((_, value),) = client.cookies.items()
    sweep.hide(f"the cookie of {what}", value)
    return client


def roam(program: Loud, sweep: Sweep, admin: httpx.Client) -> None:
    """Good and bad requests of everybody."""
    run = new_run()
    tokens = {}
    for role in ("viewer", "operator", "admin", "ingest"):
        made = admin.post("/api/v1/tokens", json={"role": role, "name": f"for {role}"}).json()
        tokens[role] = sweep.hide(f"the token of {role}", made["token"])
    code = admin.post("/api/v1/login-links", json={}).json()["code"]
    sweep.hide("a login code", code)
    other = session(program, sweep, "another session", code)
    assert admin.post("/login", json={"code": code}).status_code == 401  # once
    junk = {what: sweep.hide(f"a wrong {what}", made_up()) for what in JUNK}

    stranger = sweep.client(program)
    answers = [
        stranger.get("/api/v1/runs", headers=headers)
        for headers in (
            {"Authorization": f"Bearer gh_{junk['token']}"},
            {"Authorization": f"Bearer {junk['bearer']}"},
            {"Authorization": f"Basic {junk['basic']}"},
            {"Authorization": f"Digest username=ann, response={junk['digest']}"},
            {"Proxy-Authorization": f"Basic {junk['proxy']}"},
            {"Cookie": f"__Host-gradhelm={junk['cookie']}; other={junk['other']}"},
            {"Cookie": f"gradhelm-{program.port}={junk['old']}"},
        )
    ]
    answers += [
        stranger.get(f"/api/v1/runs?token={junk['query']}"),
        stranger.get(f"/login?code={junk['code']}", headers={"Accept": "text/html"}),
        stranger.post("/login", json={"code": junk["login"]}),
        stranger.post("/login", json={"name": "ann", "password": junk["password"]}),
        stranger.post("/login", content=f'{{"password": "{junk["broken"]}",,}}'),
        stranger.request("OPTIONS", "/api/v1/runs", headers={"Cookie": f"a={junk['options']}"}),
    ]
    for role, token in tokens.items():
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.7"}
        for method, path, body in ROUTES:
            path = path.replace("RUN", run)
            answers.append(stranger.request(method, path, json=body, headers=headers))
        answers.append(stranger.get("/", headers={**headers, "Accept": "text/html"}))
        answers.append(stranger.get("/api/v1/runs", headers={**headers, "Host": "evil.example"}))
        sockets(program, sweep, role, token, admin, run)
    answers += [other.post("/logout"), other.get("/api/v1/runs")]
    for n, answer in enumerate(answers):
        request = answer.request
        sweep.keep(
            f"answer {n} to {request.method} {request.url.path}",
            f"{answer.status_code} {answer.headers!r} {answer.text}",
        )
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 403, 404, 422}
    listed = admin.get("/api/v1/tokens").json()["tokens"]
    mine = next(t for t in listed if t["name"] == "for viewer")
    assert admin.delete(f"/api/v1/tokens/{mine['id']}").status_code == 204


JUNK = (
    "token", "bearer", "basic", "digest", "proxy", "cookie", "other", "old", "query", "code",
    "login", "password", "broken", "options",
)  # fmt: skip
ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/v1/runs", None),
    ("GET", "/api/v1/server", None),
    ("GET", "/api/v1/tokens", None),
    ("GET", "/api/v1/runs/RUN", None),
    ("GET", "/api/v1/runs/RUN/control/history", None),
    ("PUT", "/api/v1/runs/RUN/control", {"max_norm": 0.5}),
    ("PATCH", "/api/v1/runs/RUN", {"note": 1}),
    ("POST", "/api/v1/tokens", {"role": "king"}),
    ("POST", "/api/v1/prune", {"dry_run": True}),
    ("GET", "/api/v1/openapi.json", None),
    ("GET", "/nothing", None),
    ("PUT", "/nothing", {}),
)


def sockets(
    program: Loud, sweep: Sweep, role: str, token: str, admin: httpx.Client, run: str
) -> None:
    """A trainer and a viewer, who say what they should and what they should not."""
    context = ssl.create_default_context(cafile=program.variables["SSL_CERT_FILE"])
    bearer = {"Authorization": f"Bearer {token}"}
    said = []
    for hello in ("well", "badly", "in text"):
        try:
            with connect(
                f"{program.ws}{wire.INGEST_PATH}",
                ssl=context,
                additional_headers=bearer,
                subprotocols=[wire.SUBPROTOCOL],  # type: ignore[list-item]
                proxy=None,
            ) as socket:
                fake = FakeTrainer(socket, run, secrets.token_hex(8), ["a", "b"])
                if hello == "well":
                    fake.hello()
                    fake.say(b"\xc1 no message")
                    fake.say(wire.Finish("failed", None, "as it should"))
                    said.append(repr(fake.hear(wire.Finished)))
                    continue
                elif hello == "badly":
                    fake.say(b"\x81\xa4type\xa5nosuch")
                else:
                    fake.say("hello")
                socket.recv(timeout=20)
        except ConnectionClosed as closed:
            said.append(f"{closed.rcvd!r} {closed}")
        except InvalidStatus as refusal:
            response = refusal.response
            said.append(f"{refusal} {response.headers!r} {response.body!r}")
    name, value = next(iter(admin.cookies.items()))
    for headers in ({"Cookie": f"{name}={value}"}, bearer):
        for origin in (program.url, "https://evil.example", None):
            try:
                with connect(
                    f"{program.ws}/api/v1/runs/{run}/live",
                    ssl=context,
                    origin=origin,  # type: ignore[arg-type]
                    additional_headers=headers,
                    proxy=None,
                ) as socket:
                    said.append(str(socket.recv(timeout=20)))
            except InvalidStatus as refusal:
                said.append(f"{refusal} {refusal.response.headers!r} {refusal.response.body!r}")
    sweep.keep(f"what the sockets of {role} said", "\n".join(said))


PAGES = ("/", "/compare", "/runs/RUN", "/runs/nothing", "/nothing", "/login")
INSIDE = ("/_dash-layout", "/_dash-dependencies", "/_reload-hash", "/assets/main.js")


def pages(sweep: Sweep, admin: httpx.Client) -> None:
    runs = admin.get("/api/v1/runs").json()["runs"]
    for path in (*PAGES, *INSIDE):
        answer = admin.get(path.replace("RUN", runs[0]["id"]), headers={"Accept": "text/html"})
        sweep.keep(f"the page {path}", f"{answer.headers!r} {answer.text}")
    sweep.keep("the runs", json.dumps(runs))


JOB = """
import logging, sys, torch
logging.basicConfig(level=1)
for name in ("gradhelm", "websockets", "websockets.client"):
    logging.getLogger(name).setLevel(1)
import gradhelm
model = torch.nn.Linear(3, 3)
with gradhelm.attach(model, max_norm=1.0, name="a job", spool=True, mode=sys.argv[1]) as run:
    print(repr(run), vars(run).keys(), gradhelm.settings.read())
    for _ in range(5):
        model(torch.ones(3)).sum().backward()
        run.clip()
"""


def jobs(program: Loud, sweep: Sweep, token: str) -> None:
    """Trainers with the right token, a wrong one, and none that is used."""
    wrong = "gh_" + sweep.hide("the wrong token of a job", made_up())
    for mode, secret in (("online", token), ("online", wrong), ("offline", token)):
        spool = program.folder / "spool"  # type: ignore[attr-defined]
        done = subprocess.run(
            [sys.executable, "-c", JOB, mode],
            env={
                **program.environment,
                "GRADHELM_TOKEN": secret,
                "GRADHELM_SPOOL": str(spool / "cores"),
                "GRADHELM_HOME": str(program.folder / "elsewhere"),  # type: ignore[attr-defined]
            },
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        sweep.keep(f"what a job said, {mode}, {secret == token}", done.stdout + done.stderr)
    files = [path for path in spool.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".spool"]
    for path in files:
        sweep.keep(f"the spool's {path.name}", path.read_bytes())


COMMANDS = (
    ["doctor"],
    ["doctor", "--json"],
    ["runs", "--json"],
    ["token", "list"],
    ["token", "list", "--json"],
    ["audit", "list", "--json", "--limit", "500"],
    ["audit", "verify"],
    ["db", "current"],
    ["prune", "--dry-run"],
)


def commands(program: Loud, sweep: Sweep) -> None:
    for words in COMMANDS:
        done = program.run(*words)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        sweep.keep(f"gradhelm {' '.join(words)}", done.stdout + done.stderr)
    wrong = "gh_" + sweep.hide("the wrong token of a command", made_up())
    before = program.variables
    for more, words in (
        ({"GRADHELM_TOKEN": wrong}, ["runs"]),
        ({"GRADHELM_TOKEN": wrong}, ["doctor", "--json"]),
        ({"GRADHELM_TOKEN": f"{wrong}\u2026"}, ["runs"]),
        ({"GRADHELM_SERVER": f"https://ann:{wrong}@localhost:{program.port}"}, ["runs"]),
        ({"GRADHELM_SERVER": f"https://ann:{wrong}@localhost:{program.port}"}, ["doctor"]),
        ({"GRADHELM_DATABASE_URL": f"postgresql://ann:{wrong}@127.0.0.1:1/runs"}, ["doctor"]),
        (
            {"GRADHELM_DATABASE_URL": f"postgresql://ann:{wrong}@127.0.0.1:1/runs"},
            ["db", "current"],
        ),
    ):
        program.variables = {**before, **more}
        done = program.run(*words)
        sweep.keep(f"gradhelm {' '.join(words)} with {list(more)}", done.stdout + done.stderr)
    program.variables = before


def test_no_secret_is_found_anywhere(program: Loud, sweep: Sweep) -> None:
    sweep.hide("the local token", (program.home / "token").read_text().strip())
    admin = session(program, sweep, "the admin", program.link.partition("#")[2])  # type: ignore[attr-defined]
    roam(program, sweep, admin)
    token = admin.post("/api/v1/tokens", json={"role": "ingest"}).json()["token"]
    jobs(program, sweep, sweep.hide("the token of a job", token))
    pages(sweep, admin)
    commands(program, sweep)
    (program.folder / "now").touch()  # type: ignore[attr-defined]
    with contextlib.suppress(httpx.TransportError):
        sweep.keep("a fault's answer", admin.get("/api/v1/server").text)
    eventually(lambda: "RuntimeError" in "".join(program.lines), what="the fault in the log")
    (program.folder / "now").unlink()  # type: ignore[attr-defined]
    program.stop()

    printed = "".join(program.lines)
    log = (program.folder / "log").read_text(encoding="utf-8")  # type: ignore[attr-defined]
    sweep.keep("stdout and stderr", printed)
    sweep.keep("the log file", log)
    for path in program.home.rglob("*"):
        if path.is_file() and path.name != "token":
            sweep.keep(f"the data directory's {path.name}", path.read_bytes())

    assert sweep.found() == []
    # What would hold them was there: headers, statements and a traceback were logged, requests
    # refused, and the database has the hashes.
    for text in (printed, log):
        for word in ("authorization: …", "cookie: …", "INSERT INTO tokens", "RuntimeError"):
            assert word in text, word
        assert not [line for line in text.splitlines() if line.startswith("INFO: forged")]
    assert len(sweep.places) > 100
    assert len(sweep.secrets) >= 30


def test_the_sweep_finds_what_is_there() -> None:
    sweep = Sweep()
    secret = sweep.hide("a secret", made_up())
    sweep.keep("here", f"before {secret} after")
    sweep.keep("there", "nothing")
    assert sweep.found() == ["a secret in here"]
