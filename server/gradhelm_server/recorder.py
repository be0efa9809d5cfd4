"""What one segment's frames do to the database: rows, rollups, counters, events, high water.

Law: all of it happens in one transaction, and nothing is counted twice. A recorder lives in the
writer thread; after a failed write it is thrown away and loaded again from what is stored.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from gradhelm import wire
from gradhelm.errors import WireError

from . import tables
from .detect import Detector, Event, Observed
from .events import add_event
from .matrix import Reader, Stretch, column_names, pack_payload
from .rollup import FACTOR, LEVELS, Piece, Pyramid

RECENT = 500
"""Steps that the figures "of late" are about."""
SPARKLINE = 60
SCALARS = ("global_norm", "threshold", "clipped", "nonfinite", "skipped")


class OutOfStep(Exception):
    """The stored high-water mark is not what this recorder remembers."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one frame or gap; a stored frame's row holds ``columns`` of the run."""

    seq: int
    layout: int | None = None
    columns: tuple[int, ...] = ()
    refused: str | None = None
    events: tuple[dict[str, Any], ...] = ()


@dataclass(slots=True)
class _Group:
    """A column group of this segment: its layout in the run, once it is complete."""

    names: list[str]
    kinds: list[str]
    indices: list[int]
    stream: str = ""
    layout: int | None = None
    last_step: int = -1
    pyramid: Pyramid | None = None


class _Track:
    """What was seen of one stream's steps in this segment."""

    def __init__(self, stream: str, first_step: int | None, last_step: int | None) -> None:
        self.stream = stream
        self.first_step = first_step
        self.last_step = last_step
        self.detector = Detector()
        # newest steps: step, time, norm, clipped, nonfinite
        self.recent: deque[tuple[int, float, float, float, float]] = deque(maxlen=RECENT)

    @property
    def prefix(self) -> str:
        return f"{self.stream}/" if self.stream else ""

    def figures(self) -> dict[str, Any]:
        """The newest steps in figures; ``global_norm`` None where the newest is not finite."""
        norms = np.array([row[2] for row in self.recent])
        finite = norms[np.isfinite(norms)]
        span = self.recent[-1][1] - self.recent[max(0, len(self.recent) - 50)][1]
        steps = self.recent[-1][0] - self.recent[max(0, len(self.recent) - 50)][0]
        clipped = sum(row[3] > 0 for row in self.recent)
        return {
            "steps": len(self.recent),
            "clipped": clipped,
            "clip_fraction": clipped / len(self.recent),
            "nonfinite": sum(row[4] > 0 for row in self.recent),
            "mean_norm": float(finite.mean()) if len(finite) else None,
            "global_norm": float(norms[-1]) if np.isfinite(norms[-1]) else None,
            "steps_per_second": steps / span if span > 0 else None,
        }

    def sparkline(self) -> bytes:
        """The recent norms as at most SPARKLINE maxima, so that no spike is thinned away."""
        norms = np.array([row[2] for row in self.recent], np.float32)
        parts = np.array_split(norms, min(SPARKLINE, len(norms)))
        return np.array([part.max() for part in parts], "<f4").tobytes()


