"""The page in Chromium, without a GPU: opened by somebody who is logged in, and looked at."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, sync_playwright

from .server import Server

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        try:
            yield started
        finally:
            started.close()


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise SystemExit("no Chromium to draw with; install one, or CHROMIUM=/path/to/it")
    return found


def logged_in(browser: Browser, server: Server) -> BrowserContext:
    """A browser's profile with a session and an empty cache."""
    code = server.rest.post("login-links", json={}).json()["code"]
    visitor = browser.new_context()
    page = visitor.new_page()
    page.goto(f"{server.url}/login#{code}")
    page.wait_for_url(f"{server.url}/", timeout=60_000)
    state = visitor.storage_state()
    visitor.close()
    return browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=state)


def until(page: Page, expression: str, seconds: float = 60.0) -> None:
    """Until JavaScript says so; the page's policy forbids what wait_for_function needs."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise SystemExit(f"the page did not get so far within {seconds:.0f} s: {expression}")
        time.sleep(0.02)


def opened(context: BrowserContext, server: Server, run: str) -> tuple[Page, dict[str, float]]:
    """The page of a run with its charts drawn: milliseconds until its first paint and until then,
    and the bytes that came over the network."""
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    loaded = _counting(session)
    began = time.time()
    page.goto(f"{server.url}/runs/{run}", wait_until="commit")
    until(page, "window.gradhelm?.drawn > 0 && gradhelm.steps > 0")
    charts = 1000 * (time.time() - began)
    paint = page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
    )
    page.wait_for_timeout(500)
    return page, {"paint_ms": paint or charts, "charts_ms": charts, **loaded}


def _counting(session: CDPSession) -> dict[str, float]:
    """Bytes over the network, of the page itself and of the numbers it asked for; goes on counting."""
    counted = {"page_bytes": 0.0, "data_bytes": 0.0}
    kinds: dict[str, str] = {}

    def received(event: dict[str, Any]) -> None:
        data = "/api/" in event["response"]["url"]
        kinds[event["requestId"]] = "data_bytes" if data else "page_bytes"

    def finished(event: dict[str, Any]) -> None:
        counted[kinds.get(event["requestId"], "page_bytes")] += event["encodedDataLength"]

    session.on("Network.responseReceived", received)
    session.on("Network.loadingFinished", finished)
    return counted
