"""Makes the picture in the README, ``docs/images/run.png``: ``make picture``.

A server of its own, the demo's training run, its threshold moved as a person would move it, and
Chromium to look at it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "images" / "run.png"
BIN = Path(sys.executable).parent
TROUBLE, CURED = 260, 640
"""Steps: when the threshold is moved, and when the picture is taken."""


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "GRADHELM_HOME": home,
            "GRADHELM_SERVER": f"http://127.0.0.1:{port}",
        }
        server = subprocess.Popen(
            [BIN / "gradhelm", "up", "--no-browser", "--port", str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        link = next(
            found[0] for line in server.stdout if (found := re.search(r"http\S+#\S+", line))
        )
        trainer = subprocess.Popen(
            [sys.executable, "-m", "gradhelm.demo", "--steps-per-second", "40"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            picture(link, environment)
        finally:
            for process in (trainer, server):
                process.terminate()
                process.wait(15)


def picture(link: str, environment: dict[str, str]) -> None:
    run = wait_for_step(0, environment)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or "/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu"],
        )
        page = browser.new_page(
            viewport={"width": 1440, "height": 900}, device_scale_factor=1, color_scheme="dark"
        )
        page.goto(link)
        page.wait_for_url(lambda url: "/login" not in url)
        page.goto(link.partition("/login")[0] + f"/runs/{run}")
        page.wait_for_selector("#live-chart canvas")
        wait_for_step(TROUBLE, environment)
        box = page.locator("#threshold-input")
        (box if box.evaluate("e => e.tagName") == "INPUT" else box.locator("input").last).fill(
            "0.25"
        )
        page.locator("#threshold-apply").click()
        page.wait_for_selector("#threshold-status[data-step]")
        wait_for_step(CURED, environment)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=TARGET)
        browser.close()


def wait_for_step(step: int, environment: dict[str, str]) -> str:
    """The id of the one run, once it has come so far."""
    for _ in range(600):
        command = [BIN / "gradhelm", "runs", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        runs = json.loads(done.stdout)["runs"]
        if runs and (runs[0]["last_step"] or -1) >= step:
            return str(runs[0]["id"])
        time.sleep(0.2)
    raise SystemExit(f"step {step} did not come")


if __name__ == "__main__":
    main()
