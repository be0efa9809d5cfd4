"""A process that dies at each stage of a record's way, one stage after the other."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import eventually

from gradhelm import spool
from gradhelm.spool import Kind

from .kills import Arena
from .points import SERVER, SPOOLING, TRAINER, Point


def die(arena: Arena, point: Point) -> None:
    """The server or the first trainer is at its end because of ``point``."""
    ours = arena.server if point in SERVER else arena.trainers[0].process
    assert ours is not None
    eventually(lambda: ours.exitcode is not None, 20, f"death {point}")
    assert ours.exitcode == -9, point
    ours.close()


def leave_something(arena: Arena) -> None:
    """A life of the first trainer without a server, which is away when this is over."""
    trainer = arena.trainers[0]
    assert trainer.spool is not None
    arena.kill(arena.server)
    folder = trainer.spool / trainer.run
    before = set(spool.segments(folder))
    arena.start(trainer)

    def kept() -> bool:
        found = set(spool.segments(folder)) - before
        entries = [one for new in found for one in spool.read(new)]
        return sum(isinstance(one, spool.Entry) and one.kind is Kind.RECORD for one in entries) >= 4

    eventually(kept, 20, "records on disk")
    arena.kill(trainer.process)


@pytest.mark.parametrize("keeps", [True, False], ids=["spool", "memory"])
def test_a_trainer_dies_at_any_stage(tmp_path: Path, keeps: bool) -> None:
    points = [*TRAINER, *(SPOOLING if keeps else [])]
    random.Random(1).shuffle(points)
    arena = Arena(tmp_path / "home")
    try:
        arena.start_server()
        arena.wait_for_server()
        trainer = arena.enlist(spool=keeps)
        for point in points:
            if point.needs_leftovers:
                leave_something(arena)
                arena.start_server()
                arena.wait_for_server()
            arena.start(trainer, point=point)
            die(arena, point)
        arena.start(trainer)
        verdict = arena.settle()
    finally:
        arena.close()
    assert verdict.segments > len(points) / 2
    assert verdict.sound, verdict.told


def test_a_server_dies_at_any_stage(tmp_path: Path) -> None:
    arena = Arena(tmp_path / "home")
    try:
        arena.start_server()
        arena.wait_for_server()
        for keeps in (True, False):
            arena.start(arena.enlist(spool=keeps))
        for point in SERVER:
            # A new life, so that hellos, leftovers and lost processes are among what is met.
            arena.kill(arena.trainers[0].process)
            if point.needs_leftovers:
                leave_something(arena)
            else:
                arena.kill(arena.server)
            arena.start_server(point)
            arena.start(arena.trainers[0])
            die(arena, point)
            arena.start_server()
            arena.wait_for_server()
        verdict = arena.settle()
    finally:
        arena.close()
    assert verdict.stored > 1000
    assert verdict.sound, verdict.told
