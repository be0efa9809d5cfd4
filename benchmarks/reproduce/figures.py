"""Small SVGs, written by hand: curves, and maps of what was solved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#c2410c", "#1d4ed8", "#0f766e")
INK, PAPER, GREY = "#1f2937", "#ffffff", "#d1d5db"
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 616, 36, 276
CELL = 7

Points = Sequence[tuple[float, float]]


def lines(curves: Mapping[str, Points], *, across: str, up: str, log_across: bool = False) -> str:
    """Curves over a common axis, each with its name; upwards by powers of ten.

    Points that are not finite have no place and are left out.
    """
    curves = {
        name: [(x, y) for x, y in points if 0 < y < math.inf] for name, points in curves.items()
    }
    xs = [x for points in curves.values() for x, _ in points]
    ys = [math.log10(y) for points in curves.values() for _, y in points]
    x_low, x_high = _scaled(min(xs), log_across), _scaled(max(xs), log_across)
    y_low, y_high = math.floor(min(ys)), math.floor(max(ys)) + 1

    def place(x: float, y: float) -> str:
        right = (_scaled(x, log_across) - x_low) / (x_high - x_low)
        above = (math.log10(y) - y_low) / (y_high - y_low)
        return f"{LEFT + right * (RIGHT - LEFT):.1f},{BOTTOM - above * (BOTTOM - TOP):.1f}"

    parts = []
    for power in range(y_low, y_high + 1):
        y = BOTTOM - (power - y_low) / (y_high - y_low) * (BOTTOM - TOP)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{GREY}"/>')
        parts.append(_text(LEFT - 8, y + 4, _power(power), "end"))
    for x, anchor, at in ((min(xs), "start", LEFT), (max(xs), "end", RIGHT)):
        parts.append(_text(at, BOTTOM + 18, f"{x:g}", anchor))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 34, across, "middle"))
    parts.append(_text(LEFT, 20, up, "start"))
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number]
        path = " ".join(place(x, y) for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        parts.append(_text(RIGHT - 130 * (len(curves) - 1 - number), 20, name, "end", colour))
    return _svg(WIDTH, HEIGHT, parts)


def maps(grids: Mapping[str, Sequence[Sequence[bool]]], *, across: str, up: str) -> str:
    """Grids side by side, filled where true; the first row of each is at the bottom."""
    parts, left, side = [], 24, 0
    for name, grid in grids.items():
        side = len(grid) * CELL
        parts.append(_text(left, 20, name, "start"))
        parts.append(
            f'<rect x="{left}" y="30" width="{side}" height="{side}" fill="{PAPER}" '
            f'stroke="{GREY}"/>'
        )
        cells = "".join(
            f"M{left + j * CELL} {30 + side - (i + 1) * CELL}h{CELL}v{CELL}h-{CELL}z"
            for i, row in enumerate(grid)
            for j, solved in enumerate(row)
            if solved
        )
        parts.append(f'<path d="{cells}" fill="{COLOURS[1]}"/>')
        left += side + 24
    parts.append(_text(24, side + 50, f"solved: filled. Across {across}, up {up}.", "start"))
    return _svg(left, side + 64, parts)


def _scaled(x: float, log: bool) -> float:
    return math.log10(x) if log else x


def _power(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
