"""Pictures of every page and state, from a real server and real training jobs: ``make screenshots``.

python tests/browser/screenshots.py [OUT]     OUT: docs/screenshots unless told otherwise
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
if __name__ == "__main__":
    rooms = ("client_hook", "server", "dashboard", "migrations")
    sys.path[:0] = [str(HERE.parent), *(str(ROOT / room) for room in rooms)]

from playwright.sync_api import Browser, Page, Route, sync_playwright  # noqa: E402
from support import Program, eventually, free_port  # noqa: E402

WIDE, PHONE = (1440, 1100), (390, 844)
ENDED = ("finished", "failed", "stopped")


class Studio:
    """A server, its training jobs, and a browser that is logged in."""

    def __init__(self, program: Program, browser: Browser, link: str, out: Path) -> None:
        self.program = program
        self.out = out
        self._browser = browser
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        page.wait_for_url(f"{program.url}/")
        self._state: Any = context.storage_state()
        context.close()
        self.jobs: list[subprocess.Popen[bytes]] = []

    def train(self, *words: str) -> subprocess.Popen[bytes]:
        """A training job; the picture is of its run."""
        job = subprocess.Popen(
            [sys.executable, *words],
            env=self.program.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.jobs.append(job)
        return job

    def run(self, name: str, ready: Callable[[dict[str, Any]], bool]) -> str:
        """The id of the run called so, once it is ``ready``."""

        def found() -> str | None:
            runs = self.program.json("runs")["runs"]
            return next((r["id"] for r in runs if r["name"] == name and ready(r)), None)

        return str(eventually(found, 180, f"{name} to be ready"))

    @contextmanager
    def page(
        self,
        path: str,
        scheme: str = "dark",
        size: tuple[int, int] = WIDE,
        signed_in: bool = True,
    ) -> Iterator[Page]:
        """A page that has drawn what it shows."""
        width, height = size
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=2 if width < 600 else 1,
            has_touch=width < 600,
            storage_state=self._state if signed_in else None,
        )
        page = context.new_page()
        page.goto(self.program.url + path)
        eventually(lambda: page.locator("h1").first.is_visible(), 30, path)
        page.wait_for_timeout(1500)  # fonts, the first frames, what was hovered
        yield page
        context.close()

    def shoot(
        self,
        name: str,
        path: str,
        act: Callable[[Page], object] = lambda page: None,
        *,
        both: bool = False,
        phone: bool = False,
        signed_in: bool = True,
    ) -> None:
        """``both``: in the light theme as well. ``signed_in``: by somebody who is. ``phone``: on a phone
        as well, from top to bottom and untouched."""
        for scheme in ("dark", "light") if both else ("dark",):
            with self.page(path, scheme, signed_in=signed_in) as page:
                act(page)
                page.wait_for_timeout(700)
                page.screenshot(
                    path=self.out / f"{name}{'-light' if scheme == 'light' else ''}.png"
                )
        if phone:
            with self.page(path, size=PHONE, signed_in=signed_in) as page:
                page.screenshot(path=self.out / f"{name}-phone.png", full_page=True)


def propose(page: Page, value: str) -> None:
    page.locator("#threshold-input").fill(value)


def advice(page: Page) -> None:
    page.locator("#advice-menu > summary").click()
    page.locator(".finding").first.wait_for()
    page.locator("#advice-menu").evaluate(
        "menu => scrollBy(0, menu.getBoundingClientRect().y - 80)"
    )


def apply(page: Page, value: str, reason: str) -> None:
    propose(page, value)
    page.locator("#threshold-reason").fill(reason)
    page.locator("#threshold-apply").click()
    page.locator("#threshold-status[data-step]").wait_for()


def conflict(studio: Studio, run: str) -> Callable[[Page], None]:
    """Somebody else is quicker, while the page's own change is on its way."""

    def act(page: Page) -> None:
        def quicker(route: Route) -> None:
            if route.request.method == "PUT":
                done = studio.program.run("set", run, "max_norm=0.6", "--reason", "too many clips")
                assert done.returncode == 0, done.stderr
            route.continue_()

        propose(page, "0.8")
        page.route("**/control", quicker)
        page.locator("#threshold-apply").click()
        page.locator("#threshold-conflict").wait_for()

    return act


def steps(least: int) -> Callable[[dict[str, Any]], bool]:
    return lambda run: run["steps"] >= least


