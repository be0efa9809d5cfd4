"""The end of a process: everything arrives without a call of close(), and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradhelm
from gradhelm import wire
from gradhelm.run import DRAIN

from .models import one_step, small

HOOK = str(Path(gradhelm.__file__).parents[1])

SCRIPT = """
import torch, gradhelm
model = torch.nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run = gradhelm.attach(model, optimizer, max_norm=1.0, server={server!r})
for step in range(40):
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    run.log(loss=step)
"""


def script(server: str, end: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(server=server) + end],
        env={**os.environ, "PYTHONPATH": HOOK},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_script_that_just_ends_has_delivered_everything(server):
    result = script(server.url)
    assert result.returncode == 0
    assert sorted(server.table()) == list(range(40))
    assert sorted(server.logged()) == list(range(40))
    assert server.of(wire.Finish) == [wire.Finish("finished", 39)]
    assert result.stdout == ""
    assert result.stderr.startswith("gradhelm: watching 2 parameters at http://127.0.0.1:")


def test_a_script_that_an_exception_ended_has_failed(server):
    result = script(server.url, "raise RuntimeError('loss is nan')")
    assert result.returncode == 1
    assert server.of(wire.Finish) == [wire.Finish("failed", 39, "RuntimeError: loss is nan")]


def test_a_forked_child_stays_silent_and_clips(server):
    end = """
import os
child = os.fork()
for step in range(5):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    run.log(loss=-1.0)
assert model.weight.grad.norm() <= 1.0
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    result = script(server.url, end)
    assert result.returncode == 0, result.stderr
    assert server.connections == 1
    assert sorted(server.table()) == list(range(45))


def test_a_dead_server_does_not_hold_a_script_up():
    end = """
import atexit, time
began = time.monotonic()
atexit.register(lambda: print(time.monotonic() - began))
run.close()
"""  # threads that are left are waited for before what is registered here
    result = script("http://127.0.0.1:9", end)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < DRAIN + 1.0


def test_leaving_the_with_block_by_an_exception_is_a_failure(server):
    model = small()
    with (
        pytest.raises(OSError, match="disk"),
        gradhelm.attach(model, max_norm=1.0, server=server.url) as run,
    ):
        one_step(model)
        run.clip()
        raise OSError("disk")
    assert server.of(wire.Finish) == [wire.Finish("failed", 0, "OSError: disk")]
    run.close()
    assert len(server.of(wire.Finish)) == 1


def test_close_takes_the_statuses_there_are(server):
    run = gradhelm.attach(small(), max_norm=1.0, server=server.url)
    with pytest.raises(ValueError, match="finished, failed, stopped"):
        run.close("done")
    run.close("stopped")
    assert server.of(wire.Finish) == [wire.Finish("stopped", None)]


def test_the_wire_brings_no_torch_and_no_server():
    code = """
import sys, time
started = time.perf_counter()
import gradhelm
import gradhelm.wire
took = time.perf_counter() - started
heavy = {"torch", "fastapi", "sqlalchemy", "dash", "websockets"} & set(sys.modules)
assert not heavy, heavy
assert gradhelm.__version__
print(f"import gradhelm.wire: {1000 * took:.0f} ms")
import gradhelm.settings, gradhelm.link, gradhelm.control
heavy = {"torch", "fastapi", "sqlalchemy", "dash"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": HOOK},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    sys.stdout.write(result.stdout)
