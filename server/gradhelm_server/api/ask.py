"""What requests have in common: the range they ask about, and bodies read strictly."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from sqlalchemy import Connection, Row
from starlette.requests import ClientDisconnect

from gradhelm import wire

from .. import runs
from ..errors import ApiError
from ..state import State, state_of

MAX_POINTS = 200_000
MAX_CELLS = 8_000_000
"""Buckets of all columns together in one answer: some 100 MB of numbers at the most."""

StateHere = Annotated[State, Depends(state_of)]
Points = Annotated[int, Query(ge=1, le=MAX_POINTS, description="At most so many buckets a column")]
Stream = Annotated[
    str | None,
    Query(max_length=wire.MAX_NAME, description="One of several optimizers; default: the first"),
]
First = Annotated[
    int | None,
    Query(
        ge=-wire.MAX_STEP,
        le=wire.MAX_STEP,
        description="First step; negative counts back from the newest (-1000: the newest 1,000)",
    ),
]
Last = Annotated[int | None, Query(ge=0, le=wire.MAX_STEP, description="Last step, inclusive")]


def steps_asked(
    connection: Connection, run: str, stream: str | None, first: int | None, last: int | None
) -> tuple[Row[Any], str, int, int]:
    """The run, its stream, and the range of steps asked for, cut to those that there are.

    An empty run, or a range beside what there is, gives last < first. Raises ApiError 404 for an
    unknown run and 422 for an unknown stream or a range that runs backwards.
    """
    row = runs.find(connection, run)
    if first is not None and last is not None and 0 <= last < first:
        raise ApiError(422, "bad_range", f"first={first} is after last={last}")
    found = runs.stream_of(row, stream)
    lowest, highest = runs.extent(connection, row, found)
    if lowest is None or highest is None:
        return row, found, 0, -1
    high = highest if last is None else min(last, highest)
    if first is not None and first < 0:
        first = max(highest + 1 + first, lowest)
    return row, found, lowest if first is None else max(first, lowest), high


def few_enough(columns: int, first: int, last: int, stride: int) -> None:
    """Raises ApiError 422 when so many columns of a range are too much for one answer."""
    buckets = max(0, last // stride - first // stride + 1)
    if columns * buckets > MAX_CELLS:
        raise ApiError(
            422,
            "too_many",
            f"points: {columns} columns of {buckets} buckets are more than {MAX_CELLS:,} numbers; "
            f"ask for at most {max(1, MAX_CELLS // columns)} points",
        )


async def read_json(request: Request) -> dict[str, Any]:
    """The body, a JSON object read strictly. Raises ApiError 415 or 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "not_json", "expected Content-Type: application/json")
    try:
        # NaN and Infinity, which Python takes for numbers, are refused where a number is wanted:
        # there the answer can say which ones are accepted.
        body = json.loads(await request.body(), object_pairs_hook=_once_each)
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the body ended before its length was reached") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(422, "bad_json", f"the body is not proper JSON: {error}"[:300]) from None
    if not isinstance(body, dict):
        raise ApiError(422, "bad_json", f"expected a JSON object, not {type(body).__name__}")
    return body


def number(name: str, value: object, accepted: str) -> float:
    """``value`` if it is a finite number. Raises ApiError 422 naming it and what is accepted."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(422, "bad_value", f"{name}: expected a number {accepted}, not {value!r:.60}")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise ApiError(422, "bad_value", f"{name}: expected a finite number {accepted}")
    return as_float


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made
