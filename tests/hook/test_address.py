"""No token leaves where it can be read, is carried on by a redirect, or comes to stand in a log."""

from __future__ import annotations

import http.server
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import eventually

import gradhelm
from gradhelm import address, link, redact, settings
from gradhelm.delivery import Undelivered, deliver

from .models import one_step, small

TOKEN = "gh_" + "s3cr3t" * 7
ELSEWHERE = ["http://train.example.org:8642", "http://10.0.0.5:8642", "http://0.0.0.0:8642"]
HERE = ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9", "http://127.9.9.9:9"]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(link, "LAST_DELAY", 0.05)


@pytest.fixture
def nobody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is tried all the same fails the test, and not the machine's resolver."""

    def connect(url: str, **_: object) -> None:
        raise AssertionError(f"a connection to {url}")

    monkeypatch.setattr(link, "connect", connect)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_http_to_another_machine_is_refused_with_the_ways_out(url, nobody_connects):
    with pytest.raises(ValueError, match="server is") as refused:
        gradhelm.attach(small(), server=url, token=TOKEN)
    for way in ("https://", "SSH tunnel", "GRADHELM_INSECURE=1"):
        assert way in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_the_server_of_the_environment_is_no_exception(monkeypatch, nobody_connects):
    monkeypatch.setenv("GRADHELM_SERVER", ELSEWHERE[0])
    with pytest.raises(ValueError, match="GRADHELM_INSECURE=1"):
        gradhelm.attach(small())


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_run_that_sends_nothing_may_name_any_server(mode, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path))
    gradhelm.attach(small(), server=ELSEWHERE[0], mode=mode).close()


@pytest.mark.parametrize("url", [*HERE, *(u.replace("http:", "https:") for u in ELSEWHERE)])
def test_this_machine_and_https_are_protected(url):
    address.protected(address.checked(url), insecure=False)


def test_the_environment_can_accept_plain_http(monkeypatch):
    tried = []

    def connect(url: str, **_: object) -> None:
        tried.append(url)
        raise OSError("no network in a test")

    monkeypatch.setattr(link, "connect", connect)
    monkeypatch.setenv("GRADHELM_INSECURE", "1")
    run = gradhelm.attach(small(), server=ELSEWHERE[1], token=TOKEN)
    eventually(lambda: tried)
    run.close()
    assert tried[0].startswith("ws://10.0.0.5:8642/")


