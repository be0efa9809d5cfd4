"""What one segment's frames do to the database: inbox rows, counters, events, high water.

Law: all of it happens in one transaction, and nothing is counted twice. A recorder lives in the
writer thread; after a failed write it is thrown away and loaded again from what is stored. What
takes time is done once for all frames that come together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from gradhelm import wire
from gradhelm.errors import WireError

from . import tables
from .detect import Detector, Event, Observed
from .events import add_event_later
from .matrix import Indices, Reader, Stretch, column_names, pack_payload
from .store import Commit
from .tiles import blocks, steps_of

RECENT = 500
"""Steps that the figures "of late" are about."""
SPARKLINE = 60
SCALARS = ("global_norm", "threshold", "clipped", "nonfinite", "skipped")


# What every frame does, made once: putting the words together takes as long as what they say.
_of = (
    tables.segments.c.run_id == bindparam("b_run"),
    tables.segments.c.segment == bindparam("b_segment"),
    tables.segments.c.stream == bindparam("b_stream"),
)
# Finds no row where a commit before this one failed: what is remembered was then never stored.
_ADVANCE: Final = (
    update(tables.segments)
    .where(*_of, tables.segments.c.high_water == bindparam("b_before"))
    .values(high_water=bindparam("b_high_water"))
)
_REACH: Final = (
    update(tables.segments)
    .where(*_of)
    .values(first_step=bindparam("b_first"), last_step=bindparam("b_last"))
)
_runs = tables.runs.c
_COUNT: Final = (
    update(tables.runs)
    .where(_runs.id == bindparam("b_run"))
    .values(
        first_step=func.coalesce(_runs.first_step, bindparam("b_first")),
        last_step=bindparam("b_last"),
        steps=_runs.steps + bindparam("b_steps"),
        clipped=_runs.clipped + bindparam("b_clipped"),
        nonfinite=_runs.nonfinite + bindparam("b_nonfinite"),
        skipped=_runs.skipped + bindparam("b_skipped"),
        recent=bindparam("b_recent"),
        sparkline=bindparam("b_sparkline"),
        last_heard_at=bindparam("b_now"),
        threshold=func.coalesce(bindparam("b_threshold"), _runs.threshold),
    )
)
# The same of records that come after their time: the run may have gone on since.
_newest = func.coalesce(_runs.last_step, -1) <= bindparam("b_last")
_COUNT_KEPT: Final = (
    update(tables.runs)
    .where(_runs.id == bindparam("b_run"))
    .values(
        first_step=case(
            (
                func.coalesce(_runs.first_step, bindparam("b_first")) < bindparam("b_first"),
                _runs.first_step,
            ),
            else_=bindparam("b_first"),
        ),
        last_step=case((_newest, bindparam("b_last")), else_=_runs.last_step),
        steps=_runs.steps + bindparam("b_steps"),
        clipped=_runs.clipped + bindparam("b_clipped"),
        nonfinite=_runs.nonfinite + bindparam("b_nonfinite"),
        skipped=_runs.skipped + bindparam("b_skipped"),
        recent=case((_newest, bindparam("b_recent")), else_=_runs.recent),
        sparkline=case((_newest, bindparam("b_sparkline")), else_=_runs.sparkline),
        last_heard_at=case(
            (_runs.last_heard_at < bindparam("b_now"), bindparam("b_now")),
            else_=_runs.last_heard_at,
        ),
        threshold=case(
            (_newest, func.coalesce(bindparam("b_threshold"), _runs.threshold)),
            else_=_runs.threshold,
        ),
    )
)
_INSERT: Final = insert(tables.frames)
_GROW: Final = (
    update(tables.events)
    .where(tables.events.c.id == bindparam("b_id"))
    .values(
        last_step=bindparam("b_last_step"),
        first_step=bindparam("b_first_step"),
        count=bindparam("b_count"),
        peak_step=bindparam("b_peak_step"),
        peak_norm=bindparam("b_peak_norm"),
        threshold=bindparam("b_threshold"),
        parameter=bindparam("b_parameter"),
        text=bindparam("b_text"),
        at=bindparam("b_at"),
    )
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one frame or gap; a stored frame's row holds ``columns`` of the run.

    ``full``: with this frame the inbox of its layout holds enough for a tile.
    """

    seq: int
    layout: int | None = None
    columns: tuple[int, ...] = ()
    refused: str | None = None
    events: tuple[dict[str, Any], ...] = ()
    full: bool = False


