"""Runs: how one begins, ends, and looks from outside.

A run's status is not stored but follows from what is: how it ended if its trainer said so, else
how long it has been silent. So a server that was away tells the truth the moment it is back.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from gradhelm import wire

from . import audit, lost
from .clock import rfc3339
from .control import newest
from .errors import ApiError
from .events import add_event
from .limits import own_of
from .roles import Identity
from .settings import ServerSettings
from .store import Commit
from .tables import columns, runs, segments

_RUN = select(runs).where(runs.c.id == bindparam("b_run"), runs.c.deleted_at.is_(None))
_HEARD = (
    update(runs)
    .where(runs.c.id == bindparam("b_run"))
    .values(last_heard_at=bindparam("b_now"), stats=bindparam("b_stats"))
)
STATUSES = ("live", "stale", "failed", "finished", "stopped")


class Patience(NamedTuple):
    """Seconds of silence after which a run is stale, and after which it has failed."""

    stale: float
    failed: float

    @classmethod
    def of(cls, settings: ServerSettings) -> Patience:
        return cls(settings.stale_after, settings.failed_after)


def check_reporter(connection: Connection, hello: wire.Hello, who: Identity) -> None:
    """Raises ApiError 403 for a token that may not report the run: one of another project, or, for
    a run that there is, of another owner than the one who began it."""
    known = connection.execute(
        select(runs.c.project, runs.c.owner).where(runs.c.id == hello.run)
    ).one_or_none()
    project = hello.project if known is None else known.project
    mine = known is None or known.owner == who.user or who.may("admin")
    if not mine or not who.may("ingest", project):
        what = f"runs of the project {project!r}" if known is None else "this run"
        raise ApiError(403, "forbidden", f"this token may not report {what}"[:120])


def begin(
    connection: Connection, hello: wire.Hello, who: Identity, now: float, *, replay: bool = False
) -> list[dict[str, Any]]:
    """Note that a trainer speaks for a run, in a segment that has a row from here on; returns the
    events that this is.

    ``replay``: it spoke then, and what it kept comes now. The run is as it is, and the segment
    takes its place among those that were begun before and after it.

    Raises ApiError 409 when the run exists and the trainer did not say that it resumes it, and 403
    as check_reporter() does.
    """
    check_reporter(connection, hello, who)
    known = connection.execute(select(runs).where(runs.c.id == hello.run)).one_or_none()
    started_again = (
        connection.scalar(
            select(segments.c.ordinal).where(
                segments.c.run_id == hello.run,
                segments.c.segment == hello.segment,
                segments.c.stream == "",
            )
        )
        is None
    )
    values: dict[str, Any] = {
        "limits": msgspec.json.encode(hello.limits).decode(),
        "last_heard_at": now,
        "ended": None,
        "ended_at": None,
        "ended_why": "",
    }
    then = min(now, hello.started) if replay and hello.started > 0 else now
    told: dict[str, Any] | None = None
    if known is None:
        values["last_heard_at"] = then
        connection.execute(
            insert(runs),
            {
                "id": hello.run,
                "name": hello.name,
                "project": hello.project,
                "owner": who.user,
                "config": _config(hello.config),
                "tags": json.dumps(hello.tags, ensure_ascii=False),
                "note": "",
                **_said_by_the_script(hello),
                "host": hello.host,
                "hook": hello.hook,
                "created_at": then,
                "steps": 0,
                "clipped": 0,
                "nonfinite": 0,
                "skipped": 0,
                "recent": "{}",
                "sparkline": b"",
                "stats": "{}",
                **values,
            },
        )
    elif replay:
        pass
    elif started_again and not hello.resume:
        raise ApiError(409, "run_is_taken", wire.CLOSE_REASONS[wire.CloseCode.RUN_IS_TAKEN])
    else:
        if started_again:  # perhaps with another threshold in its script
            values |= _said_by_the_script(hello)
        connection.execute(update(runs).where(runs.c.id == hello.run).values(**values))
        if known.ended is not None:
            told = add_event(connection, hello.run, now, kind="status", text="The run goes on")
        elif not started_again:
            lost.withdraw(connection, hello.run, hello.segment)
        elif (before := lost.newest(connection, hello.run)) is not None:
            told = lost.declare(connection, hello.run, before, now)
    events = [] if told is None else [told]
    if not started_again:
        return events
    mine = segments.c.run_id == hello.run
    ordinal = connection.scalar(
        select(func.count())
        .select_from(segments)
        .where(mine, segments.c.stream == "", segments.c.created_at <= then)
    )
    # By way of negative numbers: they are unique, and databases look at that row by row.
    later = segments.c.ordinal
    connection.execute(update(segments).where(mine, later >= ordinal).values(ordinal=-later - 2))
    connection.execute(update(segments).where(mine, later < 0).values(ordinal=-later - 1))
    connection.execute(
        insert(segments),
        [
            {
                "run_id": hello.run,
                "segment": hello.segment,
                "stream": stream,
                "ordinal": ordinal,
                "high_water": 0,
                "created_at": then,
            }
            for stream in ("", *hello.streams[1:])
        ],
    )
    return events


def heard(commit: Commit, run: str, now: float, stats: dict[str, float]) -> None:
    """The trainer is still there; ``stats`` is what it says of its own cost."""
    commit.later(_HEARD, {"b_run": run, "b_now": now, "b_stats": json.dumps(stats)})


def end(connection: Connection, run: str, message: wire.Finish, now: float) -> dict[str, Any]:
    """The trainer says that the run is over; returns the event."""
    connection.execute(
        update(runs)
        .where(runs.c.id == run)
        .values(ended=message.status, ended_at=now, ended_why=message.why, last_heard_at=now)
    )
    why = f": {message.why}" if message.why else ""
    return add_event(
        connection,
        run,
        now,
        kind="status",
        first_step=message.step,
        last_step=message.step,
        text=f"The run has {message.status}{why}",
    )


def get(connection: Connection, run: str, now: float, patience: Patience) -> dict[str, Any]:
    """One run as REST shows it. Raises ApiError 404."""
    return _shown(connection, find(connection, run), now, patience)


def find(connection: Connection, run: str) -> Row[Any]:
    """The row of a run that exists and was not deleted. Raises ApiError 404."""
    row = connection.execute(_RUN, {"b_run": run}).one_or_none()
    if row is None:
        raise ApiError(404, "not_found", there_is_none(run))
    return row


def there_is_none(run: str) -> str:
    """What is said of a run that does not exist, or of which somebody must not know."""
    return f"there is no run {run[:100]!r}"


def project_of(connection: Connection, run: str) -> str | None:
    """The project of a run, deleted or not; None when there is no such run."""
    return connection.scalar(select(runs.c.project).where(runs.c.id == run))


def stream_of(row: Row[Any], name: str | None) -> str:
    """The stream called ``name`` as the tables have it: "" for the run's first, also for None.

    Raises ApiError 422 for a name that the run does not have.
    """
    names = json.loads(row.streams)
    if name is None or names[:1] == [name]:
        return ""
    if name not in names:
        known = ", ".join(map(repr, names)) or "one optimizer, without a name"
        raise ApiError(422, "unknown_stream", f"stream: {name[:60]!r} is not of this run: {known}")
    return name


def extent(connection: Connection, row: Row[Any], stream: str) -> tuple[int | None, int | None]:
    """The first and the last step of a stream, None when there is none yet."""
    if not stream:
        return row.first_step, row.last_step
    found = connection.execute(
        select(func.min(segments.c.first_step), func.max(segments.c.last_step)).where(
            segments.c.run_id == row.id, segments.c.stream == stream
        )
    ).one()
    return found[0], found[1]


def counts(
    connection: Connection, now: float, patience: Patience, *where: ColumnElement[bool]
) -> dict[str, int]:
    """How many runs of each status there are (among those ``where``)."""
    there = (runs.c.deleted_at.is_(None), *where)
    return {
        name: connection.scalar(
            select(func.count()).select_from(runs).where(*there, _is(name, now, patience))
        )
        or 0
        for name in STATUSES
    }


def within(projects: frozenset[str] | None) -> list[ColumnElement[bool]]:
    """Only runs of these projects; None is all of them."""
    return [] if projects is None else [runs.c.project.in_(projects)]


class Page(NamedTuple):
    runs: list[dict[str, Any]]
    next_cursor: str | None
    counts: dict[str, int]


def listed(
    connection: Connection,
    now: float,
    patience: Patience,
    *,
    projects: frozenset[str] | None,
    project: str | None,
    status: str | None,
    words: str | None,
    limit: int,
    cursor: str | None,
    sparkline: bool,
) -> Page:
    """Runs, newest first, and how many of each status there are (whatever ``status`` asks for).

    ``projects``: those of which somebody may know; None is all.
    """
    where: list[ColumnElement[bool]] = [runs.c.deleted_at.is_(None), *within(projects)]
    if project is not None:
        where.append(runs.c.project == project)
    for word in (words or "").split():
        texts = (runs.c.name, runs.c.project, runs.c.note, runs.c.tags)
        inside = [text.icontains(word, autoescape=True) for text in texts]
        where.append(or_(*inside, runs.c.id.startswith(word, autoescape=True)))
    found = counts(connection, now, patience, *where)
    if status is not None:
        where.append(_is(status, now, patience))
    if cursor is not None:
        at, run = read_cursor(cursor, float, str)
        where.append(or_(runs.c.created_at < at, and_(runs.c.created_at == at, runs.c.id < run)))
    rows = connection.execute(
        select(runs)
        .where(*where)
        .order_by(runs.c.created_at.desc(), runs.c.id.desc())
        .limit(limit + 1)
    ).all()
    more = rows[limit:]
    shown = []
    for row in rows[:limit]:
        run_shown = _shown(connection, row, now, patience)
        if sparkline:
            run_shown["sparkline"] = [
                value if math.isfinite(value) else None
                for value in np.frombuffer(row.sparkline, "<f4").tolist()
            ]
        shown.append(run_shown)
    last = rows[limit - 1] if more else None
    return Page(shown, make_cursor(last.created_at, last.id) if last else None, found)


def change(
    connection: Connection, run: str, values: dict[str, Any], actor: str, now: float
) -> None:
    """Rename, tag or annotate. Raises ApiError 404."""
    find(connection, run)
    if values:
        connection.execute(update(runs).where(runs.c.id == run).values(**values))
        audit.append(connection, now, actor, "run changed", run, to=values)


def delete(connection: Connection, run: str, actor: str, now: float) -> None:
    """Hide a run. Raises ApiError 404."""
    found = find(connection, run)
    connection.execute(update(runs).where(runs.c.id == run).values(deleted_at=now))
    audit.append(connection, now, actor, "run deleted", run, name=found.name)


def restore(connection: Connection, run: str, actor: str, now: float) -> None:
    """Show a deleted run again. Raises ApiError 404, and 409 where there is nothing to take back."""
    found = connection.execute(
        select(runs.c.name, runs.c.deleted_at).where(runs.c.id == run)
    ).one_or_none()
    if found is None:
        raise ApiError(404, "not_found", there_is_none(run))
    if found.deleted_at is None:
        raise ApiError(409, "not_deleted", "the run was not deleted, or is back already")
    # A run has a segment from its first moment on, until it is removed for good.
    if connection.scalar(select(func.count()).where(segments.c.run_id == run)) == 0:
        raise ApiError(409, "removed", "the run was removed for good; its steps are gone")
    connection.execute(update(runs).where(runs.c.id == run).values(deleted_at=None))
    audit.append(connection, now, actor, "run restored", run, name=found.name)


def status_of(row: Row[Any], now: float, patience: Patience) -> str:
    if row.ended is not None:
        return str(row.ended)
    silent = now - row.last_heard_at
    if silent >= patience.failed:
        return "failed"
    return "stale" if silent >= patience.stale else "live"


def all_columns(connection: Connection, run: str) -> list[dict[str, Any]]:
    """The run's columns in the order of declaration."""
    found = connection.execute(
        select(columns).where(columns.c.run_id == run).order_by(columns.c.idx)
    )
    return [show_column(row.idx, row.name, row.kind) for row in found]


