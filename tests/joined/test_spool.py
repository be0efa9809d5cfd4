"""Online runs that keep on disk what the server does not have yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOTS, Program, eventually

from gradhelm import spool, wire
from gradhelm.rest import Client
from gradhelm.salvage import numbered

pytestmark = pytest.mark.joined

TRAINER = """
import sys, time, torch, gradhelm
first, steps, run, lives = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
model = torch.nn.Linear(6, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
run = gradhelm.attach(model, optimizer, max_norm=1.0, name="kept", start_step=first,
                      run_id=run or None, resume=bool(run))
print(run.id, flush=True)
for step in range(first, first + steps):
    optimizer.zero_grad()
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    time.sleep(0.005)
print("done", flush=True)
if lives == "waits":
    sys.stdin.read()
"""


def trainer(
    program: Program, steps: int, *, first: int = 0, run: str = "", lives: str = "ends"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(first), str(steps), run, lives],
        env={
            **program.environment,
            "GRADHELM_SPOOL": str(program.home / "spool"),
            "PYTHONPATH": os.pathsep.join(ROOTS),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def last_step(program: Program, run: str) -> int:
    """0 while the server knows nothing of the run."""
    done = program.run("show", run, "--json")
    return 0 if done.returncode else json.loads(done.stdout)["last_step"] or 0


def kept(program: Program, run: str) -> list[Path]:
    return spool.segments(program.home / "spool" / run)


def test_a_server_that_never_comes_back_leaves_it_all_to_sync(program: Program) -> None:
    program.start()
    process = trainer(program, 600)
    run = line(process)
    eventually(lambda: last_step(program, run) > 50, 20)
    program.kill()
    out, said = process.communicate(timeout=60)
    assert (out.strip(), process.returncode) == ("done", 0)
    assert f"to bring it there: gradhelm sync {program.home / 'spool' / run}" in said
    program.start()
    done = program.run("sync", str(program.home / "spool" / run))
    assert done.returncode == 0, done.stderr
    found = program.json("show", run)
    assert (found["status"], found["steps"], found["last_step"]) == ("finished", 600, 599)
    assert not kept(program, run)


def test_a_server_that_comes_back_gets_it_all_and_nothing_is_left(program: Program) -> None:
    program.start()
    process = trainer(program, 600, lives="waits")
    run = line(process)
    eventually(lambda: last_step(program, run) > 50, 20)
    program.kill()
    assert line(process) == "done"
    program.start()
    eventually(lambda: last_step(program, run) == 599, 30)
    process.communicate("", timeout=60)
    found = program.json("show", run)
    assert (found["status"], found["steps"]) == ("finished", 600)
    assert not (program.home / "spool" / run).exists()


def test_what_a_killed_life_left_is_delivered_by_the_next(program: Program) -> None:
    program.start()
    process = trainer(program, 400, lives="waits")
    run = line(process)
    eventually(lambda: last_step(program, run) > 20, 20)
    program.kill()
    assert line(process) == "done"
    (folder,) = kept(program, run)
    eventually(lambda: spool_holds(folder, 399), 20, "everything on disk")
    process.kill()
    process.communicate()
    program.start()
    again = trainer(program, 200, first=500, run=run)
    assert again.communicate(timeout=60)[0].split() == [run, "done"]
    eventually(lambda: not kept(program, run), 20, "the delivery of what was left")
    found = program.json("show", run)
    assert (found["status"], found["steps"], found["last_step"]) == ("finished", 600, 699)
    events = gaps(program, run)
    assert [(gap["first_step"], gap["count"]) for gap in events] == [(400, 0)]
    assert "lost after step 399" in events[0]["text"]


def spool_holds(folder: Path, step: int) -> bool:
    return any(
        isinstance(record, wire.Frame)
        and int.from_bytes(record.steps[-8:], "little") == step
        and record.group == 0
        for record in numbered(folder, 0, "", growing=True)
    )


def gaps(program: Program, run: str) -> list[dict]:
    token = (program.home / "token").read_text().strip()
    found = Client(program.url, token).ask("GET", f"runs/{run}/events?kind=gap").body
    return list(found["events"])


def test_what_a_connected_run_keeps_is_left_to_it(program: Program) -> None:
    program.start()
    process = trainer(program, 300, lives="waits")
    run = line(process)
    assert line(process) == "done"
    done = program.run("sync", str(program.home / "spool" / run))
    assert done.returncode == 1
    assert "its trainer is connected, and delivers this itself" in done.stderr
    process.communicate("", timeout=30)
    assert program.json("show", run)["steps"] == 300
    assert not kept(program, run)
