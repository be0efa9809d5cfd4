"""Pictures of results, as SVG: bars and lines, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, LEFT, RIGHT, TOP, BAR = 760, 215, 90, 54, 26
INK, FAINT, PAPER = "#171B24", "#C9CED8", "#FFFFFF"
OURS, THEIRS, LIMIT = "#5563E3", "#99A2B3", "#D97706"
LINES = ("#5563E3", "#0F7B5F", "#D97706", "#C2264B")


class Bar(NamedTuple):
    """``kind`` is one of ours, theirs, limit."""

    label: str
    value: float
    low: float
    high: float
    kind: str = "theirs"


def number(value: float) -> str:
    """With about three digits, and a word for what is large."""
    for size, name in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if name == ' k' else size):.3g}{name}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def bars(title: str, unit: str, rows: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """Horizontal bars with their quartiles; a logarithmic axis begins at a power of ten."""
    height = TOP + BAR * len(rows) + 34
    room = WIDTH - LEFT - RIGHT
    if logarithmic:
        low = math.floor(math.log10(min(row.value for row in rows)) - 0.01)
        high = math.ceil(math.log10(max(row.high for row in rows)))
        ticks = [10.0**n for n in range(low, high + 1)]

        def x(value: float) -> float:
            at = (math.log10(max(value, 10.0**low)) - low) / max(1, high - low)
            return LEFT + room * min(1.0, at)

    else:
        least = min(0.0, *(row.low for row in rows))
        most = max(row.high for row in rows) or 1.0
        ticks = _ticks(least, most)

        def x(value: float) -> float:
            return LEFT + room * (value - ticks[0]) / (ticks[-1] - ticks[0])

    zero = x(ticks[0] if logarithmic else 0.0)
    drawn = _axis(ticks, x, height, unit)
    for n, row in enumerate(rows):
        y, middle = TOP + BAR * n + 4, TOP + BAR * n + BAR / 2
        colour = {"ours": OURS, "limit": LIMIT}.get(row.kind, THEIRS)
        begin, end = sorted((zero, x(row.value)))
        weight = ' font-weight="600"' if row.kind == "ours" else ""
        beyond = max(end, x(row.high)) + 6
        drawn += [
            f'<text x="{LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end"{weight}>'
            f"{escape(row.label)}</text>",
            f'<rect x="{begin:.1f}" y="{y}" width="{max(1.0, end - begin):.1f}" '
            f'height="{BAR - 8}" rx="2" fill="{colour}"/>',
            f'<path d="M{x(row.low):.1f} {middle}H{x(row.high):.1f}" stroke="{INK}"/>',
            f'<text x="{beyond:.1f}" y="{middle + 4:.1f}"{weight}>{number(row.value)}</text>',
        ]
    return _picture(title, height, drawn)


def lines(
    title: str, across: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """Lines on two logarithmic axes."""
    height, left = 300, 70
    bottom, right = height - 44, WIDTH - 170
    points = [point for line in series.values() for point in line if point[1] > 0]
    x, x_ticks = _decades([p[0] for p in points], left, right)
    y, y_ticks = _decades([p[1] for p in points], bottom, TOP)
    drawn = [
        f'<text x="{(left + right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="{left}" y="{TOP - 10}">{escape(unit)}</text>',
    ]
    for tick in x_ticks:
        drawn.append(
            f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{number(tick)}</text>'
        )
    for tick in y_ticks:
        drawn += [
            f'<path d="M{left} {y(tick):.1f}H{right}" stroke="{FAINT}"/>',
            f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>',
        ]
    labels: list[float] = []
    for colour, (name, line) in zip(LINES, series.items(), strict=False):
        at = [(x(a), y(b)) for a, b in line if b > 0]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in at)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in at]
        beside = at[-1][1] + 4
        while any(abs(beside - other) < 15 for other in labels):
            beside += 15
        labels.append(beside)
        drawn.append(
            f'<text x="{at[-1][0] + 10:.1f}" y="{beside:.1f}" fill="{colour}">{escape(name)}</text>'
        )
    return _picture(title, height, drawn)


def _decades(
    values: Sequence[float], begin: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def place(value: float) -> float:
        return begin + (end - begin) * (math.log10(value) - low) / (high - low)

    return place, [10.0**n for n in range(low, high + 1)]


def _ticks(least: float, most: float) -> list[float]:
    rough = (most - least) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(s * size for s in (1, 2, 5, 10) if s * size >= rough)
    return [n * step for n in range(math.floor(least / step), math.ceil(most / step) + 1)]


def _axis(ticks: Sequence[float], x: Callable[[float], float], height: int, unit: str) -> list[str]:
    drawn = [f'<text x="{LEFT}" y="{height - 6}">{escape(unit)}</text>']
    for tick in ticks:
        drawn += [
            f'<path d="M{x(tick):.1f} {TOP}V{height - 34}" stroke="{FAINT}"/>',
            f'<text x="{x(tick):.1f}" y="{TOP - 8}" text-anchor="middle">{number(tick)}</text>',
        ]
    return drawn


def _picture(title: str, height: int, drawn: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>',
            f'<text x="16" y="24" font-size="14" font-weight="600">{escape(title)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )
