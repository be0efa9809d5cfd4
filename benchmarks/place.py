"""Where things are kept, and what kind of machine this is."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
RESULTS = ROOT / "benchmarks" / "results"
"""In the repository, so that one part can be measured anew without the others leaving the document,
and everybody sees the figures that it was made from."""
ROOMS = [str(ROOT / name) for name in ("client_hook", "server", "dashboard", "migrations")]


class Asked(NamedTuple):
    """What was said on the command line. ``only``: of the other loggers, these."""

    large: bool
    only: list[str] | None
    database_url: str | None


def say(text: str) -> None:
    """A line of progress."""
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder on the disk that is measured, gone afterwards."""
    (BENCH / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=BENCH / "tmp") as folder:
        yield Path(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def keep(part: str, found: dict[str, Any], *, command: str) -> None:
    """Write what a part found, with where and when."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    told = {
        "part": part,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        **found,
    }
    (RESULTS / f"{part}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def kept(part: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads((RESULTS / f"{part}.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in ("torch", "numpy", "websockets", "msgspec", "uvicorn", "SQLAlchemy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