def show_column(index: int, name: str, kind: str) -> dict[str, Any]:
    """A column as REST and the live socket show it."""
    return {"index": index, "name": name, "kind": kind}


def parameters(connection: Connection, run: str, stream: str = "") -> list[dict[str, Any]]:
    """A stream's parameters in the order of declaration: the rows of its heatmap."""
    prefix = f"{stream}/norm/" if stream else "norm/"
    found = connection.execute(
        select(columns)
        .where(
            columns.c.run_id == run,
            columns.c.kind == "norm",
            columns.c.name.startswith(prefix, autoescape=True),
        )
        .order_by(columns.c.idx)
    )
    shown = []
    for index, row in enumerate(found):
        shape = json.loads(row.shape)
        shown.append(
            {
                "index": index,
                "name": row.name.removeprefix(prefix),
                "shape": shape,
                "numel": math.prod(shape),
                "dtype": row.dtype,
                "column": row.name,
                "column_index": row.idx,
            }
        )
    return shown


def make_cursor(*parts: float | int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def read_cursor(cursor: str, *kinds: type) -> list[Any]:
    """What ``make_cursor`` put in. Raises ApiError 422 for anything else."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if [type(part) for part in parts] != list(kinds):
            raise ValueError
        if not all(abs(part) < 2**63 for part in parts if not isinstance(part, str)):
            raise ValueError  # nor is NaN a number that a database could compare with
    except (ValueError, TypeError, RecursionError):
        raise ApiError(422, "bad_cursor", "cursor: expected a next_cursor of this list") from None
    return list(parts)


def _is(status: str, now: float, patience: Patience) -> ColumnElement[bool]:
    stale, failed = now - patience.stale, now - patience.failed
    silent_for = runs.c.last_heard_at
    if status == "live":
        return and_(runs.c.ended.is_(None), silent_for > stale)
    if status == "stale":
        return and_(runs.c.ended.is_(None), silent_for <= stale, silent_for > failed)
    if status == "failed":
        return or_(runs.c.ended == "failed", and_(runs.c.ended.is_(None), silent_for <= failed))
    return runs.c.ended == status


def _shown(connection: Connection, row: Row[Any], now: float, patience: Patience) -> dict[str, Any]:
    status = status_of(row, now, patience)
    config = json.loads(row.config)
    recent = json.loads(row.recent)
    total = config.get("total_steps")
    control = newest(connection, row.id)
    counted = row.steps - row.skipped
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "status": status,
        "status_reason": _reason(row, status),
        "config": config,
        "tags": json.loads(row.tags),
        "note": row.note,
        "strategy": row.strategy,
        "threshold_name": row.threshold_name,
        "threshold": row.threshold,
        "coded": own_of(row).values,
        "streams": _streams(connection, row),
        "first_step": row.first_step,
        "last_step": row.last_step,
        "steps": row.steps,
        "total_steps": total if isinstance(total, int) and total > 0 else None,
        "clip_fraction": row.clipped / counted if counted else None,
        "recent": recent,
        "nonfinite": row.nonfinite,
        "skipped": row.skipped,
        "global_norm": recent.get("global_norm"),
        "norm_finite": recent.get("global_norm") is not None or not recent,
        "steps_per_second": recent.get("steps_per_second") if status == "live" else None,
        "created_at": rfc3339(row.created_at),
        "last_heard_at": rfc3339(row.last_heard_at),
        "finished_at": rfc3339(row.ended_at),
        "control": {
            "version": 0 if control is None else control.version,
            "status": "applied" if control is None else control.status,
        },
        "host": row.host,
        "hook": row.hook,
        "stats": json.loads(row.stats),
    }


def _streams(connection: Connection, row: Row[Any]) -> list[dict[str, Any]]:
    """The optimizers of a run that has several, the first first, with the steps of each."""
    shown = []
    for number, name in enumerate(json.loads(row.streams)):
        first, last = extent(connection, row, name if number else "")
        shown.append({"name": name, "first_step": first, "last_step": last})
    return shown


def _reason(row: Row[Any], status: str) -> str | None:
    if row.ended is not None:
        return row.ended_why or None
    if status in ("stale", "failed"):
        return f"silent; last heard at {rfc3339(row.last_heard_at)}"
    return None


def _config(text: str) -> str:
    """The config if it is a JSON object that every reader can take, else an empty one."""
    try:
        return json.dumps(msgspec.json.decode(text, type=dict[str, Any]))
    except (msgspec.DecodeError, RecursionError, ValueError):  # an integer of thousands of digits
        return "{}"


def _said_by_the_script(hello: wire.Hello) -> dict[str, Any]:
    first = [coded for coded in hello.coded if coded.stream is None]
    own = first[0] if len(first) == 1 else None  # by patterns there is not one threshold
    name = own.threshold if own is not None else None
    return {
        "strategy": ", ".join(dict.fromkeys(coded.strategy for coded in first)),
        "threshold_name": name,
        "threshold": own.values.get(name) if own is not None and name is not None else None,
        "coded": msgspec.json.encode(hello.coded).decode(),
        "streams": json.dumps(hello.streams),
    }