def people(studio: Studio) -> None:
    """Some accounts and tokens."""
    run = studio.program.run
    for name, *roles in (
        ("Ada", "admin"),
        ("Bea", "operator@vision", "viewer"),
        ("Carl", "viewer@text"),
    ):
        words = [word for role in roles for word in ("--role", role)]
        way = {"input": "a quiet green lighthouse\n"} if name == "Ada" else {}
        made = run("user", "add", name, *words, "--password-stdin" if way else "--link", **way)
        assert made.returncode == 0, made.stderr
    for name, *words in (
        ("trainer-7", "--role", "ingest", "--project", "vision"),
        ("nightly report", "--role", "viewer", "--expires", "5d"),
        ("sweep", "--role", "operator", "--project", "text", "--expires", "90d"),
    ):
        made = run("token", "create", "--name", name, *words)
        assert made.returncode == 0, made.stderr


def new_token(page: Page) -> None:
    page.get_by_role("button", name="New token").click()
    page.locator("#token-name").fill("trainer-8")


def main(out: Path) -> None:
    from browser.conftest import FLAGS, chromium

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        program = Program(Path(home), free_port())
        link = program.start()
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        studio = Studio(program, browser, link, out)
        try:
            take(studio)
        finally:
            for job in studio.jobs:
                job.kill()
                job.wait()
            browser.close()
            program.stop()


def take(studio: Studio) -> None:
    script = str(HERE / "transformer.py")
    studio.shoot("runs-empty", "/", both=True, phone=True)
    studio.train("-m", "gradhelm.demo", "--steps-per-second", "12")
    exploding = studio.run("demo", steps(120))
    studio.shoot("run-exploding", f"/runs/{exploding}?window=all&lane=loss")
    with studio.page(f"/runs/{exploding}") as page:
        apply(page, "0.25", "explodes at the start")
    studio.train(script, "6000", "40", "tiny-gpt-12")
    studio.train(script, "150", "60", "tiny-gpt-12-smoke")
    studio.train(script, "6000", "40", "tiny-gpt-12-locked", "--read-only")
    lost = studio.train(script, "6000", "60", "tiny-gpt-12-lost")
    studio.run("tiny-gpt-12-lost", steps(400))
    lost.kill()
    ended = studio.run("tiny-gpt-12-smoke", lambda run: run["status"] in ENDED)
    saved = studio.run("demo", steps(600))
    studio.shoot("run-applied", f"/runs/{saved}?window=all&lane=loss", both=True, phone=True)
    live = studio.run("tiny-gpt-12", steps(1100))
    studio.shoot("runs", "/", both=True, phone=True)
    hover = {"x": 520, "y": 130}
    studio.shoot(
        "run-live",
        f"/runs/{live}",
        lambda page: page.locator("#layer-heatmap").hover(position=hover),
        both=True,
        phone=True,
    )
    studio.shoot("run-proposed", f"/runs/{live}?map=relative", lambda page: propose(page, "1.4"))
    studio.shoot("run-advice", f"/runs/{saved}", advice)
    studio.shoot("run-ended", f"/runs/{ended}")
    studio.shoot("run-conflict", f"/runs/{live}", conflict(studio, live))
    locked = studio.run("tiny-gpt-12-locked", steps(300))
    studio.shoot("run-read-only", f"/runs/{locked}")
    gap = studio.run("tiny-gpt-12-lost", lambda run: run["status"] == "stale")
    studio.shoot("run-stale", f"/runs/{gap}")
    # Taken up again where its last checkpoint was, which is later than what had been sent.
    last = studio.program.json("show", gap)["last_step"]
    studio.train(
        script, "6000", "60", "tiny-gpt-12-lost", "--resume", gap, "--start", f"{last + 90}"
    )
    studio.run("tiny-gpt-12-lost", steps(last + 90))
    studio.shoot("run-gap", f"/runs/{gap}?window=all", both=True)
    studio.shoot("compare", f"/compare?runs={saved},{live},{ended}", both=True, phone=True)
    studio.shoot("missing", "/nothing/here")
    people(studio)
    studio.shoot("settings", "/settings", both=True, phone=True)
    studio.shoot("settings-token", "/settings#tokens", new_token)
    studio.shoot("login", "/login", both=True, phone=True, signed_in=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screenshots")