class Recorder:
    """Appends to one segment of one run. Made by ``load``, in the writer thread."""

    def __init__(self, run: str, segment: str, high_water: int) -> None:
        self.run = run
        self.segment = segment
        self.high_water = high_water
        self.groups: dict[int, _Group] = {}
        self.tracks: dict[str, _Track] = {}

    @classmethod
    def load(cls, connection: Connection, run: str, segment: str) -> Recorder:
        """The recorder of a segment as it is stored; the segment's row must exist."""
        table = tables.segments
        rows = connection.execute(
            select(table).where(table.c.run_id == run, table.c.segment == segment)
        ).all()
        recorder = cls(run, segment, next(row.high_water for row in rows if not row.stream))
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
        group = self.groups.setdefault(message.group, _Group([], [], [], stream))
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
        group.names += [column.name for column in fresh]
        group.kinds += [column.kind for column in fresh]
        group.indices += [existing[column.name] for column in fresh]
        return added

    # -- frames and gaps --------------------------------------------------------------------------

    def append(self, connection: Connection, frame: wire.Frame, now: float) -> Recorded:
        """Store a frame whose number is next. One that cannot be stored is declared missing."""
        group = self.groups.get(frame.group)
        try:
            if group is None or not group.names:
                raise WireError(f"group {frame.group} was not declared")
            steps, times, values = wire.unpack_frame(frame, len(group.names))
            pyramid = self._pyramid(connection, group)
            logged = group.kinds[0] == "log"
            # A scalar logged late belongs to a step that was sent already.
            if int(steps[0]) < group.last_step + (0 if logged else 1):
                raise WireError(
                    f"step {int(steps[0])} comes after step {group.last_step} in this segment"
                )
        except WireError as error:
            event = self._gap_event(connection, None, None, 1, f"frame refused: {error}", now)
            self._advance(connection, frame.seq)
            return Recorded(frame.seq, refused=str(error), events=(event,))
        connection.execute(
            insert(tables.frames),
            {
                "run_id": self.run,
                "segment": self.segment,
                "seq": frame.seq,
                "layout": group.layout,
                "version": frame.version,
                "first_step": int(steps[0]),
                "last_step": int(steps[-1]),
                "steps": len(steps),
                "payload": pack_payload(steps, times, values),
            },
        )
        closed = pyramid.push(Piece.of_steps(steps, values))
        if closed:
            connection.execute(
                insert(tables.rollups),
                [
                    {
                        "run_id": self.run,
                        "segment": self.segment,
                        "layout": group.layout,
                        "level": level,
                        "first_bucket": int(piece.ids[0]),
                        "last_bucket": int(piece.ids[-1]),
                        "payload": piece.pack(),
                    }
                    for level, piece in closed
                ],
            )
        group.last_step = int(steps[-1])
        self._advance(connection, frame.seq)
        if frame.group != min(n for n, g in self.groups.items() if g.stream == group.stream):
            return Recorded(frame.seq, group.layout, tuple(group.indices))
        # The clip's own rows alone say which steps a segment holds: a scalar may be logged before
        # the first of them, and would else hide what an older segment has there.
        track = self.tracks[group.stream]
        self._reach(connection, track, int(steps[0]), int(steps[-1]))
        events = self._observe(connection, track, group, steps, times, values, now)
        return Recorded(frame.seq, group.layout, tuple(group.indices), events=events)

    def gap(self, connection: Connection, gap: wire.Gap, now: float) -> Recorded:
        """Steps that the trainer took but could not keep."""
        event = self._gap_event(connection, gap.first, gap.last, gap.count, gap.reason, now)
        self._advance(connection, gap.seq)
        return Recorded(gap.seq, events=(event,))

    def _gap_event(
        self,
        connection: Connection,
        first: int | None,
        last: int | None,
        count: int,
        reason: str,
        now: float,
    ) -> dict[str, Any]:
        return add_event(
            connection,
            self.run,
            now,
            kind="gap",
            first_step=first,
            last_step=last,
            count=count,
            text=reason,
        )

    def _advance(self, connection: Connection, seq: int) -> None:
        self.high_water = seq
        table = tables.segments
        moved = connection.execute(
            update(table)
            .where(
                table.c.run_id == self.run,
                table.c.segment == self.segment,
                table.c.stream == "",
                table.c.high_water == seq - 1,
            )
            .values(high_water=seq)
        )
        if moved.rowcount != 1:
            # A commit before this one failed, so what this recorder remembers was never stored.
            raise OutOfStep(f"segment {self.segment} is not at {seq - 1}")

    def _reach(self, connection: Connection, track: _Track, first: int, last: int) -> None:
        """The segment holds these steps of a stream."""
        track.first_step = first if track.first_step is None else min(track.first_step, first)
        track.last_step = last if track.last_step is None else max(track.last_step, last)
        table = tables.segments
        connection.execute(
            update(table)
            .where(
                table.c.run_id == self.run,
                table.c.segment == self.segment,
                table.c.stream == track.stream,
            )
            .values(first_step=track.first_step, last_step=track.last_step)
        )

    def _observe(
        self,
        connection: Connection,
        track: _Track,
        group: _Group,
        steps: wire.StepArray,
        times: wire.TimeArray,
        values: wire.FloatArray,
        now: float,
    ) -> tuple[dict[str, Any], ...]:
        """Counters and events of the frame that carries the scalars of the clip."""
        nothing = np.full(len(steps), wire.MISSING, np.float32)
        scalar = {
            name: values[:, group.names.index(track.prefix + name)]
            if track.prefix + name in group.names
            else nothing
            for name in SCALARS
        }
        norms = [index for index, kind in enumerate(group.kinds) if kind == "norm"]
        events = []
        for event in track.detector.look(
            Observed(
                steps,
                scalar["global_norm"],
                scalar["threshold"],
                scalar["clipped"],
                scalar["nonfinite"],
                values[:, norms],
                [group.names[index].removeprefix(f"{track.prefix}norm/") for index in norms],
            )
        ):
            stored = self._store_event(connection, event, track.stream or None, float(times[-1]))
            track.detector.known(event, stored["id"])
            events.append(stored)
        track.recent.extend(
            zip(
                steps.tolist(),
                times.tolist(),
                scalar["global_norm"].tolist(),
                scalar["clipped"].tolist(),
                scalar["nonfinite"].tolist(),
                strict=True,
            )
        )
        if not track.stream:  # the run's own figures are those of its first stream
            self._count(connection, track, scalar, steps, now)
        return tuple(events)

    def _count(
        self,
        connection: Connection,
        track: _Track,
        scalar: dict[str, wire.FloatArray],
        steps: wire.StepArray,
        now: float,
    ) -> None:
        threshold = scalar["threshold"]
        in_force = threshold[np.isfinite(threshold)]
        runs = tables.runs
        connection.execute(
            update(runs)
            .where(runs.c.id == self.run)
            .values(
                first_step=func.coalesce(runs.c.first_step, int(steps[0])),
                last_step=int(steps[-1]),
                steps=runs.c.steps + len(steps),
                clipped=runs.c.clipped + int(np.count_nonzero(scalar["clipped"] > 0)),
                nonfinite=runs.c.nonfinite + int(np.count_nonzero(scalar["nonfinite"] > 0)),
                skipped=runs.c.skipped + int(np.count_nonzero(scalar["skipped"] > 0)),
                recent=json.dumps(track.figures()),
                sparkline=track.sparkline(),
                last_heard_at=now,
                **({"threshold": float(in_force[-1])} if len(in_force) else {}),
            )
        )

    def _store_event(
        self, connection: Connection, event: Event, stream: str | None, at: float
    ) -> dict[str, Any]:
        values = {**asdict(event), "stream": stream}
        number = values.pop("id")
        if number is None:
            return add_event(connection, self.run, at, **values)
        connection.execute(
            update(tables.events).where(tables.events.c.id == number).values(at=at, **values)
        )
        return {"id": number, "at": at, **values}

    # -- layouts and rollups ----------------------------------------------------------------------

    def _layout(self, connection: Connection, indices: list[int], stream: str) -> int:
        packed = np.array(indices, "<i4").tobytes()
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
            {"run_id": self.run, "layout": number, "columns": packed, "stream": stream},
        )
        return number

    def _pyramid(self, connection: Connection, group: _Group) -> Pyramid:
        """The open buckets of a group, rebuilt from what is stored after a restart."""
        if group.pyramid is None or group.layout is None:
            group.layout = self._layout(connection, group.indices, group.stream)
            group.pyramid, group.last_step = _rebuild(
                connection, self.run, self.segment, group.layout, len(group.indices)
            )
        return group.pyramid

    def _resume(self, connection: Connection, track: _Track, first: int, last: int) -> None:
        """Take up the recent steps and open events where the last process left them."""
        reader = Reader(connection, self.run, self.segment)
        names = column_names(connection, self.run)
        told = (track.prefix + n for n in ("global_norm", "clipped", "nonfinite"))
        wanted = [names.get(name, -1) for name in told]
        part = Stretch(self.segment, max(first, last - RECENT + 1), last)
        for layout, held in reader.layouts.items():
            at = [np.flatnonzero(held == column) for column in wanted]
            if len(at[0]):
                columns = np.array([int(a[0]) if len(a) else 0 for a in at])
                for steps, times, values in reader.frames(part, layout, columns):
                    track.recent.extend(
                        (int(s), float(t), *map(float, v))  # type: ignore[misc]
                        for s, t, v in zip(steps, times, values, strict=True)
                    )
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
        track.detector.remember([row[2] for row in track.recent])


