"""Every bad input of the corpus is answered by its own clear error, and nobody else notices."""

from __future__ import annotations

import gc
import json
import logging
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from support import Running, eventually, running
from trainer import FakeTrainer, trainer
from websockets.sync.client import connect

from gradhelm import wire
from gradhelm_server import ingest
from gradhelm_server.auth import RULES

from .attacks import Closed, Http, Outcome, Refused, Taken, Target
from .corpus import CORPUS, Case

MEMORY = 128 * 1024 * 1024
"""Bytes by which server and attackers, who are one process here, may grow over the whole corpus."""
LOGGERS = ("", "uvicorn", "uvicorn.error")
LONGEST = 1000
"""Characters of a message that says what is wrong."""


def norm_of(step: int) -> float:
    return 0.25 + (step % 97) / 128


class Healthy(threading.Thread):
    """A trainer that goes on sending, ten steps at a time, each acknowledged."""

    def __init__(self, server: Running) -> None:
        super().__init__(name="healthy trainer", daemon=True)
        self.server = server
        self.run_id = ""
        self.steps = 0
        self.slowest = 0.0
        self.failed: BaseException | None = None
        self.over = threading.Event()
        self.begun = threading.Event()

    def run(self) -> None:
        try:
            with trainer(self.server.ws, self.server.token, name="healthy") as fake:
                self.run_id = fake.run
                self._train(fake)
        except BaseException as error:
            self.failed = error
            self.begun.set()

    def _train(self, fake: FakeTrainer) -> None:
        while not self.over.wait(0.02):
            steps = range(self.steps, self.steps + 10)
            began = time.monotonic()
            fake.send(self.steps, fake.rows([norm_of(step) for step in steps]))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.steps += 10
            self.begun.set()
        fake.say(wire.Finish("finished", self.steps - 1))
        fake.hear(wire.Finished)


class Watching(threading.Thread):
    """A viewer of that run, who notes every step that comes, and every text."""

    def __init__(self, server: Running, run: str) -> None:
        super().__init__(name="healthy viewer", daemon=True)
        self.server = server
        self.run_id = run
        self.steps: list[int] = []
        self.norms: list[float] = []
        self.lost = 0
        self.failed: BaseException | None = None
        self.begun = threading.Event()

    def run(self) -> None:
        try:
            with connect(
                f"{self.server.ws}/api/v1/runs/{self.run_id}/live",
                additional_headers={"Authorization": f"Bearer {self.server.token}"},
                proxy=None,
            ) as socket:
                for message in socket:
                    if isinstance(message, bytes):
                        self._frame(message)
                        self.begun.set()
                    elif json.loads(message)["type"] == "lost":
                        self.lost += 1
                    elif (
                        '"status": "finished"' in message and '"type": "run"' in message
                    ) or json.loads(message).get("run", {}).get("status") == "finished":
                        return
        except BaseException as error:
            self.failed = error
            self.begun.set()

    def _frame(self, data: bytes) -> None:
        length = int.from_bytes(data[:4], "little")
        count, at = json.loads(data[4 : 4 + length])["n"], 4 + length
        self.steps += np.frombuffer(data, "<f8", count, at).astype(int).tolist()
        rows = np.frombuffer(data, "<f4", offset=at + 16 * count).reshape(count, -1)
        self.norms += rows[:, 0].tolist()


class Complaints(logging.Handler):
    """Whatever the server logs with a traceback, or as an error. What the attackers' own sockets say of
    being cut off is theirs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "websockets.client":
            return
        if record.exc_info or record.levelno >= logging.ERROR:
            self.heard.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


@dataclass
class Siege:
    """A server under attack, and those beside it."""

    server: Running
    target: Target
    trainer: Healthy
    viewer: Watching
    complaints: Complaints
    memory: int
    statuses: Counter[int] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)


def memory() -> int:
    """Bytes that this process holds; where the system does not say that, the most it ever held."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def session(url: str, token: str) -> str:
    """The cookie of a new session."""
    made = httpx.post(
        f"{url}/api/v1/login-links", headers={"Authorization": f"Bearer {token}"}, json={}
    )
    answer = httpx.post(f"{url}/login", json={"code": made.json()["code"]})
    assert answer.status_code == 204
    return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())


