"""Part: what it costs that all ranks of a job act upon a change at the same step.

Each rank is a process that trains a small model under DistributedDataParallel. Blocks of steps with
the rounds and without them, in the same random order on all ranks, in the same processes. The cost
is a mean, for nine steps of ten have no round. What the boundary itself takes is told beside the
difference between whole blocks, which the training's own all-reduces drown in noise where there are
more ranks than cores.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from typing import Any

from .place import Asked, say, scratch
from .server import environment
from .summary import spread

SIZES = (2, 4)
BLOCK = 200
"""Steps of one block; twenty rounds."""
CHANGES = 40


def measure(asked: Asked) -> dict[str, Any]:
    blocks = 60 if asked.large else 20
    found: dict[str, Any] = {"blocks": blocks, "block": BLOCK, "jobs": {}}
    for size in SIZES:
        told = _job(size, blocks)
        inside = [sum(rank["inside_us"]) / blocks for rank in told]
        added = [a - b for a, b in zip(told[0]["with_us"], told[0]["bare_us"], strict=True)]
        cpu = [
            statistics.mean(rank["with_cpu_us"]) - statistics.mean(rank["bare_cpu_us"])
            for rank in told
        ]
        job = {
            "inside_us": max(inside),
            "waited_us": max(rank["waited_us"] for rank in told),
            "added_us": {**spread(added), "mean": statistics.mean(added)},
            "cpu_us": statistics.mean(cpu),
            "step_us": statistics.mean(told[0]["bare_us"]),
            "changes": CHANGES,
            "rounds": spread(told[0]["rounds"]),
            "steps": spread(told[0]["steps"]),
        }
        found["jobs"][str(size)] = job
        say(
            f"{size} ranks: {job['inside_us']:.1f} µs/step at the boundary, "
            f"{job['added_us']['mean']:+.0f} µs/step in all, CPU {job['cpu_us']:+.0f} µs, of steps of "
            f"{job['step_us']:.0f} µs; a change takes {job['rounds']['median']:.0f} rounds, "
            f"{job['steps']['median']:.0f} steps"
        )
    return found


def _job(size: int, blocks: int) -> list[dict[str, Any]]:
    """What each rank of one job measured."""
    with scratch("ranks") as folder:
        shared = [str(size), str(folder / "meet"), str(blocks)]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.ranks", str(rank), *shared],
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(f"a rank of {size} ended badly")
    return [json.loads(one) for one in said]


# -- one rank -------------------------------------------------------------------------------------


def _rank(rank: int, size: int, meet: str, blocks: int) -> dict[str, Any]:
    import torch
    import torch.distributed as dist
    from torch import nn, optim

    from gradhelm import attach, ranks, wire

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=size)
    # A run without a server has no rounds to measure, and one that looks for its server disturbs.
    announcement = ranks.announcement
    ranks.announcement = lambda *of, reports: announcement(*of, reports=True)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    run = attach(model, optimizer, max_norm=1.0, mode="disabled")
    steering, seat = run._steering, run._ranks
    assert seat is not None
    launches = 0
    launch, agree = seat._launch, seat.agree
    data = torch.randn(4, 8)
    inside = 0.0

    def counted() -> None:
        nonlocal launches
        launches += 1
        launch()

    def timed(waiting: wire.Change | None) -> wire.Change | None:
        nonlocal inside
        began = time.perf_counter()
        change = agree(waiting)
        inside += time.perf_counter() - began
        return change

    def step() -> None:
        optimizer.zero_grad()
        model(data).square().sum().backward()
        optimizer.step()

    seat._launch = counted  # type: ignore[method-assign]
    while not launches:
        step()
    found: dict[str, Any] = {
        name: []
        for name in (
            "bare_us",
            "with_us",
            "bare_cpu_us",
            "with_cpu_us",
            "inside_us",
            "rounds",
            "steps",
        )
    }
    order = random.Random(1)
    waited = seat._waited
    for number in range(blocks + 2):
        for side in order.sample(("bare", "with"), 2):
            steering.agree = timed if side == "with" else None
            inside = 0.0
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(BLOCK):
                step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= 2:
                found[f"{side}_us"].append(1e6 * wall / BLOCK)
                found[f"{side}_cpu_us"].append(1e6 * cpu / BLOCK)
                if side == "with":
                    found["inside_us"].append(1e6 * inside / BLOCK)
    found["waited_us"] = 1e6 * (seat._waited - waited) / ((blocks + 2) * BLOCK)
    steering.agree = agree
    for version in range(1, CHANGES + 1):
        for _ in range(order.randrange(20)):
            step()
        if rank == 0:
            rule = wire.Rule({"max_norm": 1.0 + version / 100})
            steering.receive(wire.Change(version, (rule,)))
        steps, rounds = run.step, launches
        while run.control_version < version:
            step()
        found["steps"].append(run.step - steps)
        found["rounds"].append(launches - rounds)
    run.close()
    dist.barrier()
    dist.destroy_process_group()
    return found


if __name__ == "__main__":
    place, of, where, how_many = sys.argv[1:]
    print(json.dumps(_rank(int(place), int(of), where, int(how_many))))
