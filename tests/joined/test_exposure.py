"""What the command line refuses because it would give something away, and what it makes private."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import Program, Running, free_port

from gradhelm.errors import ServerError
from gradhelm.rest import Client

pytestmark = pytest.mark.joined
TOKEN = "gh_" + "s3cr3t" * 7


class Lead(BaseHTTPRequestHandler):
    """Leads everybody on to itself at another name, and keeps whom it was asked by."""

    heard: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers["Authorization"]))
        there = f"http://localhost:{self.server.server_port}/there"  # type: ignore[attr-defined]
        self.send_response(int(self.path.partition("status=")[2] or 200))
        self.send_header("Location", there)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def leading() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    heard: list[tuple[str, str | None]] = []
    handler = type("Handler", (Lead,), {"heard": heard})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_command_follows_no_redirect(leading, status: int, method: str) -> None:
    url, heard = leading
    body = {} if method != "GET" else None
    with pytest.raises(ServerError, match="redirects to 'http://localhost"):
        Client(url, TOKEN).ask(method, "runs", query={"status": status}, body=body)
    assert heard == [(f"/api/v1/runs?status={status}", f"Bearer {TOKEN}")]


@pytest.mark.parametrize(
    "command",
    [["runs"], ["link"], ["sync", "."], ["bench", "load", "--runs", "1"], ["doctor"]],
    ids=lambda words: words[0],
)
def test_no_command_talks_http_to_another_machine(program: Program, command, tmp_path) -> None:
    program.variables = {"GRADHELM_SERVER": "http://192.0.2.7:8642", "GRADHELM_TOKEN": TOKEN}
    done = program.run(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "GRADHELM_INSECURE=1" in done.stderr + done.stdout
    assert TOKEN not in done.stderr + done.stdout


def test_a_password_in_a_servers_url_is_refused_and_not_repeated(program: Program) -> None:
    for command in (["runs"], ["doctor", "--json"], ["bench", "load", "--runs", "1"]):
        program.variables = {"GRADHELM_SERVER": "https://ann:hunter2@train.example.org"}
        done = program.run(*command)
        assert done.returncode == 1
        assert "GRADHELM_TOKEN" in done.stderr + done.stdout
        assert "hunter2" not in done.stderr + done.stdout
    done = program.run("bench", "load", "--server", "ftp://ann:hunter2@train.example.org")
    assert done.returncode == 2
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://ann:hunter2@db/runs",
        "postgresql+nosuch://ann:hunter2@db/runs",
        "postgresql://ann:hunter2@127.0.0.1:1/runs",
        "ann:hunter2@db",
        "postgresql://ann:hunter2@db:port/runs",
    ],
)
@pytest.mark.parametrize("command", ["up", "db upgrade", "db current", "audit list"])
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    program: Program, url: str, command: str
) -> None:
    program.variables = {"GRADHELM_DATABASE_URL": url}
    options = ["--no-browser", "--port", str(program.port)] if command == "up" else []
    done = program.run(*command.split(), *options)
    assert done.returncode == 1, done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_the_network_is_refused_with_the_remedies(program: Program, host: str) -> None:
    program.variables = {"GRADHELM_ALLOWED_HOSTS": "train.example.org"}
    done = program.run("up", "--no-browser", "--host", host)
    assert done.returncode == 1
    for remedy in ("--tls-cert", "GRADHELM_TRUSTED_PROXIES", "SSH tunnel", "--insecure-http"):
        assert remedy in done.stderr


def test_it_can_be_had_by_a_word_and_is_warned_of(program: Program) -> None:
    program.variables = {"GRADHELM_ALLOWED_HOSTS": "localhost"}
    link = program.start("up", "--host", "0.0.0.0", "--insecure-http")
    assert link.startswith(f"http://localhost:{program.port}/login#")
    assert "can be read on the way" in "".join(program.lines)
    assert program.run("runs").returncode == 0


def test_a_server_says_how_it_is_reached(program: Program) -> None:
    program.start()
    assert f"ssh -L {program.port}:127.0.0.1:{program.port}" in "".join(program.lines)


def test_behind_a_proxy_the_link_is_the_proxys(program: Program) -> None:
    program.variables = {
        "GRADHELM_ALLOWED_HOSTS": "train.example.org",
        "GRADHELM_TRUSTED_PROXIES": "127.0.0.1",
    }
    assert program.start().startswith("https://train.example.org/login#")
    printed = "".join(program.lines)
    assert f"is up at http://127.0.0.1:{program.port}\n" in printed
    assert "through the proxy 127.0.0.1" in printed


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a mode says nothing")
def test_what_is_made_is_for_its_owner_alone(program: Program) -> None:
    before = os.umask(0o022)
    try:
        program.start()
        assert program.run("runs").returncode == 0
    finally:
        os.umask(before)
    made = [program.home, *program.home.rglob("*")]
    assert {"token", "gradhelm.db", "gradhelm.db-wal"} <= {path.name for path in made}
    open_ = [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not open_


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a mode says nothing")
def test_doctor_finds_what_others_can_read_and_says_how_to_mend_it(program: Program) -> None:
    program.start()
    token, database = program.home / "token", program.home / "gradhelm.db"
    database.chmod(0o644)
    assert program.run("doctor").returncode == 0  # the directory is closed
    program.home.chmod(0o755)
    token.chmod(0o644)
    done = program.run("doctor")
    assert done.returncode == 1
    for mend in (f"chmod 700 {program.home}", f"chmod 600 {token}", f"chmod 600 {database}"):
        assert mend in done.stdout
    for path, mode in ((program.home, 0o700), (token, 0o600), (database, 0o600)):
        path.chmod(mode)
    assert program.run("doctor").returncode == 0


def test_doctor_tells_how_a_server_is_open(program: Program) -> None:
    program.start()
    program.variables = {"GRADHELM_ALLOWED_HOSTS": "train.example.org"}
    done = program.run("doctor")
    assert done.returncode == 1
    assert "answers to train.example.org, and speaks plain http" in done.stdout
    program.variables["GRADHELM_TRUSTED_PROXIES"] = "127.0.0.1"
    done = program.run("doctor")
    assert done.returncode == 0
    assert "X-Forwarded-* is believed of 127.0.0.1" in done.stdout
    assert "does not leave this machine" in done.stdout
    program.variables["GRADHELM_TRUSTED_PROXIES"] = "proxy.example.org"
    assert "accepted: addresses and networks" in program.run("doctor").stdout


def test_doctor_warns_of_plain_http_to_another_machine(
    server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By a name of this machine that is not known to be one."""
    from gradhelm_server import doctor

    monkeypatch.setenv("GRADHELM_INSECURE", "1")
    monkeypatch.setattr("gradhelm.settings.is_loopback", lambda _: False)
    monkeypatch.setattr(doctor, "is_loopback", lambda _: False)
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path))
    monkeypatch.setenv("GRADHELM_SERVER", server.url)
    monkeypatch.setenv("GRADHELM_TOKEN", server.token)
    (bad,) = [check for check in doctor.checks() if not check.ok]
    assert "plain http (GRADHELM_INSECURE=1)" in bad.what


def test_a_token_file_is_not_taken_to_a_name_that_only_looks_local(tmp_path: Path) -> None:
    program = Program(tmp_path, free_port())
    (tmp_path / "token").write_text(TOKEN)
    program.variables = {"GRADHELM_SERVER": "http://localhost.evil.example:8642"}
    done = program.run("runs")
    assert "GRADHELM_INSECURE=1" in done.stderr
