"""The desired control document of a run: immutable versions, and what became of each.

Versioned desired state, not a queue of commands: a version replaces one rule of the whole
document, at most one writer wins each version, and what the trainer says of it is appended as
events. What is temporary or on trial is taken back by the trainer, which says so; roll-back is a new
version.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, ScalarSelect, func, insert, select

from gradhelm import wire

from . import audit
from .clock import rfc3339
from .errors import ApiError
from .events import add_event
from .limits import (
    check_lr_factor,
    check_open,
    check_stop,
    check_values,
    coded_of,
    every_coded,
    limits_of,
    own_of,
    shown_limits,
)
from .tables import control_events, control_versions, runs, segments

PENDING = ("pending", "delivered")
Report = wire.Applied | wire.Delivered | wire.Rejected | wire.Reverted
_rules = msgspec.json.Decoder(tuple[wire.Rule, ...])
_revert_if = msgspec.json.Decoder(wire.RevertIf)


@dataclass(frozen=True, slots=True)
class Request:
    """One change as asked for: the values of the rule keyed by ``match`` and ``stream``, what the
    learning rates are multiplied by, a stop, or the whole document of an earlier version; with the
    conditions under which it is in force. None: as it is."""

    values: dict[str, float]
    match: str | None
    stream: str | None
    reason: str
    author: str
    expected: int
    key: str | None = None
    lr_factor: float | None = None
    stop: bool | None = None
    roll_back_to: int | None = None
    not_before: int | None = None
    ttl_steps: int | None = None
    revert_if: wire.RevertIf | None = None


def pack_rules(rules: tuple[wire.Rule, ...]) -> str:
    return msgspec.json.encode(rules).decode()


def desired(connection: Connection, run: str) -> wire.Change:
    """The newest version that was not refused or taken back, as the trainer is to be told of it.

    Version 0 is what the training script says.
    """
    latest = _latest(connection, run)
    wanted = [version for version, status in latest.items() if status in (*PENDING, "applied")]
    document = _document(connection, run, max(wanted, default=0))
    version = document.version
    row = _row(connection, run, version)
    change = wire.Change(version, document.rules, lr_factor=document.lr_factor)
    if row is None:
        return change
    trial = None if row.revert_if is None else _revert_if.decode(row.revert_if)
    if latest[version] in PENDING:
        return msgspec.structs.replace(
            change,
            stream=row.stream,
            not_before=row.not_before,
            ttl_steps=row.ttl_steps,
            revert_if=trial,
            stop=bool(row.stop),
        )
    # A trainer that was started again gets what another had: its time goes on, a trial that it
    # stood is over, and a stop that was obeyed is.
    first = _first_step(connection, run, version)
    if trial is not None and _has_stood(connection, run, row.stream, first + trial.within):
        trial = None
    if trial is None and row.ttl_steps is None:
        return change
    below = _document(connection, run, _below(latest, version))
    return msgspec.structs.replace(
        change,
        stream=row.stream,
        ttl_steps=row.ttl_steps,
        until=None if row.ttl_steps is None else min(first + row.ttl_steps, wire.MAX_STEP),
        revert_if=trial,
        back=below if below.version else None,
    )


def in_force(connection: Connection, run: str) -> tuple[wire.Document, Row[Any] | None]:
    """What the trainer of today last said that it has in force, and the event (None: as coded).

    Of today: one that was started again begins with what its script says.
    """
    events = control_events
    event = connection.execute(
        select(events)
        .where(
            events.c.run_id == run,
            events.c.status.in_(("applied", "reverted")),
            events.c.segment == _today(run),
        )
        .order_by(events.c.id.desc())
        .limit(1)
    ).one_or_none()
    version = 0
    if event is not None:
        reverted = event.status == "reverted"
        version = _below(_latest(connection, run), event.version) if reverted else event.version
    return _document(connection, run, version), event


def _today(run: str) -> ScalarSelect[Any]:
    """The segment of the run's newest trainer."""
    return (
        select(segments.c.segment)
        .where(segments.c.run_id == run, segments.c.stream == "")
        .order_by(segments.c.ordinal.desc())
        .limit(1)
        .scalar_subquery()
    )


