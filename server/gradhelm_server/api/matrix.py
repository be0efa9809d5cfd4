"""The matrix of a run, read: series of columns, the heatmap of layers, and what-if."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import Connection

from gradhelm import wire

from .. import runs
from ..clock import rfc3339
from ..errors import ApiError
from ..limits import coded_of, rule_of
from ..matrix import Reader, Series, column_names, stride_for
from ..patterns import matching
from ..whatif import WhatIf
from . import shapes
from .ask import (
    First,
    Last,
    Match,
    Points,
    StateHere,
    Stream,
    columns_asked,
    few_enough,
    norm_column,
    steps_asked,
)
from .described import IF_NONE_MATCH, answers, not_modified

router = APIRouter(prefix="/api/v1/runs/{run}", tags=["matrix"])
BINARY = "application/octet-stream"
PLANES = "With Accept: application/octet-stream; docs/protocol.md says how the numbers lie"
CACHED = {"ETag": "For If-None-Match; stays the same while the answer does"}
MAX_ASKED = 500
"""Columns of one series request."""


@router.get(
    "/series",
    responses=answers(shapes.SeriesOfColumns, headers=CACHED, binary=PLANES) | not_modified(),
    openapi_extra=IF_NONE_MATCH,
)
async def get_series(
    state: StateHere,
    run: str,
    request: Request,
    columns: Annotated[str, Query(min_length=1, max_length=60_000, description="Names, by comma")],
    first: First = None,
    last: Last = None,
    points: Points = 1000,
    stream: Stream = None,
    segment: Annotated[str | None, Query(pattern="^[0-9a-f]{16}$")] = None,
) -> Response:
    """Columns as buckets of ``stride`` steps (a power of two; 1 = every step as it was).

    JSON, or float32 planes with ``Accept: application/octet-stream``.
    """
    known = Known(request)

    def work(connection: Connection) -> tuple[dict[str, Series], int, int, int]:
        row, own, low, high = steps_asked(connection, run, stream, first, last)
        wanted = columns_asked(connection, row, own, columns, MAX_ASKED)
        reader = Reader(connection, run, segment)
        indices = list(wanted.values())
        stride = max(stride_for(low, high, points), reader.finest(indices, low, high))
        few_enough(len(indices), low, high, stride)
        known.by(reader.stamp(low, high), stride)
        found = {} if known.same else reader.series(indices, low, high, stride)
        return {n: found[index] for n, index in wanted.items() if found}, low, high, stride

    found, low, high, stride = await state.store.read(work)
    if known.same:
        return known.not_modified()
    if BINARY in request.headers.get("accept", ""):
        data = await anyio.to_thread.run_sync(_binary, found, low, high, stride)
        return Response(data, media_type=BINARY, headers=known.headers)
    body = {
        "columns": {name: _as_json(series) for name, series in found.items()},
        "first": low,
        "last": high,
        "stride": stride,
    }
    return Response(
        json.dumps(body, allow_nan=False), media_type="application/json", headers=known.headers
    )


@router.get(
    "/times",
    responses=answers(shapes.Times, headers=CACHED) | not_modified(),
    openapi_extra=IF_NONE_MATCH,
)
async def get_times(
    state: StateHere,
    run: str,
    request: Request,
    response: Response,
    points: Annotated[int, Query(ge=2, le=10_000, description="At most so many steps")] = 500,
    stream: Stream = None,
) -> Any:
    """When steps were taken: some of them, evenly spread, the first and the newest among them.

    ``elapsed`` is in seconds since the first one; breaks between a run's lives are in it.
    """
    known = Known(request)

    def work(connection: Connection) -> tuple[list[int], list[float]]:
        _, own, low, high = steps_asked(connection, run, stream, None, None)
        reader = Reader(connection, run)
        known.by(reader.stamp(low, high))
        name = f"{own}/global_norm" if own else "global_norm"
        column = column_names(connection, run).get(name)
        if known.same or column is None or high < low:
            return [], []
        steps, times = reader.times(column, low, high, points)
        return steps.tolist(), times.tolist()

    steps, times = await state.store.read(work)
    if known.same:
        return known.not_modified()
    response.headers.update(known.headers)
    return {
        "started_at": rfc3339(times[0]) if times else None,
        "step": steps,
        "elapsed": [round(at - times[0], 3) for at in times],
    }


@router.get(
    "/heatmap",
    responses=answers(shapes.Heatmap, headers=CACHED, binary=PLANES) | not_modified(),
    openapi_extra=IF_NONE_MATCH,
)
async def get_heatmap(
    state: StateHere,
    run: str,
    request: Request,
    first: First = None,
    last: Last = None,
    points: Points = 1000,
    stream: Stream = None,
    match: Annotated[str | None, Query(min_length=1, max_length=wire.MAX_NAME)] = None,
) -> Response:
    """Parameters x buckets: the largest norm in each. ``match`` is an fnmatch pattern of names.

    JSON, or float32 row by row with ``Accept: application/octet-stream`` and the shape in headers.
    """

    known = Known(request)

    def work(connection: Connection) -> tuple[list[int], wire.FloatArray, int, int, int, int]:
        _, own, low, high = steps_asked(connection, run, stream, first, last)
        parameters = runs.parameters(connection, run, own)
        if match is not None:
            parameters = [p for p in parameters if matching(match, p["name"])]
        reader = Reader(connection, run)
        indices = [p["column_index"] for p in parameters]
        stride = max(stride_for(low, high, points), reader.finest(indices, low, high))
        few_enough(len(indices), low, high, stride)
        known.by(reader.stamp(low, high), stride, len(parameters))
        if known.same:
            return [], np.empty((0, 0), np.float32), 0, stride, low, high
        image, origin = reader.heatmap(indices, low, high, stride)
        return [p["index"] for p in parameters], image, origin, stride, low, high

    rows, image, origin, stride, low, high = await state.store.read(work)
    if known.same:
        return known.not_modified()
    if BINARY in request.headers.get("accept", ""):
        shape = {"Rows": image.shape[0], "Buckets": image.shape[1], "Origin": origin}
        extent = {"Stride": stride, "First": low, "Last": high}
        return Response(
            image.tobytes(),
            media_type=BINARY,
            headers=known.headers
            | {f"X-Gradhelm-{n}": str(v) for n, v in (shape | extent).items()},
        )
    finite = np.isfinite(image)
    body = {
        "rows": rows,
        "origin": origin,
        "stride": stride,
        "first": low,
        "last": high,
        "values": [_numbers(row) for row in np.where(finite, image, np.float32(np.nan))],
        "nonfinite": np.argwhere(np.isinf(image)).tolist(),
    }
    return Response(
        json.dumps(body, allow_nan=False), media_type="application/json", headers=known.headers
    )


@router.get("/whatif", responses=answers(shapes.WhatIf))
async def get_whatif(
    state: StateHere,
    run: str,
    max_norm: Annotated[str, Query(max_length=10_000, description="One or more, by comma")],
    first: First = None,
    last: Last = None,
    stream: Stream = None,
    window: Annotated[int | None, Query(ge=1, le=wire.MAX_STEP)] = None,
    match: Match = None,
) -> dict[str, Any]:
    """What these thresholds would have done to the norms recorded, had these been the same.

    ``window``: only the newest so many steps; ``match``: by the norms of the parameters that the
    rule of that pattern is for. Exact: torch's own float32 rule.
    """
    thresholds = _thresholds(max_norm)
    if window is not None:
        if first is not None:
            raise ApiError(422, "bad_range", "window and first exclude each other")
        first = -window

    def work(connection: Connection) -> tuple[int, int, WhatIf]:
        row, own, low, high = steps_asked(connection, run, stream, first, last)
        rules = coded_of(row, own) if match is None else (rule_of(row, match, own),)
        if "clip_value" in {coded.threshold for coded in rules}:
            raise ApiError(
                422, "not_answerable", "what a clip_value would do does not follow from norms"
            )
        names = column_names(connection, run)
        norm, clipped = norm_column(own, match), norm_column(own, match, "clipped")
        found = WhatIf(thresholds)
        if {norm, clipped} <= set(names):
            reader = Reader(connection, run)
            for norms in reader.values(names[norm], low, high):
                found.see(norms)
            found.actual = reader.ones(names[clipped], low, high)
        return low, high, found

    low, high, found = await state.store.read(work)
    steps = found.steps
    results = [
        {
            "max_norm": threshold,
            "clipped": count,
            "clip_fraction": count / steps if steps else None,
            "mean_coef": total / found.numbers if found.numbers else None,
        }
        for threshold, count, total in zip(thresholds, found.clipped, found.total, strict=True)
    ]
    return {
        "first": low,
        "last": high,
        "steps": steps,
        "actual": {
            "clipped": found.actual,
            "clip_fraction": found.actual / steps if steps else None,
        },
        "results": results,
    }


class Known:
    """Whether the asker has the answer already: its ``ETag`` says what the answer is made of.

    It is a weak one: means may round differently after what was read was compacted.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.tag = ""

    def by(self, *made_of: object) -> None:
        """What the answer is made of, beside what was asked."""
        query = self._request.scope["query_string"]  # as bytes: not all of them are text
        asked = (query, self._request.headers.get("accept", ""), *made_of)
        self.tag = f'W/"{sha256(repr(asked).encode()).hexdigest()[:24]}"'

    @property
    def same(self) -> bool:
        has = self._request.headers.get("if-none-match", "")
        return has == "*" or self.tag in (tag.strip() for tag in has.split(","))

    @property
    def headers(self) -> dict[str, str]:
        return {"ETag": self.tag, "Cache-Control": "private, no-cache", "Vary": "Accept"}

    def not_modified(self) -> Response:
        return Response(status_code=304, headers=self.headers)