@pytest.mark.parametrize("value", ["yes", "true", "2"])
def test_no_other_word_accepts_it(monkeypatch, value):
    monkeypatch.setenv("GRADHELM_INSECURE", value)
    with pytest.raises(gradhelm.errors.SettingsError, match="GRADHELM_INSECURE is"):
        gradhelm.attach(small(), server=ELSEWHERE[1])


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:hunter2@train.example.org",
        "http://hunter2@127.0.0.1:8642",
        "http://:hunter2@127.0.0.1:8642",
        "https://ann:p@ss/hunter2@train.example.org",
        "ftp://ann:hunter2@train.example.org",
        "https://train.example.org/?token=hunter2",
        "https://train.example.org/login#hunter2",
    ],
)
def test_a_url_with_a_secret_in_it_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="server is") as refused:
        gradhelm.attach(small(), server=url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8642/\nX: y", "http://127.0.0.1/ a", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="accepted: an http or https URL"):
        address.checked(url)


@pytest.mark.parametrize("token", ["gh_a\nb", "gh_\u2026"])
def test_a_token_that_is_none_is_refused_and_not_repeated(monkeypatch, token):
    monkeypatch.setenv("GRADHELM_TOKEN", token)
    with pytest.raises(TypeError, match="printable ASCII") as refused:
        gradhelm.attach(small())
    assert token not in str(refused.value)


def test_a_line_break_behind_a_token_is_not_part_of_it():
    assert settings.read({"GRADHELM_TOKEN": f"{TOKEN}\n"}).token == TOKEN
    assert TOKEN not in repr(settings.read({"GRADHELM_TOKEN": TOKEN}))


# -- redirects ------------------------------------------------------------------------------------


class Elsewhere(http.server.ThreadingHTTPServer):
    """Leads on to itself, at another name, and keeps what it was sent."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Lead)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Lead(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Elsewhere)
        server.heard.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if "there" not in self.path else 404)
        self.send_header("Location", f"http://localhost:{server.server_port}/there?token=hunter2")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_trainer_follows_no_redirect(elsewhere: Elsewhere, caplog):
    run = gradhelm.attach(small(), server=elsewhere.url, token=TOKEN)
    eventually(lambda: len(elsewhere.heard) > 1)
    run.close()
    assert {path for path, _ in elsewhere.heard} == {"/api/v1/ingest"}
    assert "it redirects to 'http://localhost" in caplog.text
    assert "set GRADHELM_SERVER to it" in caplog.text
    assert "hunter2" not in caplog.text


def test_nor_does_a_delivery(elsewhere: Elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path))
    model = small()
    run = gradhelm.attach(model, mode="offline")
    one_step(model)
    run.clip()
    run.close()
    (segment,) = (tmp_path / run.id).iterdir()
    with pytest.raises(Undelivered, match="it redirects to"):
        deliver(segment, elsewhere.url, TOKEN)
    assert [path for path, _ in elsewhere.heard] == ["/api/v1/ingest"]


# -- what is told ---------------------------------------------------------------------------------


def test_debug_logging_tells_no_token(server, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("gradhelm", "websockets", "websockets.client"):
        caplog.set_level(logging.DEBUG, logger=name)
    model = small()
    run = gradhelm.attach(model, server=server.url, token=TOKEN)
    one_step(model)
    run.clip()
    server.wait(lambda: server.headers)
    run.close()
    assert server.headers[0] == f"Bearer {TOKEN}"
    # The server of this test is in this process too, and no part of ours.
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.server")]
    assert "> Authorization: …" in ours  # so headers were told, and this one was looked at
    assert not [text for text in ours if TOKEN in text]


def test_a_proxy_of_the_environment_is_told_without_its_password(monkeypatch, caplog):
    monkeypatch.setenv("https_proxy", "gopher://ann:hunter2@proxy.example:1")
    run = gradhelm.attach(small(), server="https://train.example.org", token=TOKEN)
    eventually(lambda: "cannot reach" in caplog.text)
    run.close()
    assert "proxy.example" in caplog.text
    assert "hunter2" not in caplog.text


def test_nothing_on_disk_holds_the_token(server, tmp_path, monkeypatch):
    """Not the spool of a run that could not reach its server, nor that of one offline."""
    monkeypatch.setenv("GRADHELM_SPOOL", str(tmp_path / "data" / "spool"))
    monkeypatch.setenv("GRADHELM_TOKEN", TOKEN)
    server.acks = False
    model = small()
    for mode in ("online", "offline"):
        run = gradhelm.attach(model, max_norm=1.0, server=server.url, mode=mode)
        one_step(model)
        run.clip()
        run.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".spool"]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


# -- redaction ------------------------------------------------------------------------------------

SECRETS = [
    f"refused {TOKEN}",
    f"Authorization: Bearer {TOKEN}",
    "> Authorization: Basic aHVudGVyMg==hunter2",
    "authorization: weird hunter2 and more",
    "[(b'host', b'x'), (b'authorization', b'hunter2'), (b'accept', b'*/*')]",
    "{'Authorization': 'Token hunter2'}",
    "< cookie: a=b; gradhelm-8642=hunter2",
    "Set-Cookie: gradhelm-8642=hunter2; Path=/",
    "sent __Host-gradhelm=hunter2; Path=/; Secure",
    "open http://127.0.0.1:8642/login#hunter2",
    "postgresql+psycopg://ann:hunter2@db.example:5432/runs",
    "postgresql://ann:p@hunter2@db/runs",
    "postgresql://ann:9/hunter2@db/runs",
    "(psycopg) failed: host=db password=hunter2 user=ann",
    "connect(password='hunter2', user='ann')",
    '{"password": "hunter2", "name": "ann"}',
    '{"new_password":"hunter2"}',
    "GET /x?a=b&token=hunter2&c=d",
    "'query_string': b'token=hunter2'",
    "client_secret=hunter2",
    "-----BEGIN PRIVATE KEY-----\nhunter2\nhunter2\n-----END PRIVATE KEY-----",
    '{"code": "hunter2hunter2hunter2hunter2hunter2"}',
    "http://hunter2@proxy:3128",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_taken_out(text):
    shown = redact.secrets(text)
    assert "hunter2" not in shown
    assert TOKEN not in shown
    assert redact.GONE in shown


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach http://127.0.0.1:8642 ([Errno 111] Connection refused)",
        "set GRADHELM_TOKEN, or attach(token=...)",
        "http://127.0.0.1:8642/runs/a@b",
        "mail ann@example.org about run 01912d68-783e-7a03",
        '{"error": {"code": "bad_origin", "message": "no"}}',
        "gh_norm_1 is clipped, gh_ is a prefix",
        "sqlite:////data/gradhelm.db is locked",
        "max_norm=0.5 by ann: loss spikes",
        "the basic idea, the bearer of news",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact.harmless(text) == text


@pytest.mark.parametrize(
    "text",
    ["a\r\nINFO: forged", "\x1b[2J\x1b[1;1H", "a\u202eb", "\x00", "\ud800", "\x9b2J", "a\u2028b"],
)
def test_what_is_not_printable_is_escaped(text):
    shown = redact.harmless(text)
    assert shown.isprintable()
    assert re.sub(r"\\(?:[rn]|x[0-9a-f]{2}|u[0-9a-f]{4})", "", shown).isascii()


def test_a_long_text_is_looked_through_quickly():
    began = time.perf_counter()
    for text in ("://" * 30_000, "a:" * 50_000, "password" * 10_000, "cookie:'" * 10_000):
        redact.secrets(text)
    assert time.perf_counter() - began < 5


def test_a_record_of_a_log_is_made_harmless_with_its_traceback():
    stream_of: list[str] = []
    logger = logging.Logger("of its own")
    logger.addFilter(redact.Filter())
    handler = logging.Handler()
    handler.emit = lambda record: stream_of.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        raise OSError(f"no\nINFO: forged, by {TOKEN}")
    except OSError:
        logger.exception("a run %s failed", "x\r\nINFO: forged")
    (text,) = stream_of
    assert TOKEN not in text
    assert not [one for one in text.splitlines() if one.startswith("INFO")]
    assert "OSError" in text


def test_the_data_directory_is_closed_whoever_makes_it(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("GRADHELM_SPOOL", raising=False)
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path / "new" / "home"))
    gradhelm.attach(small(), mode="offline").close()
    assert (tmp_path / "new" / "home").stat().st_mode & 0o077 == 0
