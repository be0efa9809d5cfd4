"""``gradhelm whatif``: strategies side by side, each run over the norms that a run recorded."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import numpy as np

from gradhelm.rest import Client

from .endings import Failed, Usage
from .words import number, print_json, print_table, safe, share


def whatif(arguments: argparse.Namespace) -> None:
    for package in ("torch", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise Failed(f"this runs the strategies themselves and needs {package}")
    from gradhelm import whatif
    from gradhelm.reading import StoredRun

    strategies = []
    for text in arguments.strategies:
        try:
            strategies.append((text, whatif.prepared(whatif.parse(text))))
        except ValueError as error:
            raise Usage(str(error)) from None
    client = Client.here()
    run = StoredRun(client, client.find(arguments.run))
    part = {"first": arguments.first, "last": arguments.last, "stream": arguments.stream}
    found = []
    for text, strategy in strategies:
        try:
            found.append(_told(text, run.whatif(strategy, **part)))
        except ValueError as error:
            raise Failed(f"{text}: {error}") from None
    was = run.frame(["clipped", "clip_coef", "threshold"], **part).dropna(subset=["clipped"])
    if arguments.json:
        print_json({"run": run.id, "steps": len(was), "strategies": found})
        return
    rows = [("STRATEGY", "CLIPPED", "SKIPPED", "MEAN COEF", "THRESHOLD: 10 %", "MEDIAN", "90 %")]
    for told in (_told("as it was", was), *found):
        spread = told["threshold"] or (None, None, None)
        rows.append(
            (
                told["strategy"],
                share(told["clip_fraction"]),
                share(told["skip_fraction"]),
                number(told["mean_coef"]),
                *map(number, spread),
            )
        )
    print(f"{safe(run.info['name'])}, {len(was):,} steps, for the norms as they were:\n")
    print_table(rows)


def _told(strategy: str, frame: Any) -> dict[str, Any]:
    """A replay in figures; ``threshold``: its 10th, 50th and 90th percentile."""
    steps = len(frame)
    coefficients = frame["clip_coef"].dropna()
    thresholds = frame["threshold"].to_numpy("float64")
    thresholds = thresholds[np.isfinite(thresholds)]
    spread = np.percentile(thresholds, (10, 50, 90)).tolist() if len(thresholds) else None
    skipped = "skipped" in frame
    return {
        "strategy": strategy,
        "clip_fraction": float((frame["clipped"] > 0).sum()) / steps if steps else None,
        "skip_fraction": float((frame["skipped"] > 0).sum()) / steps if skipped and steps else None,
        "mean_coef": float(coefficients.mean()) if len(coefficients) else None,
        "threshold": spread,
    }
