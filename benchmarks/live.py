"""Part: how long it takes from a step to the pixel, and from a change to the step that has it.

A real training process with the hook, a real server, the page in Chromium. The trainer notes when
each step was over and when each change took hold; the page tells which step it has drawn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

from .browser import browser, logged_in, until
from .place import ROOT, Asked, say, scratch
from .server import Server
from .summary import spread, tails

LAYERS, RATE = 200, 10.0
WATCH = """
window.seen = [];
window.watched = true;
(function look(before) {
  const { drawn, lastStep } = window.gradhelm ?? {};
  // The frame that follows a drawing is the first that can show it.
  if (drawn !== before) requestAnimationFrame(() => seen.push([lastStep, Date.now()]));
  if (window.watched) requestAnimationFrame(() => look(drawn));
})();
"""

FRAMES = """
window.frames = [];
(function look(before) {
  requestAnimationFrame((now) => {
    if (before) frames.push(now - before);
    look(now);
  });
})(0);
"""


def measure(asked: Asked) -> dict[str, Any]:
    seconds = 120.0 if asked.large else 30.0
    with (
        scratch("live") as folder,
        Server(folder / "home") as server,
        browser() as chromium,
        _training(server, folder / "notes.json") as job,
    ):
        context = logged_in(chromium, server)
        run = _first_run(server)
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(f"{server.url}/runs/{run}")
        until(page, "window.gradhelm?.frames > 10 && gradhelm.drawn > 10")
        seen, main_thread = _watch(page, chromium, seconds)
        held = _held(page, 3600 if asked.large else 600)
        changed = _change(server, run, 60 if asked.large else 20)
        context.close()
        notes = job()
    pixel, missed = _pixels(notes["steps"], seen)
    applied = [1000 * (notes["versions"][str(v)] - at) for v, at in changed.items()]
    step_ms = [1000 * (b - a) for a, b in pairwise(t for _, t in notes["steps"])]
    told = {
        "pixel_ms": tails(pixel),
        "undrawn_steps": missed,
        "applied_ms": tails(applied),
        "step_ms": spread(step_ms),
        **main_thread,
        "held": held,
    }
    say(
        f"step to pixel: p50 {told['pixel_ms']['p50']:.0f} ms, p99 {told['pixel_ms']['p99']:.0f} ms"
    )
    say(f"change to applied: p50 {told['applied_ms']['p50']:.0f} ms, steps of {1000 / RATE:.0f} ms")
    say(
        f"main thread per update: median {told['update_ms']['p50']:.1f} ms, p99 "
        f"{told['update_ms']['p99']:.1f} ms, of which JavaScript {told['script_ms']:.1f} ms"
    )
    first, last = held["samples"][1], held["samples"][-1]
    say(
        f"after {held['seconds']} s: heap {last['heap'] / 1e6:.1f} MB (a tenth of the time in: "
        f"{first['heap'] / 1e6:.1f}), {held['late']} of {held['frames']} frames late"
    )
    return told


# -- the training process -------------------------------------------------------------------------


@contextmanager
def _training(server: Server, notes: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """A training process; what is called ends it and has its notes."""
    job = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.live", str(notes)],
        cwd=ROOT,
        env=server.environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
    )

    def end() -> dict[str, Any]:
        job.communicate(timeout=60)
        return dict(json.loads(notes.read_text(encoding="utf-8")))

    try:
        yield end
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()


def train(notes: Path) -> None:
    """Steps at a steady rate until the standard input ends."""
    import select

    import torch

    import gradhelm

    from .models import Deep

    torch.set_num_threads(1)
    model = Deep(16, LAYERS // 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    source = torch.randn(8, 16)
    steps: list[tuple[int, float]] = []
    versions: dict[int, float] = {}
    with gradhelm.attach(model, optimizer, max_norm=1.0, name="live") as run:
        following, version = time.monotonic(), 0
        while not select.select([sys.stdin], [], [], max(0.0, following - time.monotonic()))[0]:
            following += 1 / RATE
            number = run.step
            optimizer.zero_grad()
            (model(source) ** 2).mean().backward()
            optimizer.step()
            steps.append((number, time.time()))
            if run.control_version != version:
                version = run.control_version
                versions[version] = steps[-1][1]
    notes.write_text(json.dumps({"steps": steps, "versions": versions}), encoding="utf-8")


# -- the page -------------------------------------------------------------------------------------


def _first_run(server: Server) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = server.get("runs").json()["runs"]
        if runs and runs[0]["steps"]:
            return str(runs[0]["id"])
        time.sleep(0.1)
    raise SystemExit("the training process did not report")


def _watch(
    page: Page, chromium: Browser, seconds: float
) -> tuple[list[list[float]], dict[str, Any]]:
    """What was drawn when, and what each update took of the page's main thread."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def metrics() -> dict[str, float]:
        got = session.send("Performance.getMetrics")["metrics"]
        return {metric["name"]: metric["value"] for metric in got}

    page.evaluate("seen.length = 0")
    page.wait_for_timeout(1000 * seconds)
    seen: list[list[float]] = page.evaluate("seen")
    # Watching asks for every frame there is, which the page by itself does not.
    page.evaluate("watched = false")
    page.wait_for_timeout(500)
    before, drawn = metrics(), page.evaluate("gradhelm.drawn")
    page.wait_for_timeout(1000 * seconds)
    after, updates = metrics(), page.evaluate("gradhelm.drawn") - drawn
    # Traced apart, since tracing takes time of its own.
    chromium.start_tracing(page=page, categories=["devtools.timeline", "toplevel"])
    page.wait_for_timeout(1000 * min(seconds, 20.0))
    taken = _per_update(json.loads(chromium.stop_tracing())["traceEvents"])
    return seen, {
        "updates_per_second": updates / seconds,
        "update_mean_ms": 1000 * (after["TaskDuration"] - before["TaskDuration"]) / updates,
        "script_ms": 1000 * (after["ScriptDuration"] - before["ScriptDuration"]) / updates,
        "heap_bytes": after["JSHeapUsedSize"],
        "update_ms": tails(taken),
    }


