"""How commands print what they were answered."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gradhelm.redact import line as safe

__all__ = ["ago", "count", "number", "print_advice", "print_json", "print_table", "safe", "share"]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def ago(moment: str) -> str:
    seconds = time.time() - datetime.fromisoformat(moment).timestamp()
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{max(0, int(seconds))} s ago"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def print_advice(advice: dict[str, Any], *, many: bool) -> None:
    """What is wrong by the newest steps, then the thresholds to try; ``many``: one of many rules."""
    width = min(100, shutil.get_terminal_size().columns)

    def say(text: str, indent: int) -> None:
        margin = " " * indent
        lines = textwrap.wrap(
            safe(text), width - indent, break_long_words=False, break_on_hyphens=False
        )
        print("\n".join(margin + line for line in lines))

    whose = " ".join(safe(part) for part in (advice["stream"], advice["match"]) if part)
    print(f"\nAdvice{f' for {whose}' if many else ''}, by the newest {advice['steps']:,} steps")
    for finding in advice["warnings"]:
        print()
        say(finding["text"], 2)
        say(f"{finding['help']} ({finding['source']})", 4)
    if not advice["warnings"]:
        say("Nothing stands out.", 2)
    if advice["note"]:
        print()
        say(advice["note"], 2)
    if advice["suggestions"]:
        print("\n  Thresholds to try, and the share of these steps that each would have clipped")
    for one in advice["suggestions"]:
        print()
        print(f"  {number(one['value']):>8}  {share(one['clip_fraction']):>7}  {safe(one['name'])}")
        say(" ".join(filter(None, (one["reason"], f"({one['source']})", one["note"]))), 21)
