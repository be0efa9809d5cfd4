"""Pictures of the page, from a real server and real training jobs.

python tests/browser/screenshots.py OUT
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [
        str(HERE.parent),
        *(
            str(HERE.parents[1] / room)
            for room in ("client_hook", "server", "dashboard", "migrations")
        ),
    ]

from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from support import Program, eventually, free_port  # noqa: E402

STEPS = 1100
"""Steps that the pictured run has before its picture is taken."""


def start(program: Program, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words], env=program.environment, stdout=subprocess.DEVNULL
    )


def take(browser: Browser, program: Program, run: str, state: dict, out: Path) -> None:
    for scheme in ("dark", "light"):
        for width, height in ((1440, 1100), (390, 844)):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                device_scale_factor=2 if width < 600 else 1,
                storage_state=state,
            )
            page = context.new_page()
            suffix = f"{scheme}-{width}.png"
            page.goto(f"{program.url}/")
            eventually(lambda page=page: page.evaluate("gradhelm.drawn > 1"), 30)
            page.screenshot(path=out / f"runs-{suffix}")
            page.goto(f"{program.url}/runs/{run}")
            eventually(lambda page=page: page.evaluate("gradhelm.drawn > 5"), 30)
            if width > 600:
                page.locator("#threshold-input").fill("1.4" if scheme == "dark" else "0.7")
                page.locator("#layer-heatmap").hover(position={"x": 520, "y": 130})
            page.wait_for_timeout(700)  # what was hovered is drawn
            page.screenshot(path=out / f"run-{suffix}", full_page=width < 600)
            context.close()


def main(out: Path) -> None:
    from browser.conftest import FLAGS, chromium

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        program = Program(Path(home), free_port())
        link = program.start()
        jobs = [
            start(program, str(HERE / "transformer.py"), "6000", "40", "tiny-gpt-12"),
            start(program, "-m", "gradhelm.demo", "--steps-per-second", "10"),
            start(program, str(HERE / "transformer.py"), "120", "60", "tiny-gpt-12-smoke"),
        ]
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            context = browser.new_context()
            page = context.new_page()
            page.goto(link)
            page.wait_for_url(f"{program.url}/")
            state = context.storage_state()

            def ready() -> str | None:
                time.sleep(1)
                runs = program.json("runs")["runs"]
                fit = (r["id"] for r in runs if r["name"] == "tiny-gpt-12" and r["steps"] > STEPS)
                return next(fit, None)

            run = eventually(ready, 120, "enough steps")
            take(browser, program, str(run), dict(state), out)
            browser.close()
        finally:
            for job in jobs:
                job.terminate()
                job.wait()
            program.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots"))
