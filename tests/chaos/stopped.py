"""A server that is stopped (SIGSTOP) for as long as a run takes.

``python -m chaos.stopped`` (from ``tests``) prints what that costs the run, and what comes of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support import ROOTS, Program, eventually, free_port

TRAINER = """
import json, sys, time, torch, gradhelm
steps, mode = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(20)])
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
run = gradhelm.attach(model, optimizer, max_norm=0.5, name="stopped", mode=mode)
losses = []
print("ready", flush=True)
sys.stdin.readline()
for step in range(steps):
    optimizer.zero_grad()
    loss = (model(torch.randn(4, 8)) - 1).square().mean()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
    losses.append(loss.item().hex())
told = {"run": run.id, "losses": losses, **run.stats()}
began = time.monotonic()
run.close()
print(json.dumps({**told, "close": time.monotonic() - began}), flush=True)
"""


def train(program: Program, steps: int, mode: str, *, stop: bool = False) -> dict[str, object]:
    """One training process from beginning to end; what it tells. ``stop``: the server is stopped
    once the run has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(steps), mode],
        env={
            **program.environment,
            "GRADHELM_SPOOL": str(program.home / "spool"),
            "PYTHONPATH": os.pathsep.join(ROOTS),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if stop:
        assert program.process is not None
        eventually(lambda: program.json("runs")["runs"], 20, "the run")
        program.process.send_signal(signal.SIGSTOP)
    out, _ = process.communicate("go\n", timeout=600)
    assert process.returncode == 0
    return dict(json.loads(out))


def rehearse(home: Path, steps: int) -> dict[str, object]:
    """The figures. Raises AssertionError where something is not as it has to be."""
    program = Program(home, free_port())
    program.start()
    try:
        plain = train(program, steps, "disabled")
        found = train(program, steps, "online", stop=True)
        assert program.process is not None
        program.process.send_signal(signal.SIGCONT)
        assert found["losses"] == plain["losses"]
        began = time.monotonic()
        done = program.run("sync", str(home / "spool"), "--server", program.url)
        assert done.returncode == 0, done.stdout + done.stderr
        took = time.monotonic() - began
        run = program.json("show", str(found["run"]))
        assert run["status"] == "finished"
        return {
            "steps": steps,
            "stored": run["steps"],
            "handoff_p50_us": found["handoff_p50_us"],
            "handoff_p99_us": found["handoff_p99_us"],
            "dropped": found["dropped"],
            "close_seconds": found["close"],
            "sync_seconds": took,
            "losses_identical": True,
        }
    finally:
        if program.process is not None:
            program.process.send_signal(signal.SIGCONT)
        program.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.stopped", description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradhelm-stopped-") as home:
        print(json.dumps(rehearse(Path(home), asked.steps), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