def _rebuild(
    connection: Connection, run: str, segment: str, layout: int, width: int
) -> tuple[Pyramid, int]:
    """The pyramid as it was after the last stored frame, and that frame's last step.

    What is open at a level is what the level below has closed since this level closed its last.
    """
    pyramid = Pyramid()
    last = connection.scalar(
        select(func.max(tables.frames.c.last_step)).where(
            tables.frames.c.run_id == run,
            tables.frames.c.segment == segment,
            tables.frames.c.layout == layout,
        )
    )
    if last is None:
        return pyramid, -1
    reader = Reader(connection, run, segment)
    everything = np.arange(width)
    for level in range(1, LEVELS + 1):
        closed = connection.scalar(
            select(func.max(tables.rollups.c.last_bucket)).where(
                tables.rollups.c.run_id == run,
                tables.rollups.c.segment == segment,
                tables.rollups.c.layout == layout,
                tables.rollups.c.level == level,
            )
        )
        start = 0 if closed is None else (closed + 1) * FACTOR
        if level == 1:
            part = Stretch(segment, start, last)
            below = [Piece.of_steps(s, v) for s, _, v in reader.frames(part, layout, everything)]
        else:
            below = reader.closed(segment, layout, everything, level - 1, start, last)
        if below:
            pyramid.open[level - 1] = Piece.joined(below).coarsen(FACTOR).coarsen(1)
    return pyramid, last
