"""Retention: what is kept for how long, and what goes first when a project is full.

Law: norms of single steps go before their buckets, and a run's scalars, events and control history
stay as long as the run; so its chart and its what-if stay exact, and its heatmap is left at sixteen
steps a cell. A deleted run goes whole, but for the record of who steered it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, or_, select, update

from . import audit, tables
from .matrix import Layout, layouts_of
from .settings import Policy
from .store import Store


class Cut(NamedTuple):
    """The norms of steps before ``step`` are to go."""

    run: str
    segment: str
    stream: str
    layout: int
    blocks: tuple[int, ...]
    step: int
    bytes: int


class Plan(NamedTuple):
    """What a policy asks for now. ``over``: by how many bytes projects will still be too large."""

    cuts: list[Cut]
    deleted: list[str]
    freed: int
    over: dict[str, int]

    def shown(self) -> dict[str, Any]:
        return {
            "runs_cut": len({cut.run for cut in self.cuts}),
            "runs_removed": len(self.deleted),
            "bytes": self.freed,
            "over_quota": self.over,
        }


def plan(connection: Connection, policy: Policy, now: float) -> Plan:
    """What is to go by ``policy``, oldest runs first."""
    runs, tiles = tables.runs, tables.tiles
    deleted = [
        run
        for (run,) in connection.execute(
            select(runs.c.id)
            .where(runs.c.deleted_at.is_not(None))
            .where(
                or_(
                    *(
                        select(table.c.run_id).where(table.c.run_id == runs.c.id).exists()
                        for table in (tables.frames, tables.tiles, tables.segments)
                    )
                )
            )
        )
    ]
    freed = sum(_bytes(connection, run) for run in deleted)
    sizes: dict[str, int] = defaultdict(int)
    cuts: list[Cut] = []
    for row in connection.execute(
        select(runs.c.id, runs.c.project, runs.c.last_heard_at)
        .where(runs.c.deleted_at.is_(None))
        .order_by(runs.c.last_heard_at.desc())
    ):
        old = policy.keep_steps is not None and row.last_heard_at < now - policy.keep_steps
        if not old and policy.quota is None:
            continue
        sizes[row.project] += _bytes(connection, row.id)
        room = 0 if policy.quota is None else sizes[row.project] - policy.quota
        if not old and room <= 0:
            continue
        found = connection.execute(
            select(
                tiles.c.segment,
                tiles.c.layout,
                tiles.c.block,
                tiles.c.last,
                func.length(tiles.c.payload),
            )
            .where(tiles.c.run_id == row.id, tiles.c.level == 0, tiles.c.block >= 0)
            .order_by(tiles.c.last)
        )
        made = _cuts(row.id, layouts_of(connection, row.id), found, None if old else room)
        cuts += made
        gone = sum(cut.bytes for cut in made)
        freed += gone
        sizes[row.project] -= gone
    over = {
        project: size - policy.quota
        for project, size in sizes.items()
        if policy.quota is not None and size > policy.quota
    }
    return Plan(cuts, deleted, freed, over)


def _cuts(
    run: str, layouts: dict[int, Layout], tiles: Iterable[Any], room: int | None
) -> list[Cut]:
    """Cuts that free ``room`` bytes (None: all there are), the oldest steps first."""
    freed = 0
    steps: dict[tuple[str, int], tuple[int, int]] = {}
    for segment, layout, block, last, size in tiles:
        start, end = layouts[layout].spans(0)[block]
        if end - start == 1:
            continue
        before, bytes_ = steps.get((segment, layout), (0, 0))
        if room is not None and freed >= room and last >= before:
            break
        steps[segment, layout] = (max(before, last + 1), bytes_ + size)
        freed += size
    return [
        Cut(
            run,
            segment,
            layouts[layout].stream,
            layout,
            tuple(b for b, (start, end) in enumerate(layouts[layout].spans(0)) if end - start > 1),
            step,
            size,
        )
        for (segment, layout), (step, size) in steps.items()
    ]


def carry_out(store: Store, found: Plan) -> None:
    """Do it, a little at a time, so that no trainer waits for it."""
    for cut in found.cuts:
        store.submit(partial(_cut, cut)).result()
    for run in found.deleted:
        store.submit(partial(_remove, run)).result()


def prune(store: Store, policy: Policy, *, dry: bool = False) -> Plan:
    """What goes by ``policy``, and, unless ``dry``, has gone."""
    with store.reading() as connection:
        found = plan(connection, policy, time.time())
    if not dry:
        carry_out(store, found)
    return found


def _cut(cut: Cut, connection: Connection) -> None:
    tiles, segments = tables.tiles, tables.segments
    connection.execute(
        delete(tiles).where(
            tiles.c.run_id == cut.run,
            tiles.c.segment == cut.segment,
            tiles.c.layout == cut.layout,
            tiles.c.level == 0,
            tiles.c.block.in_(cut.blocks),
            tiles.c.last < cut.step,
        )
    )
    connection.execute(
        update(segments)
        .where(
            segments.c.run_id == cut.run,
            segments.c.segment == cut.segment,
            segments.c.stream == cut.stream,
            segments.c.kept_since < cut.step,
        )
        .values(kept_since=cut.step)
    )


def _remove(run: str, connection: Connection) -> None:
    deleted = select(tables.runs.c.deleted_at).where(tables.runs.c.id == run)
    if connection.scalar(deleted) is None:
        return  # taken back since the plan was made
    audit.append(connection, time.time(), "server", "run removed", run)
    for table in (
        tables.frames,
        tables.tiles,
        tables.layouts,
        tables.columns,
        tables.segments,
        tables.events,
    ):
        connection.execute(delete(table).where(table.c.run_id == run))


def _bytes(connection: Connection, run: str) -> int:
    """What the matrix of a run takes."""
    return sum(
        connection.scalar(select(func.sum(func.length(t.c.payload))).where(t.c.run_id == run)) or 0
        for t in (tables.frames, tables.tiles)
    )
