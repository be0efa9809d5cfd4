"""A server with a person signed in to it, a browser that knows more names than there are, and pages
of somebody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser.conftest import FLAGS, PATIENCE, chromium
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from sqlalchemy import create_engine, inspect, text
from support import Program, eventually, free_port
from trainer import trainer

from gradhelm import wire

NAMES = ("evil.example", "rebind.example")
"""Names that lead to this machine, as an attacker's own would."""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """For one module: while it is there, nobody else in this process may run an event loop."""
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in NAMES)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium(), args=[*FLAGS, f"--host-resolver-rules={rules}"]
        )
        yield opened
        opened.close()


@dataclass
class Victim:
    """A server with a finished run, and the cookies of a person who is signed in to it."""

    program: Program
    run: str
    cookies: dict[str, Any]

    @property
    def url(self) -> str:
        return self.program.url

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that is stored, but when somebody was last there."""
        url = f"sqlite:///file:{self.program.home / 'gradhelm.db'}?mode=ro&uri=true"
        engine = create_engine(url)
        found = {}
        with closing(engine.connect()) as connection:
            for table in inspect(connection).get_table_names():
                columns = [
                    column["name"]
                    for column in inspect(connection).get_columns(table)
                    if not column["name"].startswith("last_used")
                ]
                names = ", ".join(f'"{name}"' for name in columns)
                rows = connection.execute(text(f'SELECT {names} FROM "{table}"'))
                found[table] = sorted((tuple(row) for row in rows), key=repr)
        engine.dispose()
        return found

    def settled(self) -> dict[str, list[tuple[Any, ...]]]:
        """The same, once nothing is under way any more."""
        before: dict[str, list[tuple[Any, ...]]] = {}
        since = time.monotonic()

        def still() -> bool:
            nonlocal before, since
            now = self.state()
            if now != before:
                before, since = now, time.monotonic()
            return time.monotonic() - since > 1.0

        eventually(still, 30, "a state that stays")
        return before


def signed_in(browser: Browser, program: Program, code: str) -> dict[str, Any]:
    """The cookies of somebody who followed a login link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{program.url}/login#{code}")
    page.wait_for_url(f"{program.url}/", timeout=PATIENCE)
    state = dict(context.storage_state())
    context.close()
    return state


@pytest.fixture(scope="module")
def victim(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    program = Program(Path(tmp_path_factory.mktemp("victim")) / "home", free_port())
    code = program.start().partition("#")[2]
    token = (program.home / "token").read_text().strip()
    with trainer(f"ws://127.0.0.1:{program.port}", token, name="theirs") as fake:
        fake.send(0, fake.rows([0.5, 2.0, 3.0]))
        fake.say(wire.Finish("finished", 2))
        fake.hear(wire.Finished)
    yield Victim(program, fake.run, signed_in(chrome, program, code))
    program.stop()


@pytest.fixture
def tab(chrome: Browser, victim: Victim) -> Iterator[BrowserContext]:
    """The browser of the person who is signed in."""
    context = chrome.new_context(storage_state=victim.cookies)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()
