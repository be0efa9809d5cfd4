"""What the hook costs the trainer: ``python -m benchmarks.hook [--json PATH] [--quick]``

Each comparison runs in one process, its sides in random order, on the same gradients, which are
allocated anew before each side as ``zero_grad`` has it. Ratios are taken within a round, and told as
the median over all rounds with its quartiles, so that a busy neighbour meets both sides. What an
optimizer's step takes without any clip is taken off both.

Rows are told against the targets; nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import _global_optimizer_pre_hooks

import gradhelm
from gradhelm.clip import GlobalNorm


@dataclass(frozen=True)
class Row:
    """One figure: ``value`` with its quartiles, the same in CPU time of the training thread, and
    what it should be at most."""

    what: str
    where: str
    value: float
    low: float
    high: float
    cpu: float | None
    unit: str
    target: float | None

    def __str__(self) -> str:
        figure = f"{self.value:9.3f} {self.unit:9} [{self.low:.3f} .. {self.high:.3f}]"
        cpu = "" if self.cpu is None else f"cpu {self.cpu:.3f}"
        met = "" if self.target is None else f"target {self.target:g}"
        mark = "" if self.target is None else "met" if self.value <= self.target else "MISSED"
        return f"{self.what:34} {self.where:20} {figure:42} {cpu:11} {met:13} {mark}"


# -- models ---------------------------------------------------------------------------------------


class Still(optim.Optimizer):
    """Steps nothing: what its ``step`` takes is what was hooked to it."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    def step(self) -> None:  # type: ignore[override]
        pass


