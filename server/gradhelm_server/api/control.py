"""The threshold, changed from afar: the desired document, its versions, and their fate."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy import Connection, Row

from gradhelm import wire

from .. import control, runs
from ..errors import ApiError
from ..state import identity_of
from .ask import StateHere, number, read_json

router = APIRouter(prefix="/api/v1/runs/{run}/control", tags=["control"])


@router.get("")
async def get_control(state: StateHere, run: str, response: Response) -> dict[str, Any]:
    """The desired document, the version that was applied, and the trainer's limits."""

    def work(connection: Connection) -> dict[str, Any]:
        runs.find(connection, run)
        return control.document(connection, run)

    document = await state.store.read(work)
    response.headers["ETag"] = _etag(document["version"])
    return document


@router.put("", status_code=202)
async def put_control(
    state: StateHere,
    run: str,
    request: Request,
    response: Response,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> dict[str, Any]:
    """Replace one rule of the desired document. Needs ``If-Match`` with the version it is based on.

    Body: the strategy's own parameters (``max_norm``, ``clip_value``, …) and optionally ``match``
    (the rule's pattern; null for the run's own), ``stream`` (one of several optimizers; default:
    the first) and ``reason``.
    """
    body = await read_json(request)
    row = await state.store.read(lambda connection: runs.find(connection, run))
    match = _text(body, "match", wire.MAX_NAME) or None
    stream = runs.stream_of(row, _text(body, "stream", wire.MAX_NAME) or None) or None
    change = control.Request(
        values=_values(body, row, match, stream),
        match=match,
        stream=stream,
        reason=_text(body, "reason", 1000),
        author=identity_of(request).name,
        expected=_expected(if_match),
        key=idempotency_key,
    )
    now = time.time()

    def work(connection: Connection) -> tuple[int, wire.Change, dict[str, Any]]:
        version = control.put(connection, runs.find(connection, run), change, now)
        return version, control.desired(connection, run), control.document(connection, run)

    version, desired, document = await state.store.write(work, urgent=True)
    trainer = state.hub.trainers.get(run)
    if trainer is not None and desired.version == version:
        trainer.tell(desired)
    state.hub.publish(run, "control", {"control": document})
    state.hub.changed(run)
    response.headers["ETag"] = _etag(version)
    return document


@router.get("/history")
async def get_history(state: StateHere, run: str) -> dict[str, Any]:
    """Every version, newest first: who, when, from what to what, why, and what became of it."""

    def work(connection: Connection) -> list[dict[str, Any]]:
        runs.find(connection, run)
        return control.history(connection, run)

    return {"versions": await state.store.read(work)}


def _etag(version: int) -> str:
    return f'"{version}"'


def _expected(if_match: str | None) -> int:
    if if_match is None:
        raise ApiError(
            428, "if_match_needed", 'send If-Match with the ETag of the control document ("0", …)'
        )
    text = if_match.strip()
    digits = text[1:-1]
    if len(text) < 3 or text[0] + text[-1] != '""' or not (digits.isascii() and digits.isdigit()):
        raise ApiError(
            422, "bad_if_match", 'If-Match: expected one strong ETag of this document, such as "3"'
        )
    if len(digits) > 16:
        raise ApiError(422, "bad_if_match", "If-Match: there are no versions of that size")
    return int(digits)


def _values(
    body: dict[str, Any], row: Row[Any], match: str | None, stream: str | None
) -> dict[str, float]:
    """The strategy parameters in the body, as finite numbers."""
    options = {"match", "stream", "reason", "ttl_steps", "not_before_step"}
    rules = control.coded_of(row, stream)
    coded = next((c for c in rules if c.match == match), wire.Coded("", {}))
    for name in ("ttl_steps", "not_before_step"):
        if body.get(name) is not None:
            raise ApiError(422, "not_offered", f"{name}: this server takes only null")
    names = body.keys() - options
    if not names:
        known = ", ".join(coded.limits) or "nothing here"
        raise ApiError(422, "nothing_to_change", f"name a value to change; this run takes {known}")
    values = {}
    for name in sorted(names):
        limit = coded.limits.get(name)
        accepted = f"from {limit.min:g} to {limit.max:g}" if limit else ""
        try:
            values[name] = number(name, body[name], accepted)
        except ApiError as error:
            error.details.update(control.shown_limits(row, coded))
            raise
    return values


def _text(body: dict[str, Any], name: str, most: int) -> str:
    text = body.get(name)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > most or "\0" in text:
        raise ApiError(422, "bad_value", f"{name}: expected text of at most {most} characters")
    return text