def _is_stopped(connection: Connection, run: str) -> bool:
    """Whether the trainer of today has obeyed a stop, which nothing takes back."""
    events, versions = control_events, control_versions
    found = (
        select(events.c.id)
        .join(
            versions,
            (versions.c.run_id == events.c.run_id) & (versions.c.version == events.c.version),
        )
        .where(
            events.c.run_id == run,
            events.c.status == "applied",
            events.c.segment == _today(run),
            versions.c.stop.is_(True),
        )
    )
    return connection.execute(found.limit(1)).first() is not None


def _below(latest: dict[int, str], version: int) -> int:
    """The version that ``version``, which is taken back, gives way to."""
    return max((v for v, s in latest.items() if v < version and s == "applied"), default=0)


def _first_step(connection: Connection, run: str, version: int) -> int:
    """The step at which ``version`` took hold first."""
    events = control_events
    found = connection.scalar(
        select(events.c.step)
        .where(events.c.run_id == run, events.c.version == version, events.c.status == "applied")
        .order_by(events.c.id)
        .limit(1)
    )
    assert found is not None, f"version {version} was never applied"
    return int(found)


def _has_stood(connection: Connection, run: str, stream: str | None, end: int) -> bool:
    """Whether steps were taken beyond a trial's window, and the trainer let the version stand."""
    newest = connection.scalar(
        select(func.max(segments.c.last_step)).where(
            segments.c.run_id == run, segments.c.stream == (stream or "")
        )
    )
    return newest is not None and newest >= end


def _row(connection: Connection, run: str, version: int) -> Row[Any] | None:
    return connection.execute(
        select(control_versions).where(
            control_versions.c.run_id == run, control_versions.c.version == version
        )
    ).one_or_none()


def _document(connection: Connection, run: str, version: int) -> wire.Document:
    row = _row(connection, run, version)
    if row is None:  # version 0
        of_run = connection.execute(select(runs).where(runs.c.id == run)).one()
        coded = every_coded(of_run)
        return wire.Document(0, tuple(wire.Rule(c.values, c.match, c.stream) for c in coded))
    factor = 1.0 if row.lr_factor is None else row.lr_factor
    return wire.Document(version, _rules.decode(row.rules), factor)


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
    wanted = _document(connection, run, 0 if latest is None else latest.version)
    version = _row(connection, run, wanted.version)
    applied, event = in_force(connection, run)
    own = own_of(row)
    limits = limits_of(row)
    stopped = _is_stopped(connection, run)
    return {
        "version": wanted.version,
        "desired": _as_json(wanted.rules),
        "lr_factor": wanted.lr_factor,
        "stop": stopped or (version is not None and bool(version.stop)),
        **_conditions(version),
        "status": latest.status if latest is not None else "applied",
        "why": latest.why if latest is not None else None,
        "step": latest.step if latest is not None else None,
        "stream": latest.stream if latest is not None else None,
        "applied": {
            "version": applied.version,
            "step": event.step if event is not None else None,
            "at": rfc3339(event.at if event is not None else row.created_at),
            "values": _values(applied.rules, None, None),
            "lr_factor": applied.lr_factor,
            "stop": stopped,
            "until": _until(connection, run, applied.version, event),
        },
        **shown_limits(row, own),
        "may": {"lr_factor": limits.lr, "stop": limits.stop},
        "read_only": limits.why_not is not None,
        "why_read_only": limits.why_not,
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
            for coded in every_coded(row)
        ],
    }


def _conditions(row: Row[Any] | None) -> dict[str, Any]:
    """Under which conditions a version was to be in force, as REST takes them."""
    return {
        "not_before_step": None if row is None else row.not_before,
        "ttl_steps": None if row is None else row.ttl_steps,
        "revert_if": None if row is None or row.revert_if is None else json.loads(row.revert_if),
    }


