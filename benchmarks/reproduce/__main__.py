"""Reproduces published results about clipping and writes docs/results.md.

Exits with 1 if a bar is missed. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date

import torch

from . import RESULTS, document
from .bars import Result, Verdict


def judged(result: Result) -> Verdict:
    """Measures ``result``, and says how far it is and what came out."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{result.name:12} {time.monotonic() - began:4.0f} s  {line}", flush=True)

    findings = result.measure(say)
    verdict = Verdict(result, findings, time.monotonic() - began)
    for measured in verdict.measured:
        word = "held" if measured.held else "MISSED"
        say(f"{word:7} {measured.bar.quantity}: {measured} (bar: {measured.bar})")
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(prog=document.COMMAND, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [result.name for result in RESULTS]
    parser.add_argument("--only", choices=names, help="measure one, and write nothing")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    verdicts = [judged(result) for result in RESULTS if only in (None, result.name)]
    if only is None:
        print(f"wrote {document.write(verdicts, date.today())}")
    missed = sum(not measured.held for verdict in verdicts for measured in verdict.measured)
    bars = sum(len(verdict.measured) for verdict in verdicts)
    print(f"{missed} of {bars} bars missed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
