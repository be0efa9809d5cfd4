"""Part: a very long run on the page, beside a short one, and what taking it in needs.

Both are opened and zoomed into in turn, by the same drags, until single steps are seen.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page

from .browser import browser, logged_in, opened, until
from .flood import flood
from .place import Asked, say, scratch
from .server import Server
from .summary import spread

LAYERS = 194
"""With the six scalars 200 columns."""
SHORT = 10_000
FROM, TO = 0.35, 0.65
"""The part of the chart that a zoom takes."""


def measure(asked: Asked) -> dict[str, Any]:
    steps = 10_000_000 if asked.large else 1_000_000
    with scratch("long") as folder, Server(folder / "home") as server:
        runs = {SHORT: flood(server, LAYERS, SHORT, 64)["run"]}
        empty = server.disk
        with _sampled(server) as memory:
            taken = flood(server, LAYERS, steps, 64, seconds=7200)
        runs[steps] = taken["run"]
        say(f"{steps:,} steps taken in {taken['seconds']:.0f} s; settling")
        settled = server.settle(3600)
        disk = server.disk - empty
        views: dict[int, list[dict[str, Any]]] = {count: [] for count in runs}
        with browser() as chromium:
            for turn in range(5):
                for count in random.sample(list(runs), len(runs)):
                    views[count].append(_view(chromium, server, runs[count], count))
                    say(f"{turn + 1}/5, {count:,} steps: {_words(views[count][-1])}")
        at_rest = server.memory
    third = len(memory) // 3
    return {
        "layers": LAYERS,
        "points_per_second": taken["points"] / taken["seconds"],
        "settled_seconds": settled,
        "bytes_per_point": disk / taken["points"],
        "memory": {
            "first_third": max(memory[: third or 1]),
            "last_third": max(memory[-third or -1 :]),
            "after_views": at_rest,
        },
        "views": [{"steps": count, **_told(found)} for count, found in views.items()],
    }


@contextmanager
def _sampled(server: Server) -> Iterator[list[int]]:
    """The server's resident bytes, once a second."""
    found: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(1):
            found.append(server.memory)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
        found.append(server.memory)


def _view(chromium: Browser, server: Server, run: str, steps: int) -> dict[str, Any]:
    """Open the run, look at all of it, and zoom in until single steps are drawn."""
    context = logged_in(chromium, server)
    page, found = opened(context, server, run)
    began = time.monotonic()
    page.locator("#window-choice").get_by_text("All", exact=True).click()
    until(page, f"gradhelm.view.high - gradhelm.view.low >= {steps - 1}")
    all_ms = 1000 * (time.monotonic() - began)
    zooms = []
    while page.evaluate("gradhelm.view.stride") > 1:
        zooms.append(_zoom(page))
    context.close()
    return {**found, "all_ms": all_ms, "zooms_ms": zooms}


def _zoom(page: Page) -> float:
    """Milliseconds from the end of a drag until the part that was chosen is drawn."""
    box = page.locator("#live-chart .u-over").bounding_box()
    assert box is not None
    before = page.evaluate("gradhelm.view.high - gradhelm.view.low")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + FROM * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + TO * box["width"], middle, steps=3)
    began = time.monotonic()
    page.mouse.up()
    until(page, f"gradhelm.view.high - gradhelm.view.low < {0.5 * before}")
    return 1000 * (time.monotonic() - began)


def _told(views: list[dict[str, Any]]) -> dict[str, Any]:
    """Each zoom is a level of its own: its median over the turns; of these the slowest counts."""
    zooms = [spread(times) for times in zip(*(v["zooms_ms"] for v in views), strict=True)]
    return {
        **{name: spread([v[name] for v in views]) for name in ("paint_ms", "charts_ms", "all_ms")},
        "page_bytes": spread([v["page_bytes"] for v in views]),
        "data_bytes": spread([v["data_bytes"] for v in views]),
        "zooms": len(zooms),
        "slowest_zoom_ms": max(zooms, key=lambda zoom: zoom["median"]),
    }


def _words(view: dict[str, Any]) -> str:
    zooms = " ".join(f"{ms:.0f}" for ms in view["zooms_ms"])
    return (
        f"first paint {view['paint_ms']:.0f} ms, charts {view['charts_ms']:.0f}, "
        f"all {view['all_ms']:.0f}, zooms {zooms}"
    )
