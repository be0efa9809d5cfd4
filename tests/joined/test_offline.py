"""Runs without a server, and `gradhelm sync` afterwards, meanwhile, again, and after damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOTS, Running, eventually, running

import gradhelm
from gradhelm import spool
from gradhelm.delivery import Undelivered, deliver

pytestmark = pytest.mark.joined

TRAINER = """
import sys, time, torch, gradhelm
steps, lives = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
run = gradhelm.attach(model, optimizer, max_norm=0.5, name="away", mode="offline")
print(run.id, flush=True)
for step in range(steps):
    optimizer.zero_grad()
    (model(torch.randn(16, 8)) ** 2).mean().backward()
    optimizer.step()
    run.log(loss=float(step))
    if lives == "slowly":
        time.sleep(0.01)
print("done", flush=True)
if lives == "waits":
    sys.stdin.read()
if lives == "killed":
    import os
    time.sleep(1.5)  # what was measured is on disk after a second
    os.kill(os.getpid(), 9)
"""


def train(home: Path, steps: int, lives: str = "ends") -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADHELM_")}
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(steps), lives],
        env=environment | {"GRADHELM_HOME": str(home), "PYTHONPATH": os.pathsep.join(ROOTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(home: Path, steps: int, lives: str = "ends") -> tuple[str, str]:
    """The id of a run that is over, and what it said."""
    out, said = train(home, steps, lives).communicate(timeout=120)
    return out.split()[0], said


def sync(home: Path, server: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradhelm", "sync", "--server", server.url, *words],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("GRADHELM_")},
            "GRADHELM_HOME": str(home),
            "GRADHELM_TOKEN": server.token,
            "PYTHONPATH": os.pathsep.join(ROOTS),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def steps_of(server: Running, run: str, column: str = "global_norm") -> list[int]:
    found = server.get(f"runs/{run}/series", columns=column, points=50_000)
    assert found["stride"] == 1
    return found["columns"][column]["step"]


def test_an_offline_run_is_delivered_whole_and_removed(server: Running, tmp_path: Path) -> None:
    run, said = trained(tmp_path, 2_000)
    assert f"gradhelm sync {tmp_path / 'spool' / run}" in said
    assert server.rest.get(f"/api/v1/runs/{run}").status_code == 404
    done = sync(tmp_path, server)
    assert done.returncode == 0, done.stderr
    assert "all is delivered and removed here" in done.stdout
    found = server.get(f"runs/{run}")
    assert (found["status"], found["steps"], found["name"]) == ("finished", 2_000, "away")
    assert steps_of(server, run) == list(range(2_000))
    losses = server.get(f"runs/{run}/series", columns="loss", points=50_000)["columns"]["loss"]
    assert losses["mean"] == [float(step) for step in range(2_000)]
    control = server.get(f"runs/{run}/control")
    assert control["why_read_only"] == "the run is offline: nothing reaches it"
    assert not list((tmp_path / "spool").rglob("*.spool"))
    again = sync(tmp_path, server)
    assert again.returncode == 0
    assert "nothing is kept in" in again.stdout


def test_it_measures_what_a_watched_run_does_and_clips_as_one_that_is_not(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path))
    weights, series = {}, {}
    for mode in ("disabled", "offline", "online"):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        where = {"server": server.url, "token": server.token}
        with gradhelm.attach(model, optimizer, max_norm=0.3, mode=mode, **where) as run:
            for _ in range(300):
                optimizer.zero_grad()
                (model(torch.randn(16, 8)) ** 2).mean().backward()
                optimizer.step()
        weights[mode] = [parameter.detach().clone() for parameter in model.parameters()]
        if mode == "offline":
            (folder,) = spool.segments(tmp_path / "spool" / run.id)
            assert deliver(folder, server.url, server.token).ended
        if mode != "disabled":
            names = "global_norm,clip_coef,threshold,norm/0.weight,norm/2.bias"
            series[mode] = server.get(f"runs/{run.id}/series", columns=names)["columns"]
    assert series["offline"] == series["online"]
    for mode in ("offline", "online"):
        for ours, plain in zip(weights[mode], weights["disabled"], strict=True):
            assert torch.equal(ours, plain)


def test_a_killed_run_is_delivered_as_far_as_it_came(server: Running, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, 1_000, "killed")
    done = sync(tmp_path, server, "--json")
    (told,) = json.loads(done.stdout)["delivered"]
    assert (told["ended"], told["lost"], told["going_on"], told["missing"]) == (
        True,
        True,
        False,
        0,
    )
    assert steps_of(server, run) == list(range(1_000))
    found = server.get(f"runs/{run}")
    assert found["steps"] == 1_000
    assert (found["status"], found["status_reason"]) == ("failed", "the process was lost")
    (gap,) = server.get(f"runs/{run}/events", kind="gap")["events"]
    assert (gap["first_step"], gap["count"]) == (1_000, 0)
    # It was killed, so nobody adds to it: nothing is left here.
    assert "nothing is kept in" in sync(tmp_path, server).stdout


def test_it_is_delivered_while_it_goes_on_and_again_when_it_has_ended(
    server: Running, tmp_path: Path
) -> None:
    job = train(tmp_path, 500, "waits")
    try:
        assert job.stdout is not None
        run = job.stdout.readline().strip()
        assert job.stdout.readline().strip() == "done"
        eventually(lambda: len(list((tmp_path / "spool").rglob("*.spool"))) > 0, what="a file")

        def arrived() -> bool:
            done = sync(tmp_path, server)
            assert done.returncode == 0, done.stderr
            assert "the run goes on" in done.stdout
            return server.get(f"runs/{run}")["steps"] == 500

        eventually(arrived, within=30, what="all steps so far")
        assert server.get(f"runs/{run}")["status"] != "finished"
    finally:
        job.communicate(timeout=60)
    done = sync(tmp_path, server)
    assert "all is delivered and removed here" in done.stdout
    assert server.get(f"runs/{run}")["status"] == "finished"
    assert steps_of(server, run) == list(range(500))


def test_what_is_damaged_is_declared_and_the_rest_arrives(server: Running, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, 300, "slowly")  # several records, a second apart
    (file,) = (tmp_path / "spool" / run).rglob("*.spool")
    frames = [e for e in spool.read(file.parent) if isinstance(e, spool.Entry)]
    kept = [e for e in frames if e.kind is spool.Kind.RECORD]
    victim = next(e for e in kept if len(e.data) > 1000)  # not one of logged scalars alone
    whole = file.read_bytes()
    at = whole.index(victim.data) + len(victim.data) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    done = sync(tmp_path, server)
    assert done.returncode == 0, done.stderr
    assert "1 could not be read, and are declared missing" in done.stdout
    found = server.get(f"runs/{run}")
    (gap,) = server.get(f"runs/{run}/events", kind="gap")["events"]
    assert found["status"] == "finished"
    assert gap["text"] == "kept on disk and damaged there"
    there = steps_of(server, run)
    lost = sorted(set(range(300)) - set(there))
    assert 0 < len(lost) < 300
    assert (gap["first_step"], gap["last_step"]) == (lost[0], lost[-1])


def test_no_server_no_token_and_no_folder_are_said_and_nothing_is_lost(
    server: Running, tmp_path: Path
) -> None:
    run, _ = trained(tmp_path, 50)
    (folder,) = spool.segments(tmp_path / "spool" / run)
    with pytest.raises(Undelivered, match=r"cannot reach http://127\.0\.0\.1:9"):
        deliver(folder, "http://127.0.0.1:9", "")
    with pytest.raises(Undelivered, match="refused the token"):
        deliver(folder, server.url, "gh_wrong")
    missing = sync(tmp_path, server, str(tmp_path / "nowhere"))
    assert missing.returncode == 1
    assert "there is no folder" in missing.stderr
    assert deliver(folder, server.url, server.token).ended


def test_two_that_deliver_the_same_take_turns(server: Running, tmp_path: Path) -> None:
    run, _ = trained(tmp_path, 3_000)
    (folder,) = spool.segments(tmp_path / "spool" / run)
    outcomes: list[object] = []

    def one() -> None:
        try:
            outcomes.append(deliver(folder, server.url, server.token))
        except (Undelivered, gradhelm.errors.SpoolError) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(getattr(outcome, "ended", False) for outcome in outcomes), outcomes
    assert steps_of(server, run) == list(range(3_000))
    assert server.get(f"runs/{run}")["steps"] == 3_000


def test_an_older_segment_that_comes_late_takes_its_place_below_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline first, then resumed online from a checkpoint, and only then delivered."""
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path / "trainer"))

    def life(run_id: str | None, first: int, steps: int, scale: float, **where: str) -> str:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        resume = {} if run_id is None else {"run_id": run_id, "resume": True}
        with gradhelm.attach(model, optimizer, start_step=first, **resume, **where) as run:
            for _ in range(steps):
                optimizer.zero_grad()
                (scale * model(torch.ones(2, 4)).sum()).backward()
                optimizer.step()
        return run.id

    with running(tmp_path / "server") as server:
        run = life(None, 0, 100, 1.0, mode="offline")
        life(run, 50, 100, 3.0, server=server.url, token=server.token)
        (folder,) = spool.segments(tmp_path / "trainer" / "spool")
        assert deliver(folder, server.url, server.token).ended
        found = server.get(f"runs/{run}/series", columns="global_norm")["columns"]["global_norm"]
        assert found["step"] == list(range(150))
        norms = np.array(found["mean"])
        assert norms[50:] == pytest.approx(3 * norms[0])
        assert norms[:50] == pytest.approx(norms[0])
        shown = server.get(f"runs/{run}")
        assert (shown["status"], shown["last_step"], shown["steps"]) == ("finished", 149, 200)