def _until(connection: Connection, run: str, version: int, event: Row[Any] | None) -> int | None:
    """The first step without the version that is in force for a time, None for one that stays."""
    row = _row(connection, run, version)
    if row is None or row.ttl_steps is None or event is None or event.status != "applied":
        return None
    return _first_step(connection, run, version) + int(row.ttl_steps)


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
    check_open(row)
    # A change is based on what waits to be applied, if anything does, else on what is in force:
    # never on what the trainer refused or took back, nor on what waits to be so for a time only.
    waiting = [version for version, status in latest.items() if status in PENDING]
    before = _row(connection, run, current) if current in waiting else None
    if before is None or any(value is not None for value in _conditions(before).values()):
        base = in_force(connection, run)[0]
    else:
        base = _document(connection, run, current)
    after = _wanted(connection, row, base, request)
    stop = _stop(connection, row, bool(before is not None and before.stop), request)
    match, stream = _rule_changed(base, after, request)
    whole = request.roll_back_to is not None or bool(request.values)
    was = _values(base.rules, match, stream) if whole else {}
    now_is = _values(after.rules, match, stream) if whole else {}
    if after.lr_factor != base.lr_factor or request.lr_factor is not None:
        was["lr_factor"], now_is["lr_factor"] = base.lr_factor, after.lr_factor
    trial = request.revert_if
    connection.execute(
        insert(control_versions),
        {
            "run_id": run,
            "version": after.version,
            "rules": pack_rules(after.rules),
            "match": match,
            "stream": stream,
            "before": json.dumps(was),
            "after": json.dumps(now_is),
            "author": request.author,
            "reason": request.reason,
            "at": now,
            "idempotency_key": request.key,
            "ttl_steps": request.ttl_steps,
            "not_before": request.not_before,
            "revert_if": None if trial is None else msgspec.json.encode(trial).decode(),
            "lr_factor": after.lr_factor,
            "stop": stop,
            "rolled_back_to": request.roll_back_to,
        },
    )
    audit.append(
        connection,
        now,
        request.author,
        "control",
        run,
        version=after.version,
        match=match,
        stream=stream,
        reason=request.reason,
        ttl_steps=request.ttl_steps,
        not_before=request.not_before,
        revert_if=None if trial is None else msgspec.to_builtins(trial),
        stop=stop,
        rolled_back_to=request.roll_back_to,
        **{"from": was, "to": now_is},
    )
    for older in waiting:
        add_status(connection, run, older, "superseded", now)
    add_status(connection, run, after.version, "pending", now)
    return after.version


def _wanted(
    connection: Connection, row: Row[Any], base: wire.Document, request: Request
) -> wire.Document:
    """The whole document that is asked for. Raises ApiError 422 when the limits do not allow it."""
    run, version = row.id, request.expected + 1
    if request.roll_back_to is not None:
        if request.roll_back_to > request.expected:
            raise ApiError(
                422,
                "unknown_version",
                f"roll_back_to: there is no version {request.roll_back_to}; "
                f"expected 0 (as coded) to {request.expected}",
            )
        earlier = _document(connection, run, request.roll_back_to)
        for rule in earlier.rules:
            before = _values(base.rules, rule.match, rule.stream)
            moved = {n: v for n, v in rule.values.items() if before.get(n) != v}
            check_values(row, before, moved, rule.match, rule.stream)
        if earlier.lr_factor != base.lr_factor:
            check_lr_factor(row, base.lr_factor, earlier.lr_factor)
        return wire.Document(version, earlier.rules, earlier.lr_factor)
    factor = base.lr_factor if request.lr_factor is None else request.lr_factor
    if request.lr_factor is not None:
        check_lr_factor(row, base.lr_factor, factor)
    if not request.values:
        return wire.Document(version, base.rules, factor)
    before = _values(base.rules, request.match, request.stream)
    check_values(row, before, request.values, request.match, request.stream)
    mine = (request.match, request.stream)
    rules = (
        *(rule for rule in base.rules if (rule.match, rule.stream) != mine),
        wire.Rule(before | request.values, request.match, request.stream),
    )
    return wire.Document(version, rules, factor)


def _stop(connection: Connection, row: Row[Any], waits: bool, request: Request) -> bool:
    """Whether the version says stop; ``waits``: whether the one that it replaces does.

    Raises ApiError 422 for a stop that is not allowed, or taken back too late.
    """
    if request.stop is None:
        return waits
    if request.stop:
        check_stop(row)
    elif _is_stopped(connection, row.id):
        raise ApiError(
            422,
            "stopped",
            "stop: the trainer has taken it up already, and it cannot be taken back; expected true "
            "or nothing",
        )
    return request.stop


def _rule_changed(
    base: wire.Document, after: wire.Document, request: Request
) -> tuple[str | None, str | None]:
    """The rule that a version changes; of a roll-back the first one that it does."""
    if request.roll_back_to is not None:
        for rule in (*after.rules, *base.rules):
            key = (rule.match, rule.stream)
            if _values(base.rules, *key) != _values(after.rules, *key):
                return key
    return request.match, request.stream


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
    actor = "server" if segment is None else "trainer"
    told = {"version": version, "status": status, "step": step, "why": why}
    audit.append(connection, now, actor, "control status", run, **told)


