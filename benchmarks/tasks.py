"""What is done with one contender, inside its own environment: ``python -m benchmarks.tasks``.

    python -m benchmarks.tasks TASK CONTENDER FOLDER '{"json": "arguments"}'

prints its result as one line of JSON, the last one. Imports nothing of gradhelm.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import cpu
from .contenders import CONTENDERS, Contender
from .place import size_of

REST = 0.2
"""Seconds between two blocks, so that what one left in threads is not charged to the next."""


def steps(
    contender: Contender, *, job: str, blocks: int, seconds: float, others: list[int]
) -> dict[str, Any]:
    """Blocks of training steps with a bare clip and with the contender, in random order.

    Returns milliseconds per step of each block, and of CPU of all processes (``others`` are those
    that are not descendants of this one).
    """
    import torch

    from . import models

    torch.set_num_threads(1)
    model, loss = models.build(job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    parameters = list(model.parameters())
    taken = 0

    def block(count: int, logged: bool) -> tuple[float, float]:
        """Wall and this thread's CPU, in milliseconds per step."""
        nonlocal taken
        if logged:
            contender.begin(model)
        wall, own = time.perf_counter(), time.thread_time()
        for _ in range(count):
            optimizer.zero_grad()
            loss().backward()
            if logged:
                contender.step(taken, model)
                taken += 1
            else:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
        spent = time.perf_counter() - wall, time.thread_time() - own
        if logged:
            contender.pause(model)
        return 1000 * spent[0] / count, 1000 * spent[1] / count

    block(2, logged=False)
    once = block(3, logged=False)[0]
    count = max(2, round(1000 * seconds / once))
    contender.watch(model)
    block(2, logged=True)  # what is made at first use
    time.sleep(REST)
    bare: list[float] = []
    with_it: list[float] = []
    before, bare_cpu = cpu.family(os.getpid(), *others), 0.0
    gc.collect()
    for _ in range(blocks):
        for logged in random.sample((False, True), 2):
            wall, own = block(count, logged)
            (with_it if logged else bare).append(wall)
            bare_cpu += 0.0 if logged else own * count
            time.sleep(REST)
    contender.finish()
    used = 1000 * (cpu.family(os.getpid(), *others) - before)
    logged_steps = count * blocks
    return {
        "bare_ms": bare,
        "with_ms": with_it,
        # There are as many steps without it, which take as much of this thread as those with it.
        "cpu_ms": (used - 2 * bare_cpu) / logged_steps,
        "steps": logged_steps,
        "told": contender.told(),
        "columns": len(parameters),
    }


def ingest(
    contender: Contender, *, columns: int, steps: int, seconds: float, read: bool
) -> dict[str, Any]:
    """Values as fast as they are taken, for some seconds at most; then, if asked, reads."""
    rng = random.Random(0)
    names = [f"layers.{n}.weight" for n in range(columns)]
    rows = [{name: rng.lognormvariate(0, 1) for name in names} for _ in range(64)]
    began, before = time.monotonic(), cpu.family(os.getpid())
    taken = 0
    while taken < steps and (taken % 16 or time.monotonic() - began < seconds):
        contender.log(taken, rows[taken % 64])
        taken += 1
    took, used = time.monotonic() - began, cpu.family(os.getpid()) - before
    told: dict[str, Any] = {}
    if read and contender.reads_while_open:
        told = _reads(contender, names, taken)
    closing, closing_cpu = time.monotonic(), cpu.family(os.getpid())
    contender.finish()
    told |= {
        "steps": taken,
        "points": taken * columns,
        "seconds": took + time.monotonic() - closing,
        "cpu": used + cpu.family(os.getpid()) - closing_cpu,
        "disk": size_of(contender.folder),
    }
    if read and contender.reads and not contender.reads_while_open:
        told |= _reads(contender, names, taken)
    return told


def _reads(contender: Contender, names: list[str], taken: int) -> dict[str, list[float]]:
    told = {"series_ms": _read(lambda salt: contender.series(names[0]), taken)}
    if len(names) > 1:
        least = min(taken, 900) * len(names) // 2
        told["table_ms"] = _read(lambda salt: contender.table(names, 1000, salt), least)
    return told


def _read(read: Callable[[int], int], least: int) -> list[float]:
    """Milliseconds of some reads, each of at least so many values, after one to warm up."""
    found = []
    for salt in range(6):
        began = time.perf_counter()
        count = read(salt)
        found.append(1000 * (time.perf_counter() - began))
        assert count >= least, f"{count} values came, expected {least}"
        if sum(found) > 20_000:
            break
    return found[1:] or found


def main() -> None:
    task, name, folder, arguments = sys.argv[1:]
    contender = CONTENDERS[name](Path(folder))
    do: dict[str, Callable[..., dict[str, Any]]] = {"steps": steps, "ingest": ingest}
    print("\n" + json.dumps(do[task](contender, **json.loads(arguments))), flush=True)
    os._exit(0)  # what some of them do at exit talks to their service


if __name__ == "__main__":
    main()
