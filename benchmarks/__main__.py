"""``python -m benchmarks``: measure one part or all, keep what was found, and write the document.

python -m benchmarks                   everything, then docs/performance.md (about 35 minutes)
python -m benchmarks ingest reads      these parts; their results go to benchmarks/results
python -m benchmarks report            the document, from the results at hand
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time

from . import place
from .contenders import CONTENDERS

PARTS = {
    "hook": "what a clip with all norms costs, beside torch's own clip",
    "ingest": "how fast values are taken, what that costs, and how much disk they need",
    "reads": "how long it takes to read them again",
    "steps": "what logging adds to a training step",
    "ranks": "what it costs that all ranks of a job change together",
    "live": "from a step to the pixel, and from a change to the step that has it",
    "long": "a very long run on the page, beside a short one",
    "growth": "what happens with more layers, steps, runs and viewers",
    "report": "write docs/performance.md and its pictures from what was found",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="parts: " + "; ".join(f"{name}: {text}" for name, text in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all of them, in turn")
    parser.add_argument("--large", action="store_true", help="the long ones too (hours)")
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(CONTENDERS),
        metavar="LOGGER",
        help="of the other loggers, this one; may be said again",
    )
    parser.add_argument(
        "--database-url", help="a PostgreSQL that ingest is measured with too (SQLAlchemy URL)"
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    asked = parser.parse_args()
    if wrong := [part for part in asked.parts if part not in PARTS]:
        parser.error(f"no part {wrong[0]!r}: expected {', '.join(PARTS)}")
    asked_for = place.Asked(asked.large, asked.only, asked.database_url)
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    for part in asked.parts or PARTS:
        if part == "report":
            importlib.import_module("benchmarks.report").write()
            continue
        began = time.monotonic()
        place.say(f"{part}: {PARTS[part]}")
        module = importlib.import_module(f"benchmarks.{part}")
        found = module.measure(asked_for)
        place.keep(part, {"large": asked.large, **found}, command=command)
        place.say(f"{part}: done in {time.monotonic() - began:.0f} s")
        if asked.json:
            print((place.RESULTS / f"{part}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