@dataclass(slots=True)
class _Group:
    """A column group of this segment: its layout in the run, once it is complete."""

    names: list[str]
    kinds: list[str]
    indices: list[int]
    stream: str = ""
    layout: int | None = None
    last_step: int = -1
    waiting: int = 0
    """Steps that came since the inbox was last full."""
    _norms: tuple[int, Indices, list[str]] | None = None

    def norms(self, prefix: str) -> tuple[Indices, list[str]]:
        """Where the norms of parameters are in a row, and whose they are."""
        if self._norms is None or self._norms[0] != len(self.names):
            at = [place for place, kind in enumerate(self.kinds) if kind == "norm"]
            names = [self.names[place].removeprefix(f"{prefix}norm/") for place in at]
            self._norms = len(self.names), np.array(at, np.intp), names
        return self._norms[1:]


_TOLD: Final = ("steps", "times", "global_norm", "clipped", "nonfinite")


class _Track:
    """What was seen of one stream's steps in this segment."""

    def __init__(self, stream: str, first_step: int | None, last_step: int | None) -> None:
        self.stream = stream
        self.first_step = first_step
        self.last_step = last_step
        self.detector = Detector()
        # The newest steps, [_TOLD, step].
        self.recent = np.empty((len(_TOLD), 0))

    @property
    def prefix(self) -> str:
        return f"{self.stream}/" if self.stream else ""

    def remember(self, *told: Any) -> None:
        """The newest steps, in the order of _TOLD."""
        self.recent = np.concatenate((self.recent, np.array(told, np.float64)), 1)[:, -RECENT:]

    def figures(self) -> dict[str, Any]:
        """The newest steps in figures; ``global_norm`` None where the newest is not finite."""
        steps, times, norms, clips, bad = self.recent
        finite = norms[np.isfinite(norms)]
        late = max(0, len(steps) - 50)
        span, taken = float(times[-1] - times[late]), float(steps[-1] - steps[late])
        pace = taken / span if span > 0 else math.nan  # two times may be all but the same
        clipped = int(np.count_nonzero(clips > 0))
        return {
            "steps": len(steps),
            "clipped": clipped,
            "clip_fraction": clipped / len(steps),
            "nonfinite": int(np.count_nonzero(bad > 0)),
            "mean_norm": float(finite.mean()) if len(finite) else None,
            "global_norm": float(norms[-1]) if np.isfinite(norms[-1]) else None,
            "steps_per_second": pace if math.isfinite(pace) else None,
        }

    def sparkline(self) -> bytes:
        """The recent norms as at most SPARKLINE maxima, so that no spike is thinned away."""
        norms = self.recent[_TOLD.index("global_norm")].astype(np.float32)
        count = min(SPARKLINE, len(norms))
        starts = np.arange(count) * len(norms) // max(1, count)
        return np.maximum.reduceat(norms, starts).astype("<f4").tobytes()


@dataclass(slots=True)
class _Taken:
    """The frames of one group that come together."""

    steps: list[wire.StepArray] = field(default_factory=list)
    times: list[wire.TimeArray] = field(default_factory=list)
    values: list[wire.FloatArray] = field(default_factory=list)