def _thresholds(text: str) -> list[float]:
    parts = text.split(",")
    if len(parts) > 200:
        raise ApiError(422, "too_many", "max_norm: at most 200 thresholds at once")
    found = []
    for part in parts:
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ApiError(
                422, "bad_value", f"max_norm: expected finite numbers above 0, not {part[:40]!r}"
            )
        found.append(value)
    return found


def _as_json(series: Series) -> dict[str, Any]:
    return {
        "step": series.step.tolist(),
        "min": _numbers(series.low),
        "mean": _numbers(series.mean),
        "max": _numbers(series.high),
        "nonfinite": series.nonfinite.tolist(),
    }


def _numbers(values: wire.FloatArray) -> list[float | None]:
    """As JSON has them: null for NaN."""
    return [None if value != value else value for value in values.tolist()]


def _binary(found: dict[str, Series], low: int, high: int, stride: int) -> bytes:
    """A header's length, the header (JSON), then each column's planes of 4-byte numbers."""
    origin = low // stride * stride
    header = json.dumps(
        {
            "first": low,
            "last": high,
            "stride": stride,
            "origin": origin,
            "columns": [{"name": name, "n": len(series.step)} for name, series in found.items()],
        }
    ).encode()
    header += b" " * (-(4 + len(header)) % 4)
    parts = [np.array([len(header)], "<u4").tobytes(), header]
    for series in found.values():
        parts.append(((series.step - origin) // stride).astype("<u4").tobytes())
        if stride == 1:
            parts.append(series.mean.tobytes())
        else:
            planes = (series.low, series.mean, series.high, series.nonfinite)
            parts += [plane.tobytes() for plane in planes]
    return b"".join(parts)
