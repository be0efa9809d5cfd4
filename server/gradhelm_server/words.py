"""How commands print what they were answered."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gradhelm.redact import line as safe

__all__ = ["ago", "count", "number", "print_json", "print_table", "safe", "share"]


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
