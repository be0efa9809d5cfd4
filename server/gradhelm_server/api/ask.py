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
from ..matrix import column_names
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
Match = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=wire.MAX_NAME,
        description="The pattern of one of several rules; default: all parameters",
    ),
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


def norm_column(stream: str, match: str | None, name: str = "global_norm") -> str:
    """The column with the norms of a stream (or, by ``name``, with whether it clipped), or of the
    parameters that its rule ``match`` is for."""
    prefix = f"{stream}/" if stream else ""
    return prefix + (name if match is None else f"rule/{match}/{name}")


def columns_asked(
    connection: Connection,
    row: Row[Any],
    stream: str,
    asked: str | None,
    most: int = wire.MAX_COLUMNS,
) -> dict[str, int]:
    """Names, by comma, -> the indices of these columns of a stream; all that it has for None.

    A parameter's name may hold a comma, so known names win. Those of a stream are asked for, and
    answered, without its name. Raises ApiError 404 for one that there is not, 422 for more than
    ``most``.
    """
    known = column_names(connection, row.id)
    if stream:
        prefix = f"{stream}/"
        known = {n.removeprefix(prefix): i for n, i in known.items() if n.startswith(prefix)}
    if asked is None:
        others = tuple(f"{name}/" for name in json.loads(row.streams)[1:]) if not stream else ()
        return {name: index for name, index in known.items() if not name.startswith(others)}
    names = [asked] if asked in known else list(dict.fromkeys(asked.split(",")))
    if len(names) > most:
        raise ApiError(422, "too_many", f"columns: at most {most} at once")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ApiError(
            404, "no_such_column", f"columns: this run has no {unknown[0][:200]!r}; see …/columns"
        )
    return {name: known[name] for name in names}


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
        raw = await request.body()
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the body ended before its length was reached") from None
    return json_object(raw)


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``. Raises ApiError 422."""
    try:
        text = raw.decode()  # or Python would look for UTF-16 and 32
        # NaN and Infinity, which Python takes for numbers, are refused where a number is wanted:
        # there the answer can say which ones are accepted.
        body = json.loads(text, object_pairs_hook=_once_each)
        if "\\u" in text:
            _no_halves(body)
    except UnicodeDecodeError:
        raise ApiError(422, "bad_json", "the body is not proper JSON: it is no UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ApiError(422, "bad_json", f"the body is not proper JSON: {error}"[:300]) from None
    if not isinstance(body, dict):
        raise ApiError(422, "bad_json", f"expected a JSON object, not {type(body).__name__}")
    return body


def known_fields(body: dict[str, Any], *names: str) -> None:
    """Raises ApiError 422 for a field that is not one of these: it would do nothing, unseen."""
    unknown = sorted(body.keys() - set(names))
    if unknown:
        raise ApiError(
            422,
            "unknown_field",
            f"{unknown[0][:60]}: no field of this request; expected {', '.join(names)}",
        )


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


def _no_halves(body: object) -> None:
    """Raises ValueError for half of a surrogate pair, a text that nothing can store or send."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text has half of a surrogate pair") from None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made
