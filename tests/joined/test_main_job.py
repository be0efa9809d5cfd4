"""The hook and the server together, over real sockets and real processes.

What a sceptical user would try: compare every number, kill either side, steer mid-run.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from subprocess import DEVNULL, PIPE, Popen

import numpy as np
import pytest
import torch
from support import Program, Running, eventually, running

import gradhelm
from gradhelm_server.tiles import unpack_index

pytestmark = pytest.mark.joined


def small_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Linear(32, 4)
    )


def attach(server: Running, model: torch.nn.Module, optimizer, **values: object) -> gradhelm.Run:
    return gradhelm.attach(model, optimizer, server=server.url, token=server.token, **values)


def loss_of(model: torch.nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=generator)
    return model(x).pow(2).mean() * (50.0 if step % 10 == 0 else 1.0)


def test_a_thousand_steps_read_back_are_the_norms_computed_apart(server: Running) -> None:
    """Every parameter at every step, against float64 norms taken just before the step."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    names = [name for name, _ in model.named_parameters()]
    oracle = np.empty((1000, len(names)))
    with attach(server, model, optimizer, max_norm=0.5, name="oracle") as run:
        for step in range(1000):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            for row, parameter in enumerate(model.parameters()):
                assert parameter.grad is not None
                oracle[step, row] = parameter.grad.double().norm().item()
            optimizer.step()
            run.log(loss=loss)
    columns = [f"norm/{name}" for name in names]
    asked = ",".join([*columns, "global_norm", "clip_coef", "threshold", "clipped", "loss"])
    found = server.get(f"runs/{run.id}/series", columns=asked, points=20_000)
    assert found["stride"] == 1
    series = found["columns"]
    for row, column in enumerate(columns):
        assert series[column]["step"] == list(range(1000))
        np.testing.assert_allclose(series[column]["mean"], oracle[:, row], rtol=2e-6)
    total = np.sqrt((oracle**2).sum(1))
    np.testing.assert_allclose(series["global_norm"]["mean"], total, rtol=2e-6)
    norms = np.array(series["global_norm"]["mean"], np.float32)
    expected = np.minimum(1, 0.5 / (norms.astype(np.float64) + 1e-6))
    np.testing.assert_allclose(series["clip_coef"]["mean"], expected, rtol=2e-7 * 4)
    assert 0 < sum(series["clipped"]["mean"]) < 1000
    assert series["loss"]["step"] == list(range(1000))
    assert server.get(f"runs/{run.id}")["status"] == "finished"


def test_a_change_takes_hold_at_the_step_that_is_reported(server: Running) -> None:
    """Steered while it runs; the recorded thresholds, coefficients and the reported step agree."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run = attach(server, model, optimizer, max_norm=5.0, name="steered")
    ended = threading.Event()

    def train() -> None:
        step = 0
        while not ended.is_set():
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
            step += 1
            time.sleep(0.01)

    thread = threading.Thread(target=train)
    thread.start()
    delays = []
    try:
        eventually(lambda: recorded(server, run.id))
        for version, value in enumerate((0.5, 0.05, 20.0), start=1):
            before, asked_at = run.step, time.monotonic()
            answer = server.put_control(run.id, version - 1, max_norm=value, reason="test")
            assert answer.status_code == 202
            history = eventually(lambda v=version: applied(server, run.id, v), what="applied")
            delays.append(time.monotonic() - asked_at)
            assert history["step"] >= before
            assert run.control_version == version
            assert run.threshold == pytest.approx(value)
    finally:
        ended.set()
        thread.join()
        run.close()
    found = server.get(
        f"runs/{run.id}/series", columns="threshold,global_norm,clip_coef", points=20_000
    )["columns"]
    history = server.get(f"runs/{run.id}/control/history")["versions"]
    wanted = np.full(len(found["threshold"]["step"]), 5.0, np.float32)
    for entry in reversed(history):
        wanted[entry["step"] :] = entry["to"]["max_norm"]
    np.testing.assert_array_equal(np.array(found["threshold"]["mean"], np.float32), wanted)
    norms = np.array(found["global_norm"]["mean"])
    np.testing.assert_allclose(
        found["clip_coef"]["mean"], np.minimum(1, wanted / (norms + 1e-6)), rtol=1e-6
    )
    # Two steps (of 10 ms here) and a second are promised.
    assert max(delays) < 1.02


def recorded(server: Running, run: str) -> int:
    """Steps of a run that the server may not have heard of yet."""
    answer = server.rest.get(f"/api/v1/runs/{run}")
    return answer.json()["steps"] if answer.status_code == 200 else 0


def applied(server: Running, run: str, version: int) -> dict | None:
    history = server.get(f"runs/{run}/control/history")["versions"]
    return next((e for e in history if e["version"] == version and e["status"] == "applied"), None)


TRAINER = """
import sys, time, torch, gradhelm
torch.manual_seed(0); torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
run = gradhelm.attach(model, optimizer, max_norm=0.5, name="killed")
print(run.id, flush=True)
steps, pace = int(sys.argv[1]), float(sys.argv[2])
slowest = 0.0
for step in range(steps):
    begin = time.perf_counter()
    optimizer.zero_grad()
    model(torch.randn(4, 8)).pow(2).mean().backward()
    optimizer.step()
    run.log(loss=float(step))
    slowest = max(slowest, time.perf_counter() - begin)
    time.sleep(pace)
