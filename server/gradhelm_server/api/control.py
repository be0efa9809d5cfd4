"""The threshold, changed from afar: the desired document, its versions, and their fate."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy import Connection, Row

from gradhelm import wire

from .. import control, runs
from ..errors import ApiError
from ..limits import coded_of, shown_limits
from ..state import identity_of
from . import shapes
from .ask import StateHere, number, read_json
from .described import answers, takes

_NOT_WITH_ROLL_BACK = {"match", "stream", "lr_factor", "stop"}
_OPTIONS = {
    *_NOT_WITH_ROLL_BACK,
    "reason",
    "not_before_step",
    "ttl_steps",
    "revert_if",
    "roll_back_to",
}
"""What a body may say besides the values of a strategy."""
VERSION = {"ETag": "The document's version, for If-Match"}

router = APIRouter(prefix="/api/v1/runs/{run}/control", tags=["control"])


@router.get("", responses=answers(shapes.ControlDocument, headers=VERSION))
async def get_control(state: StateHere, run: str, response: Response) -> dict[str, Any]:
    """The desired document, the version that was applied, and the trainer's limits."""

    def work(connection: Connection) -> dict[str, Any]:
        runs.find(connection, run)
        return control.document(connection, run)

    document = await state.store.read(work)
    response.headers["ETag"] = _etag(document["version"])
    return document


