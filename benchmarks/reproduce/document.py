"""docs/results.md: every bar with its value, then each result with its set-up and details."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

import gradhelm

from .bars import Verdict

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
COMMAND = "python -m benchmarks.reproduce"
HEADER = ("result", "measured quantity", "bar", "measured", "")


def write(verdicts: Sequence[Verdict], today: date) -> Path:
    """Writes the document and its drawings, and returns where it is."""
    for verdict in verdicts:
        if verdict.findings.drawing:
            drawing = DOCS / picture(verdict.result.name)
            drawing.write_text(verdict.findings.drawing, encoding="utf-8")
    path = DOCS / "results.md"
    path.write_text(text(verdicts, today), encoding="utf-8")
    return path


def text(verdicts: Sequence[Verdict], today: date) -> str:
    seconds = sum(verdict.seconds for verdict in verdicts)
    parts = [
        "# Published results, reproduced",
        f"<!-- Written by {COMMAND}: change that and run it, not this file. -->",
        f"Written by `{COMMAND}` on {today}, in {seconds:.0f} seconds on one core of "
        f"{machine()}; Python {platform.python_version()}, torch {torch.__version__}, gradhelm "
        f"{gradhelm.__version__}. It measures what papers say about clipping with the strategies "
        "of `gradhelm.clip`, and compares it with bars that stand in its code. Where several "
        "values are given they are those of several seeds, and each has to be within the bar. "
        "The command exits with 1 when a bar is missed; `--only NAME` measures one result and "
        "leaves this document as it is.",
        table(HEADER, bars(verdicts)),
    ]
    for verdict in verdicts:
        parts += section(verdict)
    return "\n\n".join(parts) + "\n"


def bars(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """The rows of the main table."""
    return [
        [
            f"`{verdict.result.name}`",
            measured.bar.quantity,
            str(measured.bar),
            str(measured),
            "held" if measured.held else "**missed**",
        ]
        for verdict in verdicts
        for measured in verdict.measured
    ]


def section(verdict: Verdict) -> list[str]:
    result, findings = verdict.result, verdict.findings
    parts = [f"## {result.title}", f"`{result.name}`, {verdict.seconds:.0f} s. {result.about}"]
    if findings.rows:
        parts.append(table(findings.header, findings.rows))
    if findings.drawing:
        parts.append(f"![{findings.shows}]({picture(result.name)})")
    return parts


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(name: str) -> str:
    """Where a result's drawing is, from the document."""
    return f"images/results-{name}.svg"


def machine() -> str:
    """The processor, as far as the system tells, and how many cores it has."""
    try:
        found = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        found = []
    models = [line.partition(":")[2].strip() for line in found if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({os.cpu_count()} cores)"