def report(
    connection: Connection,
    run: str,
    segment: str,
    message: Report,
    now: float,
) -> dict[str, Any] | None:
    """Take down what the trainer says of a version; returns the event that this makes, if any.

    Reports about versions that were never made, or that repeat what is known, change nothing.
    """
    row = _row(connection, run, message.version)
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
    status = "applied" if isinstance(message, wire.Applied) else "reverted"
    repeated = select(control_events.c.id).where(
        control_events.c.run_id == run,
        control_events.c.version == message.version,
        control_events.c.status == status,
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
        status,
        now,
        segment=segment,
        step=message.step,
        stream=message.stream,
        why=message.why if isinstance(message, wire.Reverted) else None,
    )
    if isinstance(message, wire.Applied) and message.back is not None:
        _pass_over(connection, run, message.back, message.version, now)
    of_run = connection.execute(select(runs).where(runs.c.id == run)).one()
    rules = [coded for coded in coded_of(of_run, row.stream) if coded.match == row.match]
    values = _values(message.rules, row.match, row.stream)
    name = rules[0].threshold if rules else None
    return add_event(
        connection,
        run,
        now,
        kind="threshold",
        stream=message.stream,
        first_step=message.step,
        last_step=message.step,
        threshold=values.get(name) if name else None,
        text=_applied_text(row, again="applied" in statuses)
        if isinstance(message, wire.Applied)
        else _reverted_text(row, values, in_force(connection, run)[0], message.why),
    )


def _pass_over(connection: Connection, run: str, back: int, version: int, now: float) -> None:
    """What was temporary when ``version`` took hold is nothing that anybody goes back to."""
    for older, status in _latest(connection, run).items():
        if back < older < version and status == "applied":
            add_status(
                connection, run, older, "superseded", now, why=f"version {version} replaced it"
            )


def _applied_text(row: Row[Any], *, again: bool) -> str:
    before, after = json.loads(row.before), json.loads(row.after)
    moves = [f"{key} {before.get(key, math.nan):g} → {value:g}" for key, value in after.items()]
    moves += [f"{key} {value:g} → none" for key, value in before.items() if key not in after]
    text = ", ".join(moves) + (f" for {row.match}" if row.match is not None else "")
    if row.rolled_back_to is not None:
        text = f"back to version {row.rolled_back_to}" + (f": {text}" if text else "")
    if row.stop:
        text = f"{text}, and the run is asked to stop" if text else "the run is asked to stop"
    if row.ttl_steps is not None:
        text += f" for {row.ttl_steps} steps"
    return f"{text}{' again' if again else ''}, set by {row.author}" + (
        f": {row.reason}" if row.reason else ""
    )


def _reverted_text(row: Row[Any], values: dict[str, float], now: wire.Document, why: str) -> str:
    after = json.loads(row.after)
    back = values | {"lr_factor": now.lr_factor}
    moves = ", ".join(
        f"{key} {value:g} → {back.get(key, math.nan):g}" for key, value in after.items()
    )
    where = f" for {row.match}" if row.match is not None else ""
    return f"{moves}{where}, version {row.version} was taken back: {why}"


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
            "stop": bool(row.stop),
            "rolled_back_to": row.rolled_back_to,
            "document": {
                "rules": [
                    {"match": rule.match, "stream": rule.stream, "values": rule.values}
                    for rule in _rules.decode(row.rules)
                ],
                "lr_factor": 1.0 if row.lr_factor is None else row.lr_factor,
            },
            **_conditions(row),
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
    trial = None if row.revert_if is None else _revert_if.decode(row.revert_if)
    same = (
        all(after.get(name) == value for name, value in request.values.items())
        and (request.roll_back_to is not None or (row.match, row.stream) == _key(request))
        and (request.lr_factor is None or row.lr_factor == request.lr_factor)
        and (request.stop is None or row.stop == request.stop)
        and row.reason == request.reason
        and (row.ttl_steps, row.not_before, trial, row.rolled_back_to)
        == (request.ttl_steps, request.not_before, request.revert_if, request.roll_back_to)
    )
    if not same:
        raise ApiError(
            409, "key_reused", "this Idempotency-Key was used for another change of this run"
        )
    return int(row.version)


def _key(request: Request) -> tuple[str | None, str | None]:
    return request.match, request.stream


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
