"""The command line against a real server: what it prints, how it fails, what it exits with."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from support import Program, Running, eventually
from trainer import trainer

from gradhelm import __version__

pytestmark = pytest.mark.joined


def test_runs_are_listed_and_shown(server: Running, here: Program) -> None:
    with trainer(server.ws, server.token, name="evil \x1b[2J name") as fake:
        fake.send(0, fake.rows([0.5, 2.0]))
        listed = here.run("runs")
        assert fake.run in listed.stdout
        assert "\x1b" not in listed.stdout
        assert any(run["id"] == fake.run for run in here.json("runs")["runs"])
        shown = here.run("show", fake.run)
        assert "max_norm = 1" in shown.stdout
        assert "0.01 to 100" in shown.stdout
        assert here.json("show", fake.run[:24])["id"] == fake.run


def test_advice_is_shown_with_its_figures(server: Running, here: Program) -> None:
    with trainer(server.ws, server.token, layers=["a", "evil \x1b[2J"]) as fake:
        rows = fake.rows([2.0] * 300)
        rows[:, -1] = 0
        fake.send(0, rows)
        shown = " ".join(here.run("show", fake.run, "--advice").stdout.split())
        (told,) = here.json("show", fake.run, "--advice")["advice"]
        assert "advice" not in here.json("show", fake.run)
    assert "by the newest 300 steps 100 % of the newest 300 steps were clipped." in shown
    assert "was exactly zero in all of the newest 200 steps" in shown
    assert "\x1b" not in shown
    for one in told["suggestions"]:
        assert f"{one['value']:.4g} {100 * one['clip_fraction']:.1f} % {one['name']}" in shown
        assert one["source"] in shown
    assert {"clips_most", "dead"} <= {one["kind"] for one in told["warnings"]}
    with trainer(server.ws, server.token) as fake:
        assert "Nothing stands out." in here.run("show", fake.run, "--advice").stdout


def test_a_run_is_found_by_its_name_newest_first(server: Running, here: Program) -> None:
    for _ in range(2):
        with trainer(server.ws, server.token, name="same name") as fake:
            fake.send(0, fake.rows([0.5]))
    assert here.json("show", "same name")["id"] == fake.run


def test_set_without_wait_says_that_it_is_pending(server: Running, here: Program) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([0.5]))
        done = here.run("set", fake.run, "max_norm=0.5", "--reason", "why not")
        assert done.returncode == 0
        assert "version 1 pending" in done.stdout
        waited = here.run("set", fake.run, "max_norm=0.4", "--wait", "--timeout", "0.3")
        assert waited.returncode == 1
        assert "still pending" in waited.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["set", "RUN", "max_norm=1000"], 1, "outside 0.01 to 100"),
        (["set", "RUN", "max_norm=nan"], 2, "expected NAME=VALUE"),
        (["set", "RUN", "0.5"], 2, "expected NAME=VALUE"),
        (["set", "RUN", "clip_value=0.5"], 1, "expected max_norm"),
        (["set", "RUN"], 2, "--roll-back-to V"),
        (["set", "RUN", "max_norm=0.5", "--roll-back-to", "0"], 2, "or else --roll-back-to"),
        (["set", "RUN", "--roll-back-to", "7"], 1, "expected 0 (as coded) to 0"),
        (["set", "RUN", "max_norm=0.5", "--ttl", "0"], 2, "whole number from 1"),
        (["set", "RUN", "max_norm=0.5", "--not-before", "-1"], 2, "--not-before"),
        (["set", "RUN", "max_norm=0.5", "--within", "5"], 2, "goes with"),
        (["set", "RUN", "max_norm=0.5", "--revert-if-nonfinite"], 2, "--within W"),
        (["set", "RUN", "max_norm=0.5", "--within", "5", "--revert-band", "1:0"], 2, "LOW:HIGH"),
        (["set", "RUN", "max_norm=0.5", "--within", "5", "--revert-band", "nan:1"], 2, "LOW:HIGH"),
        (["set", "RUN", "lr_factor=0.5"], 1, "Control(lr=True)"),
        (["stop", "RUN"], 1, "Control(stop=True)"),
        (["show", "no such run"], 1, "there is no run"),
        (["token", "create", "--role", "king"], 2, "invalid choice"),
        (["token", "create", "--role", "viewer", "--expires", "soon"], 2, "30d, 12h or 45m"),
        (["token", "revoke", "nothing"], 1, "no token"),
        (["runs", "--limit", "0"], 2, "1 to 500"),
        (["frobnicate"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(server, here, arguments, code, words) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([0.5]))
        done = here.run(*(fake.run if a == "RUN" else a for a in arguments))
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_tail_follows_a_run_to_its_end(server: Running, here: Program) -> None:
    from gradhelm import wire

    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([0.5, 2.0]))
        with subprocess.Popen(
            [sys.executable, "-m", "gradhelm_server", "tail", fake.run, "--json"],
            env=here.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as following:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["step"] == 0
            assert json.loads(following.stdout.readline())["global_norm"] == 2.0
            fake.send(2, fake.rows([3.0]))
            assert json.loads(following.stdout.readline())["step"] == 2
            fake.say(wire.Finish("finished", 2))
            assert following.wait(20) == 0


def test_tokens_are_made_listed_and_revoked(here: Program) -> None:
    made = here.json("token", "create", "--role", "viewer", "--expires", "30d", "--name", "for ann")
    assert made["token"].startswith("gh_")
    (mine,) = [t for t in here.json("token", "list")["tokens"] if t["name"] == "for ann"]
    assert mine["expires_at"]
    assert "for ann" in here.run("token", "list").stdout
    assert here.run("token", "revoke", mine["id"]).returncode == 0
    assert "revoked" in here.run("token", "list").stdout


def test_without_a_server_the_reason_is_said(program: Program) -> None:
    done = program.run("runs")
    assert done.returncode == 1
    assert "is `gradhelm up` running?" in done.stderr
    assert program.run("doctor").returncode == 1


def test_without_a_token_the_way_in_is_said(server: Running, here: Program, tmp_path) -> None:
    stranger = Program(tmp_path, here.port)
    done = stranger.run("runs")
    assert done.returncode == 1
    assert "GRADHELM_TOKEN" in done.stderr


def test_up_prints_a_link_and_doctor_finds_nothing_wrong(program: Program) -> None:
    link = program.start()
    assert link.startswith(f"{program.url}/login#")
    assert program.run("link").stdout.startswith(f"{program.url}/login#")
    done = program.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check["ok"] for check in program.json("doctor")["checks"])


def test_a_port_that_is_taken_is_named(program: Program) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", program.port))
        other.listen()
        done = program.run("up", "--no-browser", "--port", str(program.port))
    assert done.returncode == 1
    assert f"port {program.port}" in done.stderr
    assert "--port takes another one" in done.stderr


def test_two_servers_on_one_database_are_one_too_many(program: Program) -> None:
    program.start()
    other = Program(program.home, program.port + 1)
    done = other.run("up", "--no-browser", "--port", str(other.port))
    assert done.returncode == 1
    assert "another gradhelm server" in done.stderr


def test_an_open_bind_is_refused_without_allowed_hosts(program: Program) -> None:
    done = program.run("up", "--no-browser", "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "GRADHELM_ALLOWED_HOSTS" in done.stderr


def test_serve_refuses_an_old_schema_and_names_the_command(program: Program) -> None:
    done = program.run("serve", "--port", str(program.port))
    assert done.returncode == 1
    assert "gradhelm db upgrade" in done.stderr
    assert "none (this program needs 0006)" in program.run("db", "current").stdout
    assert program.run("db", "upgrade").stdout.strip() == "revision none → 0006"
    assert program.json("db", "current") == {"current": "0006", "needed": "0006"}
    program.start("serve")
    eventually(lambda: program.run("doctor").returncode == 0)


def test_the_version_is_told(program: Program) -> None:
    assert program.run("--version").stdout.strip() == f"gradhelm {__version__}"


def test_accounts_are_made_changed_and_removed(here: Program) -> None:
    def run(*words: str, code: int = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
        done = here.run("user", *words, input=typed)
        assert done.returncode == code, done.stderr
        return done

    made = here.json(
        "user", "add", "ann", "--role", "viewer", "--role", "operator@vision", "--link"
    )
    assert made["grants"] == {"*": "viewer", "vision": "operator"}
    assert made["link"].startswith(f"http://127.0.0.1:{here.port}/login#")
    added = run(
        "add", "bob", "--role", "admin", "--password-stdin", typed="correct horse battery\n"
    )
    assert "admin in all" in added.stdout
    assert "correct" not in added.stdout + added.stderr
    listed = run("list").stdout
    assert "operator in vision" in listed
    assert "link only" in listed
    assert "--password-stdin" in run("add", "eve", "--role", "viewer", code=2).stderr
    assert (
        "12 to 1000"
        in run("add", "eve", "--role", "viewer", "--password-stdin", code=1, typed="x\n").stderr
    )
    assert "already" in run("add", "ANN", "--role", "viewer", "--link", code=1).stderr
    assert "expected viewer" in run("add", "eve", "--role", "king", code=2).stderr
    assert "twice" in run("grant", "ann", "--role", "viewer", "--role", "operator", code=2).stderr
    assert "operator in speech" in run("grant", "ann", "--role", "operator@speech").stdout
    run("password", "ann", "--password-stdin", typed="correct horse battery\n")
    assert "/login#" in run("link", "Ann").stdout
    run("disable", "ann")
    assert "disabled" in run("list").stdout
    run("enable", "ann")
    for name in ("ann", "bob"):
        run("remove", name)
    assert "no user" in run("remove", "ann", code=1).stderr
    assert "there are no accounts" in run("list").stdout
