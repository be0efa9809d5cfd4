"""Advice: what is wrong with a run's gradients, and which thresholds to try."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query
from sqlalchemy import Connection, Row

from gradhelm import wire

from .. import advice, events, runs
from ..advice import Suggestion
from ..diagnosis import Seen, findings
from ..limits import coded_of, limits_of, rule_of
from ..matrix import Reader, column_names, stride_for
from . import shapes
from .ask import Match, StateHere, Stream, norm_column, steps_asked
from .described import answers

router = APIRouter(prefix="/api/v1/runs/{run}", tags=["advice"])
BY_NORM = ("GlobalNorm", "Observe")
"""Strategies that clip by torch's rule, of which a clip fraction follows from norms."""
RECENT = 1000
"""The newest steps, of which the norms of each parameter are looked at."""


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
    """What is to be said of the gradients, and thresholds to try.

    ``warnings``: what is the case by the newest ``window`` steps, what helps, and who says so.
    ``suggestions``: thresholds, each with its reason, its source, and what it would have clipped of
    these steps (by torch's own float32 rule), and those that are customary. ``match``: for the rule
    of that pattern, by the norms of its own parameters.
    """

    def work(connection: Connection) -> tuple[wire.Coded, Row[Any], int, int, Seen]:
        row, own, low, high = steps_asked(connection, run, stream, -window, None)
        coded = _rule(row, own, match)
        return coded, row, low, high, _seen(connection, run, own, coded, low, high)

    coded, row, low, high, seen = await state.store.read(work)
    by_norm = coded.strategy in BY_NORM
    found = await anyio.to_thread.run_sync(advice.advise, seen.norms, clip_fraction)
    warnings = await anyio.to_thread.run_sync(findings, seen)
    limit = coded.limits.get("max_norm")
    return {
        "first": low,
        "last": high,
        "steps": found.steps,
        "finite": found.finite,
        "warnings": [asdict(warning) for warning in warnings],
        "note": found.note if by_norm else _no_thresholds(coded),
        "limits": None if limit is None else {"min": limit.min, "max": limit.max},
        "suggestions": [
            _shown(suggestion, fraction, limit, read_only=limits_of(row).why_not is not None)
            for suggestion, fraction in zip(found.suggestions, found.fractions, strict=True)
            if by_norm
        ],
    }


def _rule(row: Row[Any], stream: str, match: str | None) -> wire.Coded:
    """The rule that advice is asked for; of a run that has patterns and is asked for as a whole,
    one that stands for none. Raises ApiError 422 for an unknown pattern."""
    coded = coded_of(row, stream)
    if match is None and all(one.match is not None for one in coded):
        several = coded[0].optimizer if coded else None
        return wire.Coded("Observe" if not coded else "", {}, optimizer=several)
    return rule_of(row, match, stream)


def _no_thresholds(coded: wire.Coded) -> str:
    if not coded.strategy:
        return "The run has a threshold for each of its patterns: ask for one of them."
    return (
        f"The threshold of {coded.strategy} is {coded.threshold or 'none'}, about which norms of "
        "whole steps say nothing; thresholds are suggested for GlobalNorm and for runs that only "
        "watch."
    )


def _seen(
    connection: Connection, run: str, stream: str, coded: wire.Coded, low: int, high: int
) -> Seen:
    """What the findings about a rule follow from; about its parameters only where it is for all."""
    names = column_names(connection, run)
    reader = Reader(connection, run)
    prefix = f"{stream}/" if stream else ""

    def values(name: str) -> wire.FloatArray:
        column = names.get(norm_column(stream, coded.match, name))
        found = [] if column is None else list(reader.values(column, low, high))
        return np.concatenate([np.empty(0, np.float32), *found])

    def newest(wanted: list[str], first: int) -> tuple[wire.FloatArray, int]:
        """[wanted x buckets] from step ``first`` on, and the steps of a bucket; what there is no
        column of stays empty."""
        rows = [row for row, name in enumerate(wanted) if name in names]
        columns = [names[wanted[row]] for row in rows]
        if not columns or first > high:
            return np.full((len(wanted), 0), wire.MISSING, np.float32), 1
        stride = max(stride_for(first, high, RECENT), reader.finest(columns, first, high))
        found, _ = reader.heatmap(columns, first, high, stride)
        image = np.full((len(wanted), found.shape[1]), wire.MISSING, np.float32)
        image[rows] = found
        return image, stride

    parameters = runs.parameters(connection, run, stream) if coded.match is None else []
    norms = [one["column"] for one in parameters]
    recent, stride = newest([f"{prefix}threshold", *norms], max(low, high + 1 - RECENT))
    # Largest values of several steps say nothing of what the clip of one was due to.
    thresholds = recent[0] if stride == 1 else np.full_like(recent[0], wire.MISSING)
    ratios, _ = newest([f"{prefix}update_ratio/{one['name']}" for one in parameters], low)
    return Seen(
        norms=values("global_norm"),
        clipped=values("clipped"),
        clips=coded.strategy != "Observe",
        first_bad=events.first_bad(connection, run, stream, low, high),
        layers=recent[1:],
        thresholds=thresholds,
        ratios=ratios,
        names=[one["name"] for one in parameters],
        shapes=[one["shape"] for one in parameters],
        optimizer=coded.optimizer,
    )


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
