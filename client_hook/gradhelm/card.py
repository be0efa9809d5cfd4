"""A run as a notebook shows it: a small card of HTML and SVG, which needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

WIDTH, HEIGHT = 560, 120
NORM, THRESHOLD, BAD = "#6672f0", "#e08c1a", "#d63c4a"
"""Colours that can be told apart by everybody, on light and on dark paper."""

Series = Mapping[str, list[Any]]


def card(info: Mapping[str, Any], url: str, columns: Mapping[str, Series]) -> str:
    """``info``: as ``GET runs/{run}`` has it; ``columns``: ``global_norm`` and ``threshold`` as
    ``series`` gives them, if there are any."""
    share = info["clip_fraction"]
    figures = {
        "status": info["status"],
        "steps": f"{info['steps']:,}",
        "global norm": _number(info["global_norm"]),
        "threshold": _number(info["threshold"]),
        "clipped": "–" if share is None else f"{100 * share:.1f} %",
        "non-finite": f"{info['nonfinite']:,}",
    }
    cells = "".join(
        f'<div style="margin-right:28px"><div style="opacity:.65;font-size:11px">{name}</div>'
        f'<div style="font-size:16px">{escape(value)}</div></div>'
        for name, value in figures.items()
    )
    return (
        '<div style="font-family:system-ui,sans-serif;max-width:600px;padding:12px 16px;'
        'border:1px solid rgba(128,128,128,.4);border-radius:8px">'
        f'<a href="{escape(url)}" target="_blank" rel="noopener"><b>{escape(info["name"])}</b></a>'
        f' <span style="opacity:.65">{escape(info["project"])}</span>'
        f'<div style="display:flex;flex-wrap:wrap;margin:8px 0">{cells}</div>{_chart(columns)}</div>'
    )


def _chart(columns: Mapping[str, Series]) -> str:
    """The global norm over the steps, logarithmic, with the threshold as it was."""
    norm: Series = columns.get("global_norm", {"step": [], "max": [], "nonfinite": []})
    limit: Series = columns.get("threshold", {"step": [], "mean": []})
    norms = list(_positive(norm["step"], norm["max"]))
    limits = list(_positive(limit["step"], limit["mean"]))
    if not norms:
        return '<div style="opacity:.65;font-size:12px">No finite norms yet.</div>'
    low = math.log10(min(value for _, value in norms + limits))
    high = math.log10(max(value for _, value in norms + limits))
    first, last = norm["step"][0], norm["step"][-1]

    def x(step: int) -> float:
        return float(WIDTH * (step - first) / max(1, last - first))

    def y(value: float) -> float:
        return HEIGHT * (1 - (math.log10(value) - low) / max(1e-9, high - low))

    def line(points: list[tuple[int, float]], style: str) -> str:
        placed = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        return f'<polyline points="{placed}" fill="none" {style}/>' if points else ""

    bad = "".join(
        f'<line x1="{x(step):.1f}" x2="{x(step):.1f}" y1="0" y2="{HEIGHT}" stroke="{BAD}"/>'
        for step, count in zip(norm["step"], norm["nonfinite"], strict=True)
        if count
    )
    drawn = [value for _, value in norms]
    told = f"global norm, {min(drawn):.3g} to {max(drawn):.3g}, steps {first:,} to {last:,}"
    return (
        f'<svg viewBox="-2 -2 {WIDTH + 4} {HEIGHT + 4}" width="100%" role="img" '
        f'aria-label="{told}">{bad}'
        + line(limits, f'stroke="{THRESHOLD}" stroke-width="1.5" stroke-dasharray="5 4"')
        + line(norms, f'stroke="{NORM}" stroke-width="1.25"')
        + f'</svg><div style="opacity:.65;font-size:11px">{told}</div>'
    )


def _positive(steps: list[Any], values: list[Any]) -> Iterator[tuple[int, float]]:
    """Those that a logarithm knows."""
    for step, value in zip(steps, values, strict=True):
        if value is not None and value > 0:
            yield int(step), float(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