class Recorder:
    """Appends to one segment of one run. Made by ``load``, in the writer thread."""

    def __init__(self, run: str, segment: str, high_water: int, *, replay: bool) -> None:
        self.replay = replay
        self.run = run
        self.segment = segment
        self.high_water = high_water
        self.groups: dict[int, _Group] = {}
        self.tracks: dict[str, _Track] = {}

    @classmethod
    def load(
        cls, connection: Connection, run: str, segment: str, *, replay: bool = False
    ) -> Recorder:
        """The recorder of a segment as it is stored; the segment's row must exist.

        ``replay``: the records come after their time.
        """
        table = tables.segments
        rows = connection.execute(
            select(table).where(table.c.run_id == run, table.c.segment == segment)
        ).all()
        high_water = next(row.high_water for row in rows if not row.stream)
        recorder = cls(run, segment, high_water, replay=replay)
        for row in rows:
            track = _Track(row.stream, row.first_step, row.last_step)
            recorder.tracks[row.stream] = track
            if row.last_step is not None:
                recorder._resume(connection, track, row.first_step, row.last_step)
        return recorder

    # -- columns ----------------------------------------------------------------------------------

    def declare(self, connection: Connection, message: wire.Columns) -> list[dict[str, Any]]:
        """Take note of a group's columns; returns those that are new to the run.

        Raises WireError when they contradict what was declared before or are too many.
        """
        stream = message.stream or ""
        if stream not in self.tracks:
            raise WireError(f"stream {stream!r} was not named in the hello")
        group = self.groups.get(message.group) or _Group([], [], [], stream)
        if group.stream != stream:
            raise WireError(f"group {message.group} was declared for another stream before")
        known = len(group.names)
        names = [column.name for column in message.columns]
        if message.first > known:
            raise WireError(f"columns from {message.first} on, but {known} are declared so far")
        overlap = group.names[message.first : message.first + len(names)]
        if overlap != names[: len(overlap)]:
            raise WireError(f"group {message.group} was declared with other columns before")
        fresh = message.columns[len(overlap) :]
        if not fresh:
            return []
        if group.layout is not None:
            raise WireError(f"group {message.group} has frames already; open another group")
        if len(group.names) + len(fresh) > wire.MAX_GROUP:
            raise WireError(f"more than {wire.MAX_GROUP} columns in group {message.group}")
        if len({*group.names, *(c.name for c in fresh)}) < len(group.names) + len(fresh):
            raise WireError(f"a column name stands twice in group {message.group}")
        if sum(len(g.names) for g in self.groups.values()) + len(fresh) > wire.MAX_COLUMNS:
            raise WireError(f"more than {wire.MAX_COLUMNS} columns in all groups together")
        existing = column_names(connection, self.run)
        added: list[dict[str, Any]] = [
            {
                "run_id": self.run,
                "idx": index,
                "name": column.name,
                "kind": column.kind,
                "shape": json.dumps(column.shape),
                "dtype": column.dtype,
            }
            for index, column in enumerate(
                (c for c in fresh if c.name not in existing), start=len(existing)
            )
        ]
        if len(existing) + len(added) > wire.MAX_COLUMNS:
            raise WireError(f"a run has at most {wire.MAX_COLUMNS} columns")
        if added:
            connection.execute(insert(tables.columns), added)
            existing.update((row["name"], row["idx"]) for row in added)
        self.groups[message.group] = group
        group.names += [column.name for column in fresh]
        group.kinds += [column.kind for column in fresh]
        group.indices += [existing[column.name] for column in fresh]
        return added

    # -- frames and gaps --------------------------------------------------------------------------

    def append(
        self, commit: Commit, messages: Sequence[wire.Frame | wire.Gap], now: float
    ) -> list[Recorded]:
        """Store frames and gaps, numbered from the high-water mark on, and say what became of each.

        A frame that cannot be stored is declared missing.
        """
        recorded: list[Recorded] = []
        taken: dict[int, _Taken] = {}
        for message in messages:
            if isinstance(message, wire.Gap) and not message.count:
                recorded.append(Recorded(message.seq))
                continue
            if isinstance(message, wire.Gap) and message.first > message.last:
                reason = f"a gap from step {message.first} to {message.last} ends before it begins"
                event = self._gap_event(commit, None, None, message.count, reason, now)
                recorded.append(Recorded(message.seq, refused=reason, events=(event,)))
                continue
            if isinstance(message, wire.Gap):
                event = self._gap_event(
                    commit, message.first, message.last, message.count, message.reason, now
                )
                recorded.append(Recorded(message.seq, events=(event,)))
                continue
            try:
                recorded.append(self._take(commit, message, taken))
            except WireError as error:
                reason = f"frame refused: {error}"
                event = self._gap_event(commit, None, None, 1, reason, now)
                recorded.append(Recorded(message.seq, refused=str(error), events=(event,)))
        self._advance(commit, messages[-1].seq)
        events: list[dict[str, Any]] = []
        for number, frames in taken.items():
            group = self.groups[number]
            if number == min(n for n, g in self.groups.items() if g.stream == group.stream):
                # The clip's own rows alone say which steps a segment holds: a scalar may be logged
                # before the first of them, and would else hide what an older segment has there.
                events += self._observe(commit, group, frames, now)
        if events:
            last = recorded[-1]
            recorded[-1] = replace(last, events=(*last.events, *events))
        return recorded

    def _take(self, commit: Commit, frame: wire.Frame, taken: dict[int, _Taken]) -> Recorded:
        """One frame: its row, and its arrays for what is done with all at once."""
        group = self.groups.get(frame.group)
        if group is None or not group.names:
            raise WireError(f"group {frame.group} was not declared")
        steps, times, values = wire.unpack_frame(frame, len(group.names))
        layout = self._opened(commit, group)
        logged = group.kinds[0] == "log"
        # A scalar logged late belongs to a step that was sent already.
        if int(steps[0]) < group.last_step + (0 if logged else 1):
            raise WireError(
                f"step {int(steps[0])} comes after step {group.last_step} in this segment"
            )
        commit.later(
            _INSERT,
            {
                "run_id": self.run,
                "segment": self.segment,
                "seq": frame.seq,
                "layout": layout,
                "version": frame.version,
                "first_step": int(steps[0]),
                "last_step": int(steps[-1]),
                "steps": len(steps),
                "payload": pack_payload(frame),
            },
        )
        group.last_step = int(steps[-1])
        group.waiting += len(steps)
        full = group.waiting >= steps_of(len(group.names))
        if full:
            group.waiting = 0
        mine = taken.setdefault(frame.group, _Taken())
        mine.steps.append(steps)
        mine.times.append(times)
        mine.values.append(values)
        return Recorded(frame.seq, layout, tuple(group.indices), full=full)

    def _gap_event(
        self,
        commit: Commit,
        first: int | None,
        last: int | None,
        count: int,
        reason: str,
        now: float,
    ) -> dict[str, Any]:
        return add_event_later(
            commit,
            self.run,
            now,
            kind="gap",
            segment=self.segment,
            first_step=first,
            last_step=last,
            count=count,
            text=reason,
        )

    def _advance(self, commit: Commit, seq: int) -> None:
        before, self.high_water = self.high_water, seq
        moved = {**self._key(""), "b_before": before, "b_high_water": seq}
        commit.later(_ADVANCE, moved, found=True)

    def _reach(self, commit: Commit, track: _Track, first: int, last: int) -> None:
        """The segment holds these steps of a stream."""
        track.first_step = first if track.first_step is None else min(track.first_step, first)
        track.last_step = last if track.last_step is None else max(track.last_step, last)
        reached = {"b_first": track.first_step, "b_last": track.last_step}
        commit.later(_REACH, {**self._key(track.stream), **reached})

    def _key(self, stream: str) -> dict[str, str]:
        return {"b_run": self.run, "b_segment": self.segment, "b_stream": stream}

    def _observe(
        self, commit: Commit, group: _Group, frames: _Taken, now: float
    ) -> list[dict[str, Any]]:
        """Counters and events of frames that carry the scalars of the clip."""
        track = self.tracks[group.stream]
        steps, times = np.concatenate(frames.steps), np.concatenate(frames.times)
        values = frames.values[0] if len(frames.values) == 1 else np.concatenate(frames.values)
        self._reach(commit, track, int(steps[0]), int(steps[-1]))
        nothing = np.full(len(steps), wire.MISSING, np.float32)
        scalar = {
            name: values[:, group.names.index(track.prefix + name)]
            if track.prefix + name in group.names
            else nothing
            for name in SCALARS
        }
        norms, names = group.norms(track.prefix)
        events = []
        for event in track.detector.look(
            Observed(
                steps,
                scalar["global_norm"],
                scalar["threshold"],
                scalar["clipped"],
                scalar["nonfinite"],
                values[:, norms],
                names,
            )
        ):
            events.append(self._store_event(commit, event, track, float(times[-1])))
        track.remember(steps, times, scalar["global_norm"], scalar["clipped"], scalar["nonfinite"])
        if not track.stream:  # the run's own figures are those of its first stream
            heard = min(now, float(times[-1])) if self.replay else now
            self._count(commit, track, scalar, steps, heard)
        return events

    def _count(
        self,
        commit: Commit,
        track: _Track,
        scalar: dict[str, wire.FloatArray],
        steps: wire.StepArray,
        now: float,
    ) -> None:
        threshold = scalar["threshold"]
        in_force = threshold[np.isfinite(threshold)]
        commit.later(
            _COUNT_KEPT if self.replay else _COUNT,
            {
                "b_run": self.run,
                "b_first": int(steps[0]),
                "b_last": int(steps[-1]),
                "b_steps": len(steps),
                "b_clipped": int(np.count_nonzero(scalar["clipped"] > 0)),
                "b_nonfinite": int(np.count_nonzero(scalar["nonfinite"] > 0)),
                "b_skipped": int(np.count_nonzero(scalar["skipped"] > 0)),
                "b_recent": json.dumps(track.figures()),
                "b_sparkline": track.sparkline(),
                "b_now": now,
                "b_threshold": float(in_force[-1]) if len(in_force) else None,
            },
        )

    def _store_event(
        self, commit: Commit, event: Event, track: _Track, at: float
    ) -> dict[str, Any]:
        values = {**asdict(event), "stream": track.stream or None}
        number = values.pop("id")
        if number is None:
            known = track.detector.known
            return add_event_later(commit, self.run, at, known=partial(known, event), **values)
        changed = {f"b_{name}": value for name, value in values.items()}
        commit.later(_GROW, {**changed, "b_at": at, "b_id": number})
        return {"id": number, "at": at, **values}

    # -- layouts, and what is stored already ------------------------------------------------------

    def _opened(self, commit: Commit, group: _Group) -> int:
        """The layout of a group; at its first frame, also where this segment's earlier ones are."""
        if group.layout is None:
            connection = commit.connection
            group.layout = self._layout(connection, group)
            table = tables.frames
            mine = (
                table.c.run_id == self.run,
                table.c.segment == self.segment,
                table.c.layout == group.layout,
            )
            inbox = connection.execute(
                select(func.sum(table.c.steps), func.max(table.c.last_step)).where(*mine)
            ).one()
            extent = Reader(connection, self.run, self.segment).extent(self.segment, group.layout)
            group.waiting = int(inbox[0] or 0)
            group.last_step = max(
                -1 if inbox[1] is None else int(inbox[1]), -1 if extent is None else extent[1]
            )
        return group.layout

    def _layout(self, connection: Connection, group: _Group) -> int:
        packed = np.array(group.indices, "<i4").tobytes()
        table = tables.layouts
        found: int | None = connection.scalar(
            select(table.c.layout).where(table.c.run_id == self.run, table.c.columns == packed)
        )
        if found is not None:
            return found
        number: int = (
            connection.scalar(
                select(func.count()).select_from(table).where(table.c.run_id == self.run)
            )
            or 0
        )
        connection.execute(
            insert(table),
            {
                "run_id": self.run,
                "layout": number,
                "columns": packed,
                "blocks": blocks(group.kinds).astype("<i4").tobytes(),
                "stream": group.stream,
            },
        )
        return number

    def _resume(self, connection: Connection, track: _Track, first: int, last: int) -> None:
        """Take up the recent steps and open events where the last process left them."""
        reader = Reader(connection, self.run, self.segment)
        names = column_names(connection, self.run)
        told = [names.get(track.prefix + name, -1) for name in _TOLD[2:]]
        part = Stretch(self.segment, max(first, last - RECENT + 1), last)
        for layout, held in reader.layouts.items():
            at = [np.flatnonzero(held.columns == column) for column in told]
            if all(len(found) for found in at):
                for steps, times, values in reader.rows(part, layout, np.concatenate(at)):
                    track.remember(steps, times, *values.T)
        table = tables.events
        open_events = []
        for kind in ("clip_burst", "spike", "nonfinite"):
            row = connection.execute(
                select(table)
                .where(
                    table.c.run_id == self.run,
                    table.c.kind == kind,
                    table.c.stream.is_not_distinct_from(track.stream or None),
                    table.c.first_step >= first,
                )
                .order_by(table.c.id.desc())
                .limit(1)
            ).one_or_none()
            if row is not None:
                fields = row._asdict()
                open_events.append(Event(**{n: fields[n] for n in Event.__slots__}))
        track.detector = Detector(open_events)
        track.detector.remember(track.recent[_TOLD.index("global_norm")].astype(np.float32))