def token_of(server: Running, role: str, **values: object) -> str:
    made = server.rest.post("/api/v1/tokens", json={"role": role, **values})
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


def target_of(server: Running, run: str, ended: str, read_only: str, steered: str) -> Target:
    roles = ("viewer", "operator", "ingest")
    tokens = {"admin": server.token, **{role: token_of(server, role) for role in roles}}
    tokens["expired"] = token_of(server, "admin", expires_in=1e-3)
    tokens["revoked"] = token_of(server, "admin", name="to be revoked")
    for one in server.get("tokens")["tokens"]:
        if one["name"] == "to be revoked":
            assert server.rest.delete(f"/api/v1/tokens/{one['id']}").status_code == 204
    gone = session(server.url, server.token)
    left = httpx.post(f"{server.url}/logout", headers={"Cookie": gone, "Origin": server.url})
    assert left.status_code == 204
    cookie = session(server.url, server.token)
    names = {"steered": steered, "ended_cookie": gone}
    return Target(server.url, server.rest, run, ended, read_only, tokens, cookie, names)


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    from gradhelm_dashboard.app import build_ui

    def mount(app: object) -> list[str]:
        return list(build_ui(app, version="0").csp_hashes())

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(ingest, "HELLO_WITHIN", 3.0)
    complaints = Complaints()
    with running(tmp_path_factory.mktemp("siege"), mount=mount) as server:
        for name in LOGGERS:  # uvicorn has set them up by now
            logging.getLogger(name).addHandler(complaints)
        good = Healthy(server)
        good.start()
        good.begun.wait(10)
        viewer = Watching(server, good.run_id)
        viewer.start()
        viewer.begun.wait(10)
        with trainer(server.ws, server.token, project="bad inputs") as ended:
            ended.send(0, ended.rows([1.0]))
            ended.say(wire.Finish("finished", 0))
            ended.hear(wire.Finished)
        none = wire.Limits(why_not="the script says Control.none()")
        with (
            trainer(server.ws, server.token, project="bad inputs") as victim,
            trainer(server.ws, server.token, project="bad inputs", limits=none) as read_only,
            trainer(server.ws, server.token, project="bad inputs") as steered,
        ):
            victim.send(0, victim.rows([1.0, 2.0, 3.0]))
            target = target_of(server, victim.run, ended.run, read_only.run, steered.run)
            try:
                yield Siege(server, target, good, viewer, complaints, memory())
            finally:
                good.over.set()
                good.join(30)
                viewer.join(30)
                for name in LOGGERS:
                    logging.getLogger(name).removeHandler(complaints)
                monkeypatch.undo()


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(CORPUS) >= 120
    assert len({(case.kind, case.name) for case in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: f"{case.kind}: {case.name}"[:90])
def test_a_bad_input_gets_its_own_answer(siege: Siege, case: Case) -> None:
    found = case.attack.on(siege.target)
    siege.made[case.kind] += 1
    if isinstance(found, Http):
        siege.statuses[found.status] += 1
        assert found.status < 500, found
    assert_as_expected(found, case.expected)


def assert_as_expected(found: Outcome, expected: Outcome) -> None:
    assert type(found) is type(expected), found
    assert len(found.message) <= LONGEST
    assert expected.message.lower() in found.message.lower(), found
    match found, expected:
        case Http(), Http():
            assert (found.status, found.code) == (expected.status, expected.code), found
            assert found.message
            if found.status == 405:
                assert found.headers["allow"]
        case Closed(), Closed():
            assert found.code == expected.code or (expected.cut and found.code == 1006), found
        case Refused(), Refused():
            assert found.seq == expected.seq, found
        case Taken(), Taken():
            pass


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def test_every_method_on_every_path_is_answered(siege: Siege) -> None:
    """As a stranger and as an admin; nothing is sent that could be done."""
    paths = {rule.path.pattern: sample(rule.path.pattern) for rule in RULES}
    headers = siege.target.credentials("admin")
    with httpx.Client(base_url=siege.server.url, timeout=30) as client:
        for path in paths.values():
            if path == "/logout":
                continue
            for method in METHODS:
                stranger = client.request(method, path)
                admin = client.request(method, path, headers=headers)
                assert max(stranger.status_code, admin.status_code) < 500, (method, path)
                if admin.status_code == 405:
                    assert method not in admin.headers["allow"].split(", ")
                    assert admin.headers["allow"]


def sample(pattern: str) -> str:
    """A path that matches."""
    path = pattern.split("|")[0] if "(" not in pattern else pattern
    for group, chosen in (("[^/]+", "x"), (r"[\w.-]+", "x"), (".+", "x"), ("\\", "")):
        path = path.replace(group, chosen)
    while "(" in path:
        before, _, rest = path.partition("(")
        inside, _, after = rest.partition(")")
        path = before + inside.split("|")[0] + after
    return path.split("|")[0]


def test_after_all_of_it_nobody_else_has_noticed(siege: Siege) -> None:
    """The run beside it has every step, its viewer saw them all, and the server is as it was."""
    grown = memory() - siege.memory
    steps = siege.trainer.steps
    eventually(lambda: siege.trainer.failed or siege.trainer.steps > steps, what="more steps")
    siege.trainer.over.set()
    siege.trainer.join(30)
    siege.viewer.join(30)
    assert siege.trainer.failed is None
    assert siege.viewer.failed is None
    run, count = siege.trainer.run_id, siege.trainer.steps
    found = siege.server.get(f"runs/{run}")
    assert (found["status"], found["steps"], found["last_step"]) == ("finished", count, count - 1)
    expected = [np.float32(norm_of(step)).item() for step in range(count)]
    stored = siege.server.get(
        f"runs/{run}/series", columns="global_norm", points=200_000, last=count
    )
    assert stored["stride"] == 1
    assert stored["columns"]["global_norm"]["step"] == list(range(count))
    assert stored["columns"]["global_norm"]["mean"] == expected
    assert siege.server.get(f"runs/{run}/events", kind="gap")["events"] == []
    first = siege.viewer.steps[0]
    assert siege.viewer.steps == list(range(first, count))
    assert siege.viewer.norms == expected[first:]
    assert siege.viewer.lost == 0
    assert_all_of_it_can_still_be_read(siege.server)
    assert siege.complaints.heard == []
    print(f"\n{sum(siege.made.values())} bad inputs: {dict(siege.made)}")
    print(f"answers over HTTP: {dict(sorted(siege.statuses.items()))}")
    print(f"beside them {count} steps of one run, the slowest stored after", end=" ")
    print(f"{siege.trainer.slowest:.2f} s; grown by {grown / 2**20:.1f} MiB")
    assert grown < MEMORY


def assert_all_of_it_can_still_be_read(server: Running) -> None:
    """Whatever bad inputs have left behind, what is asked about it is answered."""
    assert server.get("server")["version"]
    assert server.get("tokens")["tokens"]
    cursor: dict[str, str] = {}
    seen = 0
    while True:
        page = server.get("runs", limit=100, sparkline=True, **cursor)
        for run in page["runs"]:
            seen += 1
            at = f"runs/{run['id']}"
            server.get(at)
            server.get(f"{at}/times")
            server.get(f"{at}/events")
            server.get(f"{at}/parameters")
            server.get(f"{at}/heatmap", points=100)
            if server.get(f"{at}/columns")["columns"]:
                server.get(f"{at}/series", columns="global_norm")
            server.get(f"{at}/advice")
            server.get(f"{at}/control")
            server.get(f"{at}/control/history")
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen > 50
