"""One rank of a distributed job: ``python ranks_job.py SCENARIO RANK SIZE PORT OUT``.

What it found goes to OUT as JSON. A scenario is a function below; the parent says what must hold.
"""

from __future__ import annotations

import faulthandler
import gc
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel

import gradhelm
from gradhelm import meeting, notice, ranks
from gradhelm.clip import AutoClip, GlobalNorm, ZClip
from gradhelm.control import Control
from gradhelm.wire import Change, Rule

RANK, SIZE = int(sys.argv[2]), int(sys.argv[3])
CHANGES = int(os.environ.get("RANKS_CHANGES", "60"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def job(
    clip: Any = None, *, wrap: bool = True, lr: float = 0.01, **more: Any
) -> tuple[nn.Module, optim.Optimizer, gradhelm.Run]:
    trained = DistributedDataParallel(model()) if wrap else model()
    optimizer = optim.SGD(trained.parameters(), lr=lr)
    run = attach(trained, optimizer, clip=clip or GlobalNorm(1.0), **more)
    torch.manual_seed(100 + RANK)
    return trained, optimizer, run


def attach(*what: Any, **more: Any) -> gradhelm.Run:
    server = os.environ.get("JOB_SERVER")
    if server is None:  # nobody has to listen: what is sent is not the matter here
        server = "http://127.0.0.1:9"
    return gradhelm.attach(*what, server=server, **more)


def step(trained: nn.Module, optimizer: optim.Optimizer, data: torch.Tensor | None = None) -> None:
    optimizer.zero_grad()
    trained(torch.randn(4, 6) if data is None else data).square().sum().backward()
    optimizer.step()


def weights(trained: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in trained.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def begun(run: gradhelm.Run) -> bool:
    assert run._ranks is not None
    return run._ranks._work is not None


def until_begun(trained: nn.Module, optimizer: optim.Optimizer, run: gradhelm.Run) -> None:
    """Steps until rounds have begun: at the same step on all ranks, so that no collective is cut."""
    while not begun(run):
        step(trained, optimizer)


def change(run: gradhelm.Run, version: int, max_norm: float) -> None:
    run._steering.receive(Change(version, (Rule({"max_norm": max_norm}),)))


def told(run: gradhelm.Run, trained: nn.Module, **more: Any) -> dict[str, Any]:
    return {
        "threshold": run.threshold,
        "version": run.control_version,
        "why_not": run._steering.limits.why_not,
        "weights": weights(trained),
        "warned": sorted(run._notices.counts),
        "step": run.step,
        **more,
    }


def everybody(flag: bool) -> bool:
    """Whether ``flag`` holds on rank 0, known to all."""
    said = torch.tensor([int(flag)])
    dist.broadcast(said, 0)
    return bool(said.item())


# -- scenarios ------------------------------------------------------------------------------------


def changes() -> dict[str, Any]:
    """Changes one after the other, now and then two at once, while random ranks stall."""
    rng = random.Random(17 + RANK)
    fetch, connect = meeting.Meeting._fetch, meeting.Meeting._connect

    def slow_fetch(self: meeting.Meeting, edition: int) -> None:
        time.sleep(rng.choice((0.0, 0.0, 0.01)))
        fetch(self, edition)

    def slow_connect(self: meeting.Meeting) -> None:
        time.sleep(0.3 * RANK / SIZE)
        connect(self)

    meeting.Meeting._fetch = slow_fetch
    meeting.Meeting._connect = slow_connect
    ranks.CHECK_EVERY = 100
    trained, optimizer, run = job()
    log: list[tuple[int, int, float | None]] = []
    given = 0
    while not everybody(run.control_version >= CHANGES):
        if RANK == 0 and given < CHANGES and (run.control_version == given or rng.random() < 0.01):
            given += 1
            change(run, given, round(rng.uniform(0.1, 10.0), 3))
        if rng.random() < 0.02:
            time.sleep(rng.choice((0.002, 0.02)))
        step(trained, optimizer)
        log.append((run.step, run.control_version, run.threshold))
    return told(run, trained, log=log, answers=len(run._steering.answers()))


def slow_steps() -> dict[str, Any]:
    """When steps are slow, a round is made at each of them; the slowest rank decides."""
    ranks.SLOW = 0.004
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    periods = []
    for number in range(60):
        if RANK == SIZE - 1 and number < 30:
            time.sleep(0.006)
        if number == 30:
            ranks.SLOW = 1.0
        step(trained, optimizer)
        periods.append(run._ranks._period)
    return told(run, trained, periods=periods)


def served() -> dict[str, Any]:
    """A change by way of the server."""
    trained, optimizer, run = job()
    log = []
    while not everybody(run.control_version == 1):
        step(trained, optimizer)
        log.append((run.step, run.control_version, run.threshold))
    return told(run, trained, log=log)


def killed() -> dict[str, Any]:
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    for number in range(1_000_000):
        if RANK == SIZE - 1 and number == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        step(trained, optimizer)
    return {}


def frozen(rank: int) -> dict[str, Any]:
    """Ranks that train models of their own; one freezes, the others must not."""
    ranks.HELD_UP = (0.5, 0.0)
    trained, optimizer, run = job(wrap=False)
    until_begun(trained, optimizer, run)
    dist.barrier()
    if rank == RANK:
        os.kill(os.getpid(), signal.SIGSTOP)
    for _ in range(200):
        step(trained, optimizer)
    return told(run, trained)


def alone() -> dict[str, Any]:
    """``if rank == 0: attach``, where ranks train one model."""
    trained = DistributedDataParallel(model())
    optimizer = optim.SGD(trained.parameters(), lr=0.01)
    if RANK == 0:
        attach(trained, optimizer, max_norm=1.0)
    for _ in range(100_000):
        step(trained, optimizer)
    return {}


def alone_apart() -> dict[str, Any]:
    """The same where each rank trains its own."""
    meeting.LONG_GRACE = 1.5
    trained = model()
    optimizer = optim.SGD(trained.parameters(), lr=0.01)
    run = attach(trained, optimizer, max_norm=1.0) if RANK == 0 else None
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        step(trained, optimizer)
    return {} if run is None else told(run, trained)


def alone_and_short() -> dict[str, Any]:
    """Too short for a verdict: told at the end."""
    trained = DistributedDataParallel(model())
    optimizer = optim.SGD(trained.parameters(), lr=0.01)
    run = attach(trained, optimizer, max_norm=1.0) if RANK == 0 else None
    for _ in range(meeting.STEPS + 5):
        step(trained, optimizer)
    if run is not None:
        run.close()
    return {}


class Dead:
    """A group whose exchange raises."""

    def allreduce(self, *_: Any) -> None:
        raise RuntimeError("the exchange is dead")


def dead_hook(rank: int, *, on_its_way: bool) -> dict[str, Any]:
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    if RANK == 0 and on_its_way:
        change(run, 1, 5.0)
    for number in range(150):
        # With a change on its way: between its being offered and its being acted upon.
        offered = run._ranks._offered > run._ranks._acted
        if rank == RANK and (offered if on_its_way else number == 3):
            run._ranks._meeting.group = Dead()
        if RANK == 0 and not on_its_way and number == 30:
            change(run, 1, 5.0)
        step(trained, optimizer)
    answers = [type(answer).__name__ for answer in run._steering.answers()]
    return told(run, trained, answers=answers)


def dead_as_it_acts() -> dict[str, Any]:
    """The exchange of the last rank dies at the boundary at which all act."""
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    launch = ranks.Ranks._launch

    def dead(self: ranks.Ranks) -> None:
        if self._acted:
            raise RuntimeError("the exchange is dead")
        launch(self)

    if RANK == SIZE - 1:
        ranks.Ranks._launch = dead
    if RANK == 0:
        change(run, 1, 5.0)
    log = []
    for _ in range(100):
        step(trained, optimizer)
        log.append(run.threshold)
    return told(run, trained, log=log)


def late() -> dict[str, Any]:
    """Ranks that train models of their own, each once much later than the other."""
    trained, optimizer, run = job(wrap=False)
    until_begun(trained, optimizer, run)
    log = []
    for number in range(200):
        if RANK == 0 and number in (20, 120):
            change(run, run.control_version + 1, 5.0 + number / 10)
        if number in (25, 125):
            time.sleep(1.0 * ((number == 25) == RANK))
        step(trained, optimizer)
        log.append((run._ranks.ticks(), run.control_version, run.threshold))
    return told(run, trained, log=log, waited=run._ranks._waited)


def lost_after_acting() -> dict[str, Any]:
    """The last rank drops out at the very boundary at which the others act."""
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    heed = ranks.Ranks._heed

    def drop(self: ranks.Ranks, offered: int, least: int) -> Change | None:
        if offered > self._acted and offered == least:
            raise RuntimeError("dropped out")
        return heed(self, offered, least)

    if RANK == SIZE - 1:
        ranks.Ranks._heed = drop
    if RANK == 0:
        change(run, 1, 5.0)
    for _ in range(100_000):
        step(trained, optimizer)
    return {}


def tampered() -> dict[str, Any]:
    """A value that one rank alone has."""
    ranks.CHECK_EVERY = 50
    trained, optimizer, run = job()
    run._ranks._next_check = 50
    until_begun(trained, optimizer, run)
    if RANK == SIZE - 1:
        run._first.strategy.reset({"max_norm": 3.0})
    for _ in range(100_000):
        step(trained, optimizer)
    return {}


def control_off() -> dict[str, Any]:
    """With GRADHELM_CONTROL=off on the last rank, which the parent sets."""
    trained, optimizer, run = job()
    while not everybody(run._steering.limits.why_not is not None):
        step(trained, optimizer)
    if RANK == 0:
        change(run, 1, 5.0)
    for _ in range(40):
        step(trained, optimizer)
    return told(run, trained, answers=[answer.why for answer in run._steering.answers()])


def other_clip() -> dict[str, Any]:
    trained, optimizer, _ = job(GlobalNorm(1.0 if RANK == 0 else 2.0))
    for _ in range(100_000):
        step(trained, optimizer)
    return {}


def other_control() -> dict[str, Any]:
    trained, optimizer, _ = job(control=Control(max=50.0 if RANK == 0 else 60.0))
    for _ in range(100_000):
        step(trained, optimizer)
    return {}


def adaptive(kind: str) -> dict[str, Any]:
    """Strategies that learn from the norms, with accumulated gradients."""
    trained, optimizer, run = job(
        AutoClip(50.0) if kind == "AutoClip" else ZClip(warmup=10), lr=0.02
    )
    log = []
    for number in range(150):
        optimizer.zero_grad()
        with trained.no_sync():
            trained(torch.randn(4, 6)).square().sum().backward()
        scale = 30.0 if number % 20 == 19 else 1.0
        (scale * trained(torch.randn(4, 6)).square().sum()).backward()
        optimizer.step()
        log.append(repr(run._first.strategy.state_dict()))
    return told(run, trained, log=log)


def sharded(kind: str) -> dict[str, Any]:
    """ZeRO stage 1, the same data on all ranks: what one process alone would have learned."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    trained = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(trained.parameters(), getattr(optim, kind), lr=0.05)
    run = attach(trained, optimizer, max_norm=0.5)
    until_begun(trained, optimizer, run)
    single = model()
    single.load_state_dict({k.removeprefix("module."): v for k, v in trained.state_dict().items()})
    # Both begin anew, for Adam has a memory.
    run.close()
    optimizer = ZeroRedundancyOptimizer(trained.parameters(), getattr(optim, kind), lr=0.05)
    run = attach(trained, optimizer, max_norm=0.5)
    alone = getattr(optim, kind)(single.parameters(), lr=0.05)
    torch.manual_seed(5)
    clipped = 0
    for _ in range(60):
        data = torch.randn(4, 6)
        step(trained, optimizer, data)
        alone.zero_grad()
        single(data).square().sum().backward()
        clipped += int(nn.utils.clip_grad_norm_(single.parameters(), 0.5) > 0.5)
        alone.step()
    return told(run, trained, single=weights(single), clipped=clipped)


def two_streams() -> dict[str, Any]:
    """Two optimizers of one run, which step in turn."""
    first, second = DistributedDataParallel(model()), DistributedDataParallel(model())
    both = nn.ModuleList([first, second])
    a, b = (optim.SGD(one.parameters(), lr=0.01) for one in both)
    run = attach(both, {"a": a, "b": b}, max_norm=1.0)
    torch.manual_seed(100 + RANK)
    log = []
    for number in range(400):
        if RANK == 0 and number == 100:
            rules = (Rule({"max_norm": 2.0}), Rule({"max_norm": 3.0}, None, "b"))
            run._steering.receive(Change(1, rules))
        step(first, a)
        if number % 3 == 0:
            step(second, b)
        log.append([stream.threshold for stream in run.streams.values()])
    return told(run, both, log=log)


def fully_sharded() -> dict[str, Any]:
    """Each rank holds its shard of every parameter, and all are steered alike."""
    from torch.distributed.fsdp import fully_shard

    trained = model()
    fully_shard(trained)
    optimizer = optim.SGD(trained.parameters(), lr=0.01)
    run = attach(trained, optimizer, max_norm=1.0)
    torch.manual_seed(100 + RANK)
    log = []
    for number in range(300):
        if RANK == 0 and number == 100:
            change(run, 1, 0.25)
        step(trained, optimizer)
        log.append(run.threshold)
    whole = [parameter.full_tensor() for parameter in trained.parameters()]
    same = hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in whole)).hexdigest()
    why_not = run._steering.limits.why_not
    run.close()
    return {"log": log, "weights": same, "why_not": why_not}


def closed_early() -> dict[str, Any]:
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    for number in range(100):
        if RANK == SIZE - 1 and number == 5:
            run.close()
        if RANK == 0 and number == 40:
            change(run, 1, 5.0)
        step(trained, optimizer)
    return told(run, trained)


def forked() -> dict[str, Any]:
    """A forked child clips by itself, and does not wait for threads that it does not have.

    It ends as multiprocessing ends its children: at a full exit torch's own group hangs.
    """
    trained, optimizer, before = job()
    until_begun(trained, optimizer, before)
    before.close()
    trained, optimizer, run = job()
    until_begun(trained, optimizer, run)
    child = os.fork()
    if child == 0:
        for _ in range(30):
            run._first.boundary()
        del before
        run._ranks = None
        gc.collect()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if RANK == 0:
        change(run, 1, 5.0)
    for _ in range(60):
        step(trained, optimizer)
    return told(run, trained, child=status)


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "dead hook on 0": lambda: dead_hook(0, on_its_way=False),
    "dead hook on 1": lambda: dead_hook(1, on_its_way=False),
    "dead hook on 0, a change on its way": lambda: dead_hook(0, on_its_way=True),
    "dead hook on 1, a change on its way": lambda: dead_hook(1, on_its_way=True),
    "frozen 0": lambda: frozen(0),
    "frozen 1": lambda: frozen(1),
    "AutoClip": lambda: adaptive("AutoClip"),
    "ZClip": lambda: adaptive("ZClip"),
    "ZeRO with SGD": lambda: sharded("SGD"),
    "ZeRO with AdamW": lambda: sharded("AdamW"),
}


def run_one(scenario: str) -> dict[str, Any]:
    """One scenario; what it patched is as before afterwards."""
    kept = [(place, dict(vars(place))) for place in (ranks, meeting)]
    kinds = [(kind, dict(vars(kind))) for kind in (ranks.Ranks, meeting.Meeting)]
    try:
        return (SCENARIOS.get(scenario) or globals()[scenario])()
    finally:
        for place, names in kept:
            constants = {name: value for name, value in names.items() if name.isupper()}
            vars(place).update(constants)
        for kind, names in kinds:
            for name, value in names.items():
                if vars(kind).get(name) is not value:
                    setattr(kind, name, value)


def main() -> None:
    scenarios, port, out = sys.argv[1], sys.argv[4], sys.argv[5]
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)  # the parent asks where this one hangs
    notice.strict = True
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=RANK, world_size=SIZE)
    found = {}
    for scenario in scenarios.split(" + "):
        began = time.monotonic()
        try:
            found[scenario] = run_one(scenario)
        except gradhelm.errors.RanksError as error:
            if scenario != "tampered":  # elsewhere, ranks do not stop at the same step
                raise
            found[scenario] = {"error": str(error)}
        found[scenario]["seconds"] = time.monotonic() - began
        with open(out, "w", encoding="utf-8") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