def _held(page: Page, seconds: int) -> dict[str, Any]:
    """What the page holds after a while, and how many frames came late meanwhile."""
    session = page.context.new_cdp_session(page)

    def taken() -> dict[str, int]:
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        return {"heap": int(heap), "nodes": session.send("Memory.getDOMCounters")["nodes"]}

    page.evaluate(FRAMES)
    samples = [taken()]
    for _ in range(10):
        page.wait_for_timeout(100 * seconds)
        samples.append(taken())
    frames, late = page.evaluate("[frames.length, frames.filter((ms) => ms > 50).length]")
    return {"seconds": seconds, "samples": samples, "frames": frames, "late": late}


def _per_update(events: list[dict[str, Any]]) -> list[float]:
    """Milliseconds of tasks on the page's main thread between one frame received and the next."""
    received = sorted(
        (event["ts"], event["pid"], event["tid"])
        for event in events
        if event["name"] == "WebSocketReceive"
    )
    threads = {(pid, tid) for _, pid, tid in received}
    tasks = sorted(
        (event["ts"], event["dur"])
        for event in events
        if event.get("ph") == "X"
        and event["name"] in ("RunTask", "ThreadControllerImpl::RunTask")
        and (event["pid"], event["tid"]) in threads
    )
    starts = np.array([start for start, _ in tasks])
    sums = np.concatenate([[0.0], np.cumsum([duration for _, duration in tasks])])
    # Messages that come together are drawn together.
    marks = [at for i, (at, *_) in enumerate(received) if not i or at - received[i - 1][0] > 30_000]
    found = []
    for begin, end in pairwise(marks):
        # The task that receives the message began a little before it says so.
        low, high = np.searchsorted(starts, (begin - 500, end - 500))
        found.append(float(sums[high] - sums[low]) / 1000)
    return found


def _pixels(steps: list[tuple[int, float]], seen: list[list[float]]) -> tuple[list[float], int]:
    """Milliseconds from each step's end to the first drawing that had it; how many had none."""
    drawn_steps = np.array([step for step, _ in seen])
    found, missed = [], 0
    for number, at in steps:
        index = int(np.searchsorted(drawn_steps, number))
        if number <= drawn_steps[0]:
            continue
        if index == len(seen):
            missed += at < seen[-1][1] / 1000 - 1
            continue
        found.append(seen[index][1] - 1000 * at)
    return found, missed


def _change(server: Server, run: str, times: int) -> dict[int, float]:
    """When each version was asked for."""
    asked = {}
    for n in range(times):
        etag = server.get(f"runs/{run}/control").headers["ETag"]
        version = int(etag.strip('"')) + 1
        asked[version] = time.time()
        server.rest.put(
            f"runs/{run}/control", json={"max_norm": 0.5 + n % 2}, headers={"If-Match": etag}
        ).raise_for_status()
        time.sleep(0.3 + 0.037 * (n % 7))  # at another place within the step each time
    time.sleep(1)
    return asked


if __name__ == "__main__":
    train(Path(sys.argv[1]))
