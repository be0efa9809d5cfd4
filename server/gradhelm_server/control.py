"""The desired control document of a run: immutable versions, and what became of each.

Versioned desired state, not a queue of commands: a version replaces one rule of the whole
document, at most one writer wins each version, and what the trainer says of it is appended as
events. The trainer's own limits are checked here first only so that a person is told at once; the
trainer checks them again and trusts nobody.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select

from gradhelm import wire

from .clock import rfc3339
from .errors import ApiError
from .events import add_event
from .tables import control_events, control_versions, runs, segments

PENDING = ("pending", "delivered")
_rules = msgspec.json.Decoder(tuple[wire.Rule, ...])
_coded = msgspec.json.Decoder(tuple[wire.Coded, ...])
_limits = msgspec.json.Decoder(wire.Limits)


@dataclass(frozen=True, slots=True)
class Request:
    """One change as asked for: the values of the rule keyed by ``match`` and ``stream``."""

    values: dict[str, float]
    match: str | None
    stream: str | None
    reason: str
    author: str
    expected: int
    key: str | None = None


def coded_of(row: Row[Any], stream: str | None = None) -> tuple[wire.Coded, ...]:
    """The strategies of one stream ("" or None: the run's first) as the script has them."""
    return tuple(c for c in _coded.decode(row.coded) if c.stream == (stream or None))


def own_of(row: Row[Any]) -> wire.Coded:
    """The run's own strategy: the one for all parameters, an empty one when it has patterns."""
    nothing = wire.Coded("", {})
    return next((coded for coded in coded_of(row) if coded.match is None), nothing)


def rule_of(row: Row[Any], match: str | None, stream: str | None) -> wire.Coded:
    """The strategy that a rule is for. Raises ApiError 422 when the script has none such."""
    found = [coded for coded in coded_of(row, stream) if coded.match == match]
    if found:
        return found[0]
    patterns = [coded.match for coded in coded_of(row, stream) if coded.match is not None]
    known = f"match: one of {', '.join(map(repr, patterns))}" if patterns else "no match"
    what = "one strategy for all parameters" if match is None else f"pattern {match!r}"
    raise ApiError(422, "unknown_pattern", f"the training script has no {what}; expected {known}")


def shown_limits(row: Row[Any], coded: wire.Coded) -> dict[str, Any]:
    """Limits as REST shows them, in the document and with every refusal."""
    limits = _limits.decode(row.limits)
    return {
        "limits": {n: {"min": v.min, "max": v.max} for n, v in coded.limits.items()},
        "factor": limits.factor,
        "every_steps": limits.every_steps,
    }


def pack_rules(rules: tuple[wire.Rule, ...]) -> str:
    return msgspec.json.encode(rules).decode()


def desired(connection: Connection, run: str) -> wire.Change:
    """The newest version that was not refused; version 0 is what the training script says."""
    latest = _latest(connection, run)
    wanted = [version for version, status in latest.items() if status in (*PENDING, "applied")]
    return _change(connection, run, max(wanted, default=0))


def in_force(connection: Connection, run: str) -> tuple[wire.Change, Row[Any] | None]:
    """What the trainer of today last said that it applied, and the event (None: as coded).

    Of today: one that was started again begins with what its script says.
    """
    events = control_events
    today = (
        select(segments.c.segment)
        .where(segments.c.run_id == run, segments.c.stream == "")
        .order_by(segments.c.ordinal.desc())
        .limit(1)
        .scalar_subquery()
    )
    event = connection.execute(
        select(events)
        .where(events.c.run_id == run, events.c.status == "applied", events.c.segment == today)
        .order_by(events.c.id.desc())
        .limit(1)
    ).one_or_none()
    return _change(connection, run, 0 if event is None else event.version), event


def _change(connection: Connection, run: str, version: int) -> wire.Change:
    if version == 0:
        coded = connection.scalar(select(runs.c.coded).where(runs.c.id == run))
        return wire.Change(
            0, tuple(wire.Rule(c.values, c.match, c.stream) for c in _coded.decode(coded or "[]"))
        )
    rules = connection.scalar(
        select(control_versions.c.rules).where(
            control_versions.c.run_id == run, control_versions.c.version == version
        )
    )
    return wire.Change(version, _rules.decode(rules or "[]"))


def _latest(connection: Connection, run: str) -> dict[int, str]:
    """Version -> what was last said of it."""
    rows = connection.execute(
        select(control_events.c.version, control_events.c.status)
        .where(control_events.c.run_id == run)
        .order_by(control_events.c.id)
    )
    return {version: status for version, status in rows}


def newest(connection: Connection, run: str) -> Row[Any] | None:
    """What was last said of the newest version; None while there is only the coded one."""
    events = control_events
    found: Row[Any] | None = connection.execute(
        select(events)
        .where(events.c.run_id == run)
        .order_by(events.c.version.desc(), events.c.id.desc())
        .limit(1)
    ).one_or_none()
    return found


def document(connection: Connection, run: str) -> dict[str, Any]:
    """The control document as REST shows it."""
    row = connection.execute(select(runs).where(runs.c.id == run)).one()
    latest = newest(connection, run)
    wanted = _change(connection, run, 0 if latest is None else latest.version)
    applied, event = in_force(connection, run)
    own = own_of(row)
    every = _coded.decode(row.coded)
    why_not = _limits.decode(row.limits).why_not
    return {
        "version": wanted.version,
        "desired": _as_json(wanted.rules),
        "status": latest.status if latest is not None else "applied",
        "why": latest.why if latest is not None else None,
        "step": latest.step if latest is not None else None,
        "stream": latest.stream if latest is not None else None,
        "applied": {
            "version": applied.version,
            "step": event.step if event is not None else None,
            "at": rfc3339(event.at if event is not None else row.created_at),
            "values": _values(applied.rules, None, None),
        },
        **shown_limits(row, own),
        "read_only": why_not is not None,
        "why_read_only": why_not,
        "threshold_name": own.threshold,
        # Every rule there is; what stands above is that of the run's own strategy.
        "rules": [
            {
                "match": coded.match,
                "stream": coded.stream,
                "strategy": coded.strategy,
                "threshold_name": coded.threshold,
                "coded": coded.values,
                "desired": _values(wanted.rules, coded.match, coded.stream),
                "applied": _values(applied.rules, coded.match, coded.stream),
                "limits": shown_limits(row, coded)["limits"],
            }
            for coded in every
        ],
    }


def put(connection: Connection, row: Row[Any], request: Request, now: float) -> int:
    """Make the next version of the run in ``row``. Returns its number, or that of an equal
    earlier request.

    Raises ApiError: 409 ended, 412 ``expected`` is not the newest version, 422 outside the limits
    or unknown values, 409 an idempotency key used for another request.
    """
    run: str = row.id
    if request.key is not None:
        earlier = _earlier(connection, run, request)
        if earlier is not None:
            return earlier
    if row.ended is not None:
        raise ApiError(409, "run_ended", f"the run has {row.ended}; nothing can be changed in it")
    latest = _latest(connection, run)
    current = max(latest, default=0)
    if request.expected != current:
        raise ApiError(
            412,
            "stale",
            f"the control document is at version {current}, not {request.expected}; "
            "look at it and try again",
            {"current": document(connection, run)},
        )
    # A change is based on what waits to be applied, if anything does, else on what is in force:
    # never on what the trainer refused.
    waiting = [version for version, status in latest.items() if status in PENDING]
    base = _change(connection, run, current) if current in waiting else in_force(connection, run)[0]
    before = _values(base.rules, request.match, request.stream)
    after = before | request.values
    _check(row, before, request)
    mine = (request.match, request.stream)
    rules = (
        *(rule for rule in base.rules if (rule.match, rule.stream) != mine),
        wire.Rule(after, request.match, request.stream),
    )
    version = current + 1
    connection.execute(
        insert(control_versions),
        {
            "run_id": run,
            "version": version,
            "rules": pack_rules(rules),
            "match": request.match,
            "stream": request.stream,
            "before": json.dumps(before),
            "after": json.dumps(after),
            "author": request.author,
            "reason": request.reason,
            "at": now,
            "idempotency_key": request.key,
        },
    )
    for older in waiting:
        add_status(connection, run, older, "superseded", now)
    add_status(connection, run, version, "pending", now)
    return version


def add_status(
    connection: Connection,
    run: str,
    version: int,
    status: str,
    now: float,
    *,
    segment: str | None = None,
    step: int | None = None,
    stream: str | None = None,
    why: str | None = None,
) -> None:
    connection.execute(
        insert(control_events),
        {
            "run_id": run,
            "version": version,
            "segment": segment,
            "status": status,
            "step": step,
            "stream": stream,
            "why": why,
            "at": now,
        },
    )


def report(
    connection: Connection,
    run: str,
    segment: str,
    message: wire.Applied | wire.Delivered | wire.Rejected,
    now: float,
) -> dict[str, Any] | None:
    """Take down what the trainer says of a version; returns the event that this makes, if any.

    Reports about versions that were never made, or that repeat what is known, change nothing.
    """
    row = connection.execute(
        select(control_versions).where(
            control_versions.c.run_id == run, control_versions.c.version == message.version
        )
    ).one_or_none()
    if row is None:
        return None
    statuses = _statuses(connection, run, message.version)
    if isinstance(message, wire.Delivered):
        if statuses[-1] == "pending":
            add_status(connection, run, message.version, "delivered", now, segment=segment)
        return None
    if isinstance(message, wire.Rejected):
        if statuses[-1] != "rejected":
            add_status(
                connection,
                run,
                message.version,
                "rejected",
                now,
                segment=segment,
                step=message.step,
                why=message.why,
            )
        return None
    repeated = select(control_events.c.id).where(
        control_events.c.run_id == run,
        control_events.c.version == message.version,
        control_events.c.status == "applied",
        control_events.c.segment == segment,
        control_events.c.step == message.step,
        control_events.c.stream.is_not_distinct_from(message.stream),
    )
    if connection.execute(repeated).first() is not None:
        return None
    add_status(
        connection,
        run,
        message.version,
        "applied",
        now,
        segment=segment,
        step=message.step,
        stream=message.stream,
    )
    values = _values(message.rules, row.match, row.stream)
    of_run = connection.execute(select(runs).where(runs.c.id == run)).one()
    rules = [coded for coded in coded_of(of_run, row.stream) if coded.match == row.match]
    name = rules[0].threshold if rules else None
    where = f" for {row.match}" if row.match is not None else ""
    again = " again" if "applied" in statuses else ""
    before, after = json.loads(row.before), json.loads(row.after)
    moves = ", ".join(
        f"{key} {before.get(key, math.nan):g} → {value:g}" for key, value in after.items()
    )
    return add_event(
        connection,
        run,
        now,
        kind="threshold",
        stream=message.stream,
        first_step=message.step,
        last_step=message.step,
        threshold=values.get(name) if name else None,
        text=f"{moves}{where}{again}, set by {row.author}"
        + (f": {row.reason}" if row.reason else ""),
    )


def expire(connection: Connection, run: str, now: float) -> None:
    """The run is over: what was not applied never will be."""
    for version, status in _latest(connection, run).items():
        if status in PENDING:
            add_status(connection, run, version, "expired", now, why="the run ended before")


def history(connection: Connection, run: str) -> list[dict[str, Any]]:
    """Every version, newest first, with the events that say what became of it."""
    told: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(
        select(control_events).where(control_events.c.run_id == run).order_by(control_events.c.id)
    ):
        told.setdefault(row.version, []).append(
            {"status": row.status, "step": row.step, "at": rfc3339(row.at), "why": row.why}
        )
    versions = connection.execute(
        select(control_versions)
        .where(control_versions.c.run_id == run)
        .order_by(control_versions.c.version.desc())
    )
    return [
        {
            "version": row.version,
            "author": row.author,
            "at": rfc3339(row.at),
            "match": row.match,
            "stream": row.stream,
            "from": json.loads(row.before),
            "to": json.loads(row.after),
            "reason": row.reason,
            "status": told[row.version][-1]["status"],
            "step": told[row.version][-1]["step"],
            "why": told[row.version][-1]["why"],
            "events": told[row.version],
        }
        for row in versions
    ]


def _statuses(connection: Connection, run: str, version: int) -> list[str]:
    return list(
        connection.scalars(
            select(control_events.c.status)
            .where(control_events.c.run_id == run, control_events.c.version == version)
            .order_by(control_events.c.id)
        )
    )


def _earlier(connection: Connection, run: str, request: Request) -> int | None:
    row = connection.execute(
        select(control_versions).where(
            control_versions.c.run_id == run, control_versions.c.idempotency_key == request.key
        )
    ).one_or_none()
    if row is None:
        return None
    after = json.loads(row.after)
    same = (
        all(after.get(name) == value for name, value in request.values.items())
        and (row.match, row.stream) == (request.match, request.stream)
        and row.reason == request.reason
    )
    if not same:
        raise ApiError(
            409, "key_reused", "this Idempotency-Key was used for another change of this run"
        )
    return int(row.version)


def _check(row: Row[Any], before: dict[str, float], request: Request) -> None:
    limits = _limits.decode(row.limits)
    if limits.why_not is not None:
        raise ApiError(422, "read_only", limits.why_not, shown_limits(row, own_of(row)))
    coded = rule_of(row, request.match, request.stream)
    details = shown_limits(row, coded)
    for name, value in request.values.items():
        limit = coded.limits.get(name)
        if limit is None:
            names = ", ".join(sorted(coded.limits)) or "nothing: it has no threshold"
            raise ApiError(
                422, "unknown_value", f"{name!r} cannot be set here; expected {names}", details
            )
        if not (math.isfinite(value) and limit.min <= value <= limit.max):
            raise ApiError(
                422,
                "out_of_range",
                f"{name} = {value:g} is outside {limit.min:g} to {limit.max:g}, the range that the "
                "training script allows",
                details,
            )
        old = before.get(name)
        if limits.factor and old and not old / limits.factor <= value <= old * limits.factor:
            raise ApiError(
                422,
                "too_far",
                f"{name} may change by a factor of at most {limits.factor:g} at once: "
                f"{old / limits.factor:g} to {old * limits.factor:g}",
                details,
            )


def _values(
    rules: tuple[wire.Rule, ...], match: str | None, stream: str | None
) -> dict[str, float]:
    mine = (match, stream)
    return next((dict(rule.values) for rule in rules if (rule.match, rule.stream) == mine), {})


def _as_json(rules: tuple[wire.Rule, ...]) -> dict[str, Any]:
    first = [rule for rule in rules if rule.stream is None and rule.match is not None]
    return {
        **_values(rules, None, None),
        "patterns": {rule.match: rule.values for rule in first},
    }