print("slowest", slowest, flush=True)
"""


@contextmanager
def training(program: Program, steps: int, pace: float) -> Iterator[tuple[str, Popen[str]]]:
    """A training job as a process of its own: its run's id, and the process."""
    with Popen(
        [sys.executable, "-c", TRAINER, str(steps), str(pace)],
        env=program.environment,
        stdout=PIPE,
        stderr=DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def stored_steps(program: Program, run: str) -> list[int]:
    """Straight from the database file: the steps of the clip's scalars, in tiles and in frames."""
    with sqlite3.connect(program.home / "gradhelm.db") as database:
        tiles = database.execute(
            "SELECT payload FROM tiles WHERE run_id = ? AND layout = 0 AND level = 0 AND block = -1 "
            "ORDER BY id",
            (run,),
        ).fetchall()
        frames = database.execute(
            "SELECT payload, steps FROM frames WHERE run_id = ? AND layout = 0 ORDER BY seq",
            (run,),
        ).fetchall()
    parts = [unpack_index(payload)[0] for (payload,) in tiles]
    parts += [np.frombuffer(payload, "<u8", count) for payload, count in frames]
    return [step for part in parts for step in part.tolist()]


def test_the_server_killed_mid_run_costs_training_nothing_and_no_point(program: Program) -> None:
    program.start()
    with training(program, steps=600, pace=0.01) as (run, trainer):
        for _ in range(2):
            eventually(lambda: len(stored_steps(program, run)) > 20, what="some steps stored")
            program.kill()
            kept = set(stored_steps(program, run))
            program.start()
            eventually(partial(more_than, program, run, len(kept)), 30, "more steps stored")
            assert kept <= set(stored_steps(program, run))
        output, _ = trainer.communicate(timeout=120)
    assert trainer.returncode == 0
    # The chart has closed its gap: every step once, none twice.
    assert stored_steps(program, run) == list(range(600))
    found = program.json("show", run)
    assert (found["status"], found["steps"], found["last_step"]) == ("finished", 600, 599)
    # A step takes a millisecond or so; one that waited for the server would take a second.
    assert float(output.split()[-1]) < 0.5


def more_than(program: Program, run: str, count: int) -> bool:
    return len(stored_steps(program, run)) > count


def test_a_killed_trainer_turns_stale_then_failed_with_the_time_it_was_last_heard(tmp_path) -> None:
    with running(tmp_path / "home", stale_after=1.5, failed_after=4.0) as server:
        program = Program(server.home, int(server.url.rsplit(":", 1)[1]))
        with training(program, steps=100_000, pace=0.005) as (run, trainer):
            eventually(lambda: recorded(server, run) > 10)
            assert server.get(f"runs/{run}")["status"] == "live"
            trainer.kill()
        eventually(lambda: server.get(f"runs/{run}")["status"] == "stale")
        eventually(lambda: server.get(f"runs/{run}")["status"] == "failed")
        found = server.get(f"runs/{run}")
        assert found["last_heard_at"] in found["status_reason"]


def test_a_script_that_raises_ends_its_run_as_failed(program: Program) -> None:
    program.start()
    script = TRAINER.replace('print("slowest"', "raise ValueError('diverged'); print(\"slowest\"")
    done = subprocess.run(
        [sys.executable, "-c", script, "5", "0"],
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    found = program.json("show", done.stdout.split()[0])
    assert (found["status"], found["steps"]) == ("failed", 5)
    assert "diverged" in found["status_reason"]


def test_a_resumed_run_goes_on_in_a_new_segment(server: Running) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    ids = []
    for begin in (0, 30):
        resumed = {"run_id": ids[0], "resume": True} if ids else {}
        with attach(server, model, optimizer, max_norm=1.0, start_step=begin, **resumed) as run:
            for step in range(begin, begin + 40):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
        ids.append(run.id)
    assert ids[0] == ids[1]
    found = server.get(f"runs/{ids[0]}/series", columns="global_norm", points=20_000)
    assert found["columns"]["global_norm"]["step"] == list(range(70))