class LanguageModel(nn.Module):
    """A transformer with its head tied to the embedding: 12 parameters a layer, and 3."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.embedding = nn.Embedding(1000, width)
        norm = nn.LayerNorm(width)
        self.body = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)

    def forward(self, text: Tensor) -> Tensor:
        return self.body(self.embedding(text)) @ self.embedding.weight.t()


def perceptron(layers: int, width: int) -> nn.Module:
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Embedding(1000, width), *parts, nn.Linear(width, 1000, bias=False))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "75 tensors, 1.2 M": lambda: LanguageModel(6, 124),
    "75 tensors, 2.9 M": lambda: LanguageModel(6, 192),
    "200 tensors, 1.2 M": lambda: perceptron(99, 100),
    "99 tensors, 25.7 M": lambda: LanguageModel(8, 512),
}


# -- measuring ------------------------------------------------------------------------------------

BARE = ("nothing", "bare, clips nothing", "bare, clips", "plain", "bare")

Times = dict[str, list[tuple[float, float]]]
"""Wall and thread time of each side in each round, in seconds."""


def interleave(
    sides: dict[str, Callable[[], object]], prepare: Callable[[str], None], rounds: int
) -> Times:
    """Runs all ``sides`` in each round, ``prepare`` before each; some first rounds are dropped.

    gradhelm looks at the steps of all optimizers in the process once one is attached: not at those of
    the sides in ``BARE``, which stand for a process without it.
    """
    times: Times = {side: [] for side in sides}
    cold = max(2, rounds // 10)
    hooks = dict(_global_optimizer_pre_hooks)
    for number in range(rounds + cold):
        for side in random.sample(list(sides), len(sides)):
            prepare(side)
            _global_optimizer_pre_hooks.clear()
            if side not in BARE:
                _global_optimizer_pre_hooks.update(hooks)
            cpu, wall = time.thread_time(), time.perf_counter()
            sides[side]()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if number >= cold:
                times[side].append((wall, cpu))
    _global_optimizer_pre_hooks.update(hooks)
    return times


def ratio(
    times: Times, side: str, bare: str, rest: str | tuple[str, str]
) -> tuple[float, float, float, float]:
    """Median and quartiles of (side - rest) / (bare - rest) in wall time; the median in CPU time.

    ``rest`` may differ for the two sides.
    """
    rests = (rest, rest) if isinstance(rest, str) else rest
    rounds = list(zip(*(times[name] for name in (side, bare, *rests)), strict=True))
    # What is taken off is short and its own noise would only add to that of the others.
    off = [[statistics.median(t[kind] for t in times[name]) for name in rests] for kind in (0, 1)]
    wall, cpu = (
        [(a[kind] - off[kind][0]) / (b[kind] - off[kind][1]) for a, b, *_ in rounds]
        for kind in (0, 1)
    )
    low, middle, high = statistics.quantiles(wall, n=4)
    return middle, low, high, statistics.median(cpu)


def shared_gradients(parameters: list[nn.Parameter]) -> tuple[Callable[[], None], float]:
    """What gives every parameter a new gradient, always the same, and the norm of all of them."""
    source = [torch.randn_like(p) / 1000 for p in parameters]

    def fresh() -> None:
        for p, grad in zip(parameters, source, strict=True):
            p.grad = grad.clone()

    return fresh, torch.nn.utils.get_total_norm(source).item()


# -- the figures ----------------------------------------------------------------------------------


def clip_rows(rounds: int) -> Iterator[Row]:
    """Clip, all norms and the hand-off, against the bare clip, on steps that clip and that do not."""
    for where, build in MODELS.items():
        parameters = list(build().parameters())
        fresh, norm = shared_gradients(parameters)
        unhooked = Still(parameters)

        def bare(max_norm: float, parameters=parameters, unhooked=unhooked) -> None:
            clip_grad_norm_(parameters, max_norm, foreach=True)
            unhooked.step()

        sides: dict[str, Callable[[], object]] = {
            "nothing": unhooked.step,
            "bare, clips nothing": lambda bare=bare, norm=norm: bare(10 * norm),
            "bare, clips": lambda bare=bare, norm=norm: bare(norm / 2),
        }
        sources = []
        for side, max_norm in (("clips nothing", 10 * norm), ("clips", norm / 2)):
            optimizer = Still(parameters)
            model = nn.ParameterList(parameters)
            run = gradhelm.attach(model, optimizer, max_norm=max_norm, mode="disabled")
            for stream in run.streams.values():
                sources += [source for source, _ in stream.record()]
            sides[side] = optimizer.step

        def prepare(side: str, fresh=fresh, sources=sources) -> None:
            fresh()
            for source in sources:
                for _ in source.batches():
                    pass

        large = sum(p.numel() for p in parameters) > 10_000_000
        times = interleave(sides, prepare, max(10, rounds // 15) if large else rounds)
        for side, target in (("clips nothing", 0.55), ("clips", 1.0 if large else 0.8)):
            figures = ratio(times, side, f"bare, {side}", "nothing")
            yield Row(f"a step that {side}", where, *figures, "of bare", target)
        handoff = sources[0].handoff()
        for name, target in (("p50", 10.0), ("p99", 50.0)):
            value = handoff[f"handoff_{name}_us"]
            yield Row(f"hand-off, {name}", where, value, value, value, None, "us", target)


def fold_rows(rounds: int) -> Iterator[Row]:
    """Clipped steps of a fused AdamW, the coefficient folded into its own pass or not."""
    for where in ("75 tensors, 2.9 M", "99 tensors, 25.7 M"):
        parameters = list(MODELS[where]().parameters())
        fresh, norm = shared_gradients(parameters)
        made = [optim.AdamW(parameters, lr=1e-9, fused=True) for _ in range(4)]
        plain, clipped, exact, folded = made

        def bare(parameters=parameters, norm=norm, clipped=clipped) -> None:
            clip_grad_norm_(parameters, norm / 2, foreach=True)
            clipped.step()

        for optimizer, strategy in (
            (exact, GlobalNorm(norm / 2)),
            (folded, GlobalNorm(norm / 2, exact=False)),
        ):
            model = nn.ParameterList(parameters)
            gradhelm.attach(model, optimizer, clip=strategy, mode="disabled")
        sides = {"plain": plain.step, "bare": bare, "exact": exact.step, "folded": folded.step}
        few = max(10, rounds // 15) if len(parameters) == 99 else rounds
        times = interleave(sides, lambda _, fresh=fresh: fresh(), few)
        yield Row(
            "clips, fused, exact=False",
            where,
            *ratio(times, "folded", "bare", "plain"),
            "of bare",
            0.75,
        )
        yield Row(
            "clips, fused, exact", where, *ratio(times, "exact", "bare", "plain"), "of bare", None
        )


def stream_rows(steps: int) -> Iterator[Row]:
    """Whole training steps that stream to a server, against the same steps with the bare clip."""
    with server() as (url, token, process):
        for where, most in (("75 tensors, 2.9 M", 0.0), ("200 tensors, 1.2 M", 0.5)):
            yield from _streamed(where, most, steps, url, token, process)


def _streamed(
    where: str, most: float, steps: int, url: str, token: str, process: int
) -> Iterator[Row]:
    text = torch.randint(1000, (4, 33))
    sides: dict[str, Callable[[], object]] = {}
    run = None
    for side in ("bare", "hook"):
        torch.manual_seed(0)
        model = MODELS[where]()
        optimizer = optim.SGD(model.parameters(), lr=1e-4)
        if side == "hook":
            run = gradhelm.attach(model, optimizer, max_norm=1.0, server=url, token=token)

        def step(model=model, optimizer=optimizer, side=side) -> None:
            optimizer.zero_grad()
            logits = model(text[:, :-1])
            cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
            if side == "bare":
                clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()

        sides[side] = step
    assert run is not None
    interleave(sides, lambda _: None, 5)
    time.sleep(1.5)  # the run is known to the server, and its first frames are on their way
    times = interleave(sides, lambda _: None, steps)
    # What runs beside the training thread does so all the time, so that here the hook has it alone.
    others = -(time.process_time() - time.thread_time()), -_cpu_of(process)
    for _ in range(steps):
        sides["hook"]()
    others = others[0] + time.process_time() - time.thread_time(), others[1] + _cpu_of(process)
    run.close()
    each = 1000 / steps
    added = [h[0] / b[0] - 1 for h, b in zip(times["hook"], times["bare"], strict=True)]
    mine = [h[1] - b[1] for h, b in zip(times["hook"], times["bare"], strict=True)]
    own = statistics.median(mine)
    base = statistics.median(b[1] for b in times["bare"])
    low, middle, high = (100 * part for part in statistics.quantiles(added, n=4))
    yield Row(
        "streaming, time of a step", where, middle, low, high, 100 * own / base, "% added", most
    )
    low, middle, high = (1000 * part for part in statistics.quantiles(mine, n=4))
    rest = sum(others) * each
    yield Row(
        "streaming, CPU of all processes",
        where,
        middle + rest,
        low + rest,
        high + rest,
        None,
        "ms/step",
        0.5,
    )
    for who, spent in zip(("its other threads", "the server"), others, strict=True):
        value = spent * each
        yield Row(f"  of it {who}", where, value, value, value, None, "ms/step", None)


def sender_rows(frames: int) -> Iterator[Row]:
    """What a frame costs the thread that shares the interpreter with training, up to the socket."""
    from gradhelm import wire
    from gradhelm.cargo import Cargo, Lane
    from gradhelm.control import Steering
    from gradhelm.notice import Notices
    from gradhelm.outbox import Outbox
    from gradhelm.ring import Group
    from gradhelm.scalars import Scalars

    for where in ("75 tensors, 1.2 M", "200 tensors, 1.2 M"):
        parameters = list(MODELS[where]().parameters())
        optimizer = Still(parameters)
        run = gradhelm.attach(
            nn.ParameterList(parameters), optimizer, max_norm=1.0, mode="disabled"
        )
        ((source, columns),) = next(iter(run.streams.values())).record()
        lanes = [Lane(source, [Group(0, 0, len(columns))], columns, None)]
        scalars = Scalars(Notices(), frozenset(), 1)
        cargo = Cargo(lanes, scalars, Steering([], wire.Limits()), lambda: (None, {}))
        outbox = Outbox()
        fresh, _ = shared_gradients(parameters)
        fresh()
        spent = []
        for _ in range(frames):
            for _ in range(10):
                optimizer.step()
            cpu = time.thread_time()
            cargo.load(outbox)
            while outbox.next(1 << 30) is not None:
                pass
            spent.append(1e6 * (time.thread_time() - cpu))
            outbox.ack(1 << 40)
        low, middle, high = statistics.quantiles(spent, n=4)
        yield Row("sender, a frame of 10 steps", where, middle, low, high, None, "us CPU", None)


def import_rows(times: int) -> Iterator[Row]:
    """``import gradhelm`` in a process that has torch already, and all that ``attach`` needs."""
    program = (
        "import sys, time, torch; before = set(sys.modules); started = time.perf_counter()\n"
        "import gradhelm; {more}\n"
        "taken = time.perf_counter() - started\n"
        "rooms = ('gradhelm_server', 'gradhelm_dashboard', 'fastapi', 'uvicorn', 'sqlalchemy')\n"
        "new = {{name.split('.')[0] for name in set(sys.modules) - before}}\n"
        "print(taken, len(new & {{*rooms, 'dash', 'alembic', 'starlette'}}))"
    )
    for what, more in (("import gradhelm", "0"), ("import, and look at attach", "gradhelm.attach")):
        found = []
        with tempfile.TemporaryDirectory() as kept:  # bytecode, as it is kept by default
            # The first round only writes it.
            for _ in range(times + 1):
                environment = {**os.environ, "PYTHONPYCACHEPREFIX": kept}
                environment.pop("PYTHONDONTWRITEBYTECODE", None)
                command = [sys.executable, "-c", program.format(more=more)]
                told = subprocess.check_output(command, env=environment, text=True).split()
                found.append((1000 * float(told[0]), int(told[1])))
        low, middle, high = statistics.quantiles([taken for taken, _ in found[1:]], n=4)
        yield Row(what, "beyond torch", middle, low, high, None, "ms", 60.0)
        packages = max(count for _, count in found)
        yield Row("server packages", what, packages, packages, packages, None, "", 0.0)


# -- the server -----------------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[tuple[str, str, int]]:
    """``gradhelm up`` in a process of its own: its URL, its token and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "GRADHELM_HOME": home}
        command = [sys.executable, "-m", "gradhelm", "up", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            token = Path(home, "token")
            while not (token.exists() and _listens(port)):
                if process.poll() is not None:
                    raise RuntimeError("the server did not start")
                time.sleep(0.1)
            yield url, token.read_text().strip(), process.pid
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _cpu_of(process: int) -> float:
    """CPU seconds that another process has used; 0 where there is no /proc to ask."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(quick: bool = False) -> Iterator[Row]:
    """All figures, as they are found."""
    part = 10 if quick else 1
    yield from clip_rows(400 // part)
    yield from fold_rows(300 // part)
    yield from sender_rows(300 // part)
    yield from stream_rows(400 // part)
    yield from import_rows(2 if quick else 7)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hook", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows there as well")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread", flush=True)
    found = []
    for row in rows(options.quick):
        found.append(row)
        print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1))


if __name__ == "__main__":
    main()