@router.put(
    "",
    status_code=202,
    responses=answers(shapes.ControlDocument, 409, 412, 428, status=202, headers=VERSION),
    openapi_extra=takes(shapes.ControlChange),
)
async def put_control(
    state: StateHere,
    run: str,
    request: Request,
    response: Response,
    if_match: Annotated[
        str | None,
        Header(max_length=100, json_schema_extra={"pattern": r'^"[0-9]{1,16}"$'}),
    ] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> dict[str, Any]:
    """Replace one rule of the desired document. Needs ``If-Match`` with the version it is based on.

    Body: the strategy's own parameters (``max_norm``, ``clip_value``, …) and optionally ``match``
    (the rule's pattern; null for the run's own), ``stream`` (one of several optimizers; default:
    the first) and ``reason``; with these or alone, ``lr_factor`` (what all learning rates are
    multiplied by) and ``stop``. In their place, ``roll_back_to`` (a version; 0: as coded) makes its
    whole document the newest version.

    Conditions, in steps of the stream: ``not_before_step`` (the first that may have it),
    ``ttl_steps`` (for so many, then back to the document before), and ``revert_if``:
    ``{"within": W, "nonfinite": true, "clip_fraction": [low, high]}`` (back as soon as the loss or
    the global norm is not finite within W steps, or when the share of clipped steps among them is
    outside the band).
    """
    body = await read_json(request)
    row = await state.store.read(lambda connection: runs.find(connection, run))
    change = asked(body, row, if_match, idempotency_key, identity_of(request).name)
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


@router.get("/history", responses=answers(shapes.History))
async def get_history(state: StateHere, run: str) -> dict[str, Any]:
    """Every version, newest first: who, when, from what to what, why, and what became of it."""

    def work(connection: Connection) -> list[dict[str, Any]]:
        runs.find(connection, run)
        return control.history(connection, run)

    return {"versions": await state.store.read(work)}


def asked(
    body: dict[str, Any], row: Row[Any], if_match: str | None, key: str | None, author: str
) -> control.Request:
    """What a request asks for, of the run in ``row``. Raises ApiError 422 or 428."""
    match = _text(body, "match", wire.MAX_NAME) or None
    stream = runs.stream_of(row, _text(body, "stream", wire.MAX_NAME) or None) or None
    change = control.Request(
        values=_values(body, row, match, stream),
        match=match,
        stream=stream,
        reason=_text(body, "reason", 1000),
        author=author,
        expected=_expected(if_match),
        key=key,
        lr_factor=_lr_factor(body),
        stop=_flag(body, "stop"),
        roll_back_to=_whole(body, "roll_back_to", 0),
        not_before=_whole(body, "not_before_step", 0),
        ttl_steps=_whole(body, "ttl_steps", 1),
        revert_if=_revert_if(body),
    )
    _check_together(change)
    return change


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
    rules = coded_of(row, stream)
    coded = next((c for c in rules if c.match == match), wire.Coded("", {}))
    names = body.keys() - _OPTIONS
    if body.get("roll_back_to") is not None:
        others = sorted({*names, *(body.keys() & _NOT_WITH_ROLL_BACK)})
        if any(body[name] is not None for name in others):
            named = ", ".join(others)[:200]
            raise ApiError(
                422, "contradiction", f"roll_back_to: a whole document; not with {named}"
            )
        return {}
    if not names and body.get("lr_factor") is None and body.get("stop") is None:
        known = ", ".join(coded.limits) or "nothing here"
        raise ApiError(
            422,
            "nothing_to_change",
            f"name a value to change; this run takes {known}, or give lr_factor, stop or "
            "roll_back_to",
        )
    values = {}
    for name in sorted(names):
        limit = coded.limits.get(name)
        accepted = f"from {limit.min:g} to {limit.max:g}" if limit else ""
        try:
            values[name] = number(name[:100], body[name], accepted)
        except ApiError as error:
            error.details.update(shown_limits(row, coded))
            raise
    return values


def _text(body: dict[str, Any], name: str, most: int) -> str:
    text = body.get(name)
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > most or "\0" in text:
        raise ApiError(422, "bad_value", f"{name}: expected text of at most {most} characters")
    return text


def _whole(body: dict[str, Any], name: str, least: int) -> int | None:
    """A whole number in the body, None without one."""
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= wire.MAX_STEP:
        raise ApiError(
            422,
            "bad_value",
            f"{name}: expected a whole number from {least} to {wire.MAX_STEP}, not {value!r:.60}",
        )
    return int(value)


def _flag(body: dict[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(422, "bad_value", f"{name}: expected true or false, not {value!r:.60}")
    return value


def _lr_factor(body: dict[str, Any]) -> float | None:
    value = body.get("lr_factor")
    most = wire.MAX_LR_FACTOR
    return None if value is None else number("lr_factor", value, f"from {1 / most:g} to {most:g}")


def _revert_if(body: dict[str, Any]) -> wire.RevertIf | None:
    asked = body.get("revert_if")
    if asked is None:
        return None
    form = (
        'revert_if: expected {"within": steps} with "nonfinite": true, or "clip_fraction": '
        "[low, high], or both"
    )
    known = {"within", "nonfinite", "clip_fraction"}
    if not isinstance(asked, dict) or not asked.keys() <= known:
        raise ApiError(422, "bad_value", f"{form}, not {asked!r:.60}")
    try:
        within = _whole(asked, "within", 1)
        nonfinite = _flag(asked, "nonfinite") or False
        band = _band(asked.get("clip_fraction"))
    except ApiError as error:
        raise ApiError(422, error.code, f"revert_if: {error.message}") from None
    if within is None or not (nonfinite or band):
        raise ApiError(422, "bad_value", form)
    return wire.RevertIf(within, nonfinite, band)


def _band(asked: object) -> tuple[float, float] | None:
    if asked is None:
        return None
    accepted = "clip_fraction: expected [low, high], shares from 0 to 1 with low <= high"
    if not isinstance(asked, list) or len(asked) != 2:
        raise ApiError(422, "bad_value", f"{accepted}, not {asked!r:.60}")
    low, high = (number("clip_fraction", one, "from 0 to 1") for one in asked)
    if not (0 <= low <= 1 and 0 <= high <= 1):
        raise ApiError(422, "bad_value", f"{accepted}, not {asked!r:.60}")
    if low > high:
        raise ApiError(422, "contradiction", f"{accepted}, not {asked!r:.60}")
    return low, high


def _check_together(change: control.Request) -> None:
    """Raises ApiError 422 for conditions that contradict what is asked for, or each other."""
    ttl, trial = change.ttl_steps, change.revert_if
    if change.stop and (ttl is not None or trial is not None):
        raise ApiError(422, "contradiction", "stop: for good; not with ttl_steps or revert_if")
    if ttl is not None and trial is not None and trial.within > ttl:
        raise ApiError(
            422,
            "contradiction",
            f"revert_if: within is {trial.within}; expected at most ttl_steps, which is {ttl}",
        )
