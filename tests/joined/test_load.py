"""The load generator: what it counts is what the server has, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from support import Program, Running, eventually

from gradhelm_server import process
from gradhelm_server.figures import Tally, Times
from gradhelm_server.simulated import MATERIAL, material

pytestmark = pytest.mark.joined

SMALL = ("bench", "load", "--runs", "3", "--layers", "4", "--rate", "50")


def runs_of_loads(server: Running) -> list[dict]:
    return server.get("runs", project="load")["runs"]


def started(program: Program, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gradhelm_server", *SMALL, *arguments],
        env=program.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_load_is_stored_seen_told_and_deleted(server: Running, here: Program) -> None:
    told = here.json(*SMALL, "--duration", "3s", "--viewers", "2")
    assert told["connected"] == 3
    assert told["errors"] == {}
    assert told["unacknowledged"] == 0
    assert told["deleted"] == 3
    assert told["offered_per_second"] == 3 * 10 * 50
    assert told["points"] > 0
    assert 0 < told["ack_ms"]["p50"] <= told["ack_ms"]["p99"] <= told["ack_ms"]["max"]
    assert told["view_ms"]["p50"] > 0
    assert runs_of_loads(server) == []


def test_kept_runs_have_every_step_once(server: Running, here: Program) -> None:
    done = here.run(*SMALL, "--duration", "2s", "--keep")
    assert done.returncode == 0, done.stderr
    assert "points/s" in done.stdout
    kept = runs_of_loads(server)
    assert len(kept) == 3
    for run in kept:
        assert run["status"] == "finished"
        assert run["tags"] == ["load"]
        series = server.get(f"runs/{run['id']}/series", columns="global_norm", points=20_000)
        assert series["columns"]["global_norm"]["step"] == list(range(run["steps"]))
        assert run["steps"] > 50
        server.rest.delete(f"/api/v1/runs/{run['id']}")


def test_runs_of_thousands_of_layers_are_declared_in_pieces(here: Program) -> None:
    told = here.json("bench", "load", "--runs", "1", "--layers", "10000", "--duration", "2s")
    assert told["errors"] == {}
    assert told["points"] > 10_000


def test_a_server_that_dies_loses_nothing_that_was_acknowledged(program: Program) -> None:
    program.start()
    with started(program, "--duration", "600s", "--json", "--keep") as load:

        def all_beyond(step: int) -> bool:
            runs = program.json("runs")["runs"]
            return len(runs) == 3 and all(run["steps"] > step for run in runs)

        eventually(lambda: all_beyond(10), 30)
        program.kill()
        program.start()
        before = max(run["steps"] for run in program.json("runs")["runs"])
        eventually(lambda: all_beyond(before + 100), 90)
        load.send_signal(signal.SIGINT)
        output, complaint = load.communicate(timeout=60)
    told = json.loads(output)
    assert load.returncode == 1  # connections were lost, and that is told
    assert "errors" in complaint
    assert told["reconnects"] == 3
    assert told["unacknowledged"] == 0
    for run in program.json("runs")["runs"]:
        assert run["status"] == "finished"
        assert run["last_step"] == run["steps"] - 1


def test_a_change_reaches_a_simulated_trainer(server: Running, here: Program) -> None:
    with started(here, "--duration", "600s") as load:
        run = eventually(lambda: next((r for r in runs_of_loads(server) if r["steps"]), None), 30)
        assert isinstance(run, dict)
        done = here.run("set", run["id"], "max_norm=0.5", "--wait")
        assert "applied at step" in done.stdout, done.stderr
        load.send_signal(signal.SIGINT)
        assert load.wait(30) == 0
        load.communicate()
    assert runs_of_loads(server) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "0"], "1 to 10,000"),
        (["--runs", "ten"], "1 to 10,000"),
        (["--layers", "-1"], "1 to 10,000"),
        (["--rate", "nan"], "steps per second"),
        (["--rate", "0"], "steps per second"),
        (["--duration", "60"], "30d, 12h or 45m"),
        (["--viewers", "1e3"], "0 to 10,000"),
        (["--server", "localhost:8642"], "http or https"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_a_line(
    here: Program, arguments: list[str], words: str
) -> None:
    done = here.run("bench", "load", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_server_or_a_token_the_reason_is_said(server: Running, program: Program) -> None:
    done = program.run(*SMALL)
    assert done.returncode == 1
    assert "is `gradhelm up` running?" in done.stderr
    done = program.run(*SMALL, "--server", server.url, "--token", "gh_wrong")
    assert done.returncode == 1
    assert "GRADHELM_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_few_files_are_said_before_anything_is_opened(server: Running, here: Program) -> None:
    resource = pytest.importorskip("resource")
    done = here.run(
        *SMALL[:2],
        "--runs",
        "300",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
    )
    assert done.returncode == 1
    assert "364 open files are needed and 200 allowed" in done.stderr


def test_a_histogram_tells_times_to_two_percent() -> None:
    times, tally = Times(), Tally()
    assert times.spread() is None
    seconds = np.random.default_rng(0).lognormal(-5, 2, 5000)
    before = times.counts()
    for value in seconds:
        times.add(float(value))
    spread = times.spread(before)
    assert spread is not None
    assert spread == pytest.approx([1000 * np.quantile(seconds, q) for q in (0.5, 0.99, 1)], 0.02)
    reading = tally.read(None)
    assert tally.figures(reading, tally.read(None)).server_memory is None


def test_every_slice_of_the_material_is_in_one_piece_and_clips_now_and_then() -> None:
    rows = material(7)
    assert rows.shape == (2 * MATERIAL, 13)
    assert np.array_equal(rows[:MATERIAL], rows[MATERIAL:])
    assert 0.02 < rows[:MATERIAL, 3].mean() < 0.08


@pytest.mark.skipif(not process.PROC.exists(), reason="only Linux tells of processes this way")
def test_the_process_behind_a_port_is_found_and_measured() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert process.listening_on(port) is None
        listener.listen()
        assert process.listening_on(port) == os.getpid()
    used = process.usage(os.getpid())
    assert used is not None
    assert used.memory > 10_000_000
    assert used.threads >= 1
    assert used.cpu == pytest.approx(time.process_time(), abs=1)
    assert process.usage(2**22 + 1) is None
