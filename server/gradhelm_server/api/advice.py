"""Advice about a threshold, by the norms of a run and the customs of its field."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query
from sqlalchemy import Connection, Row

from gradhelm import wire

from .. import advice
from ..advice import Suggestion
from ..errors import ApiError
from ..limits import coded_of, limits_of, rule_of
from ..matrix import Reader, column_names
from . import shapes
from .ask import Match, StateHere, Stream, norm_column, steps_asked
from .described import answers

router = APIRouter(prefix="/api/v1/runs/{run}", tags=["advice"])
BY_NORM = ("GlobalNorm", "Observe")
"""Strategies that clip by torch's rule, of which a clip fraction follows from norms."""


@router.get("/advice", responses=answers(shapes.Advice))
async def get_advice(
    state: StateHere,
    run: str,
    stream: Stream = None,
    match: Match = None,
    window: Annotated[int, Query(ge=advice.ENOUGH, le=100_000)] = advice.WINDOW,
    clip_fraction: Annotated[
        float, Query(gt=0, lt=1, description="What one of the suggestions is to clip")
    ] = advice.TARGET,
) -> dict[str, Any]:
    """Thresholds to try, each with its reason, its source, and what it would have clipped.

    By the norms of single steps among the newest ``window`` (by torch's own float32 rule), and by
    what is customary. ``match``: for the rule of that pattern, by the norms of its own parameters.
    """

    def work(connection: Connection) -> tuple[wire.Coded, Row[Any], int, int, wire.FloatArray]:
        row, own, low, high = steps_asked(connection, run, stream, -window, None)
        coded = _rule(row, own, match)
        column = column_names(connection, run).get(norm_column(own, match))
        values = [] if column is None else Reader(connection, run).values(column, low, high)
        parts = [np.empty(0, np.float32), *values]
        return coded, row, low, high, np.concatenate(parts)

    coded, row, low, high, norms = await state.store.read(work)
    found = await anyio.to_thread.run_sync(advice.advise, norms, clip_fraction)
    limit = coded.limits.get("max_norm")
    return {
        "first": low,
        "last": high,
        "steps": found.steps,
        "finite": found.finite,
        "note": found.note,
        "limits": None if limit is None else {"min": limit.min, "max": limit.max},
        "suggestions": [
            _shown(suggestion, fraction, limit, read_only=limits_of(row).why_not is not None)
            for suggestion, fraction in zip(found.suggestions, found.fractions, strict=True)
        ],
    }


def _rule(row: Row[Any], stream: str, match: str | None) -> wire.Coded:
    """The rule that advice is asked for. Raises ApiError 422 for one that norms say nothing of."""
    nothing = wire.Coded("Observe", {})
    coded = rule_of(row, match, stream) if coded_of(row, stream) else nothing
    if coded.strategy not in BY_NORM:
        raise ApiError(
            422,
            "not_answerable",
            f"the threshold of {coded.strategy} is {coded.threshold or 'none'}, about which norms "
            "of whole steps say nothing; advice is given for GlobalNorm and for runs that only "
            "watch",
        )
    return coded


def _shown(
    suggestion: Suggestion, fraction: float | None, limit: wire.Limit | None, *, read_only: bool
) -> dict[str, Any]:
    inside = limit is not None and limit.min <= suggestion.value <= limit.max
    notes = [advice.caution(fraction)]
    if limit is not None and not inside:
        notes.insert(0, f"Outside {limit.min:g} to {limit.max:g}, what the training script allows.")
    return {
        "kind": suggestion.kind,
        "name": suggestion.name,
        "value": suggestion.value,
        "reason": suggestion.reason,
        "source": suggestion.source,
        "clip_fraction": fraction,
        "allowed": inside and not read_only,
        "note": " ".join(note for note in notes if note) or None,
    }
