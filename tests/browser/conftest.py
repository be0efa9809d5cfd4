"""The page as people meet it: a real server, a real training job, a real Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from support import SLOW, Program, eventually, free_port

HERE = Path(__file__).parent
PATIENCE = 30_000 * SLOW
"""Milliseconds until something that should happen has not."""
expect.set_options(timeout=PATIENCE)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium() -> str:
    """The browser of this machine; without one these tests fail and say what is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.fail(
            "no Chromium to drive the page with: `apt-get install chromium`, or name one with "
            "CHROMIUM=/path/to/it",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """``gradhelm up``, as its own process."""
    program = Program(tmp_path_factory.mktemp("browser") / "home", free_port())
    program.link = program.start()  # type: ignore[attr-defined]
    yield program
    program.stop()


@pytest.fixture(scope="package")
def training(up: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A training job that runs as long as the tests do; its run's id."""
    log = tmp_path_factory.mktemp("training") / "log"
    words = ["-m", "gradhelm.demo", "--steps", "1000000", "--steps-per-second", "20"]
    with log.open("w") as output:
        job = subprocess.Popen(
            [sys.executable, *words], env=up.environment, stdout=output, stderr=output
        )
    try:

        def steps() -> str | None:
            assert job.poll() is None, log.read_text()
            runs = up.json("runs")["runs"]
            own = (run for run in runs if run["name"] == "demo")
            return next((run["id"] for run in own if run["steps"] > 20), None)

        found = eventually(steps, 60, "a run with steps")
        assert isinstance(found, str)
        yield found
    finally:
        job.terminate()
        job.wait()


@pytest.fixture(scope="package")
def session(browser: Browser, up: Program) -> dict[str, object]:
    """The cookies of somebody who followed the link that the server printed."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(up.link)  # type: ignore[attr-defined]
    page.wait_for_url(f"{up.url}/", timeout=PATIENCE)
    state = dict(context.storage_state())
    context.close()
    return state


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, up: Program, session: dict[str, object]) -> Iterator[Open]:
    """Opens pages of somebody logged in (or not); what their consoles complain about fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    excused: list[str] = []

    def opened(
        path: str,
        width: int = 1440,
        height: int = 900,
        excuse: str = "",
        signed_in: bool = True,
        **more: object,
    ) -> Page:
        if excuse:
            excused.append(excuse)
        context = browser.new_context(
            viewport={"width": width, "height": height},
            storage_state=session if signed_in else None,  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                complaints.append(f"{message.type}: {message.text} {message.location}")

        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        page.goto(up.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    left = [line for line in complaints if not any(word in line for word in excused)]
    assert not left, "\n".join(left)


@pytest.fixture
def rest(up: Program) -> Iterator[httpx.Client]:
    """What an admin's program asks of the server."""
    headers = {"Authorization": f"Bearer {(up.home / 'token').read_text().strip()}"}
    with httpx.Client(base_url=f"{up.url}/api/v1", headers=headers) as client:
        yield client
