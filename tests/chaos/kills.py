"""Kill -9, again and again: the trainers, the server, or both, at any moment.

``python -m chaos.kills --cycles 1000`` (from ``tests``) prints what came of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
from support import eventually, free_port

from gradhelm import spool
from gradhelm.arguments import run_id
from gradhelm.delivery import Undelivered, deliver

from .changes import Changer, reckon
from .ledger import Account, Verdict, judge
from .lives import Life, nursery, serve, train
from .points import Point

LAST = 50
"""Steps of the life that ends properly."""


@dataclass
class Trainer:
    run: str
    journal: Path
    spool: Path | None
    life: int = -1
    process: BaseProcess | None = None


@dataclass
class Arena:
    """A server and trainers, all of which may be killed at any time."""

    home: Path
    trainers: list[Trainer] = field(default_factory=list)
    port: int = field(default_factory=free_port)
    server: BaseProcess | None = None
    changer: Changer | None = None
    changes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = nursery()
        self.home.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def enlist(self, *, spool: bool) -> Trainer:
        number = len(self.trainers)
        folder = self.home / f"spool-{number}" if spool else None
        trainer = Trainer(run_id(None, False), self.home / f"journal-{number}", folder)
        self.trainers.append(trainer)
        return trainer

    def start_server(self, point: Point | None = None) -> None:
        server = self.context.Process(
            target=serve, args=(str(self.home), self.port, point), daemon=True
        )
        server.start()
        self.server = server

    def wait_for_server(self) -> None:
        def answers() -> bool:
            assert self.server is not None
            assert self.server.is_alive()
            try:
                return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, 30, "the server to answer")

    def start(self, trainer: Trainer, steps: int | None = None, point: Point | None = None) -> None:
        """Its next life, from a step that none before it was about to take."""
        trainer.life += 1
        life = Life(
            trainer.run,
            trainer.life,
            Account.read(trainer.run, trainer.journal).next_step,
            self.url,
            self.token,
            str(trainer.journal),
            None if trainer.spool is None else str(trainer.spool),
            steps,
            point=point,
        )
        process = self.context.Process(target=train, args=(life,), daemon=True)
        process.start()
        trainer.process = process

    def kill(self, process: BaseProcess | None) -> None:
        assert process is not None
        process.kill()
        process.join(10)
        assert process.exitcode is not None
        process.close()

    def settle(self) -> Verdict:
        """A last life of each trainer ends properly, what is left on disk is delivered, the server
        ends, and all is reckoned up."""
        for trainer in self.trainers:
            self.kill(trainer.process)
            self.start(trainer, LAST)
        for trainer in self.trainers:
            assert trainer.process is not None
            trainer.process.join(60)
            assert trainer.process.exitcode == 0
            if trainer.spool is not None:
                for folder in spool.segments(trainer.spool / trainer.run):
                    eventually(lambda folder=folder: self._delivered(folder), 30, "a delivery")
                assert not spool.segments(trainer.spool / trainer.run)
        if self.changer is not None:
            with httpx.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}
            ) as rest:
                self.changes = reckon(rest, self.changer)
        assert self.server is not None
        self.server.terminate()
        self.server.join(20)
        accounts = [Account.read(one.run, one.journal) for one in self.trainers]
        assert all(account.ended for account in accounts)
        return judge(self.home / "gradhelm.db", accounts)

    def _delivered(self, folder: Path) -> bool:
        """False while the server has not noticed that the last life has let go of it."""
        try:
            return deliver(folder, self.url, self.token).ended
        except Undelivered as error:
            if "somebody is at it already" not in str(error):
                raise
            return False

    def close(self) -> None:
        for process in [self.server, *(one.process for one in self.trainers)]:
            if process is not None:
                try:
                    process.kill()
                    process.join(10)
                except ValueError:
                    pass  # closed before


def rehearse(
    home: Path, cycles: int, seed: int, *, changes: int, least: int = 0, tell: bool = False
) -> tuple[Arena, Verdict, dict[str, int]]:
    """``cycles`` kills by the dice of ``seed``, and meanwhile up to ``changes`` of the threshold of
    the first trainer's run; what was killed how often. Goes on killing until ``least`` of them are
    made: a slow machine answers fewer between two kills."""
    dice = random.Random(seed)
    arena = Arena(home)
    kills = {"server": 0, "trainer": 0, "both": 0}
    try:
        arena.start_server()
        arena.wait_for_server()
        for kept in (True, False):
            arena.start(arena.enlist(spool=kept))
        run = arena.trainers[0].run
        arena.changer = Changer(arena.url, arena.token, run, changes, random.Random(seed))
        arena.changer.start()
        for cycle in itertools.count():
            if cycle >= cycles and len(arena.changer.made) >= least:
                break
            if dice.random() < 0.5:
                arena.wait_for_server()  # else one that starts slowly would never live to serve
            time.sleep(dice.uniform(0.05, 0.6))
            victim = dice.choice(list(kills))
            kills[victim] += 1
            trainer = dice.choice(arena.trainers)
            if victim != "trainer":
                arena.kill(arena.server)
            if victim != "server":
                arena.kill(trainer.process)
            if victim != "trainer":
                if dice.random() < 0.2:
                    time.sleep(dice.uniform(0, 1.5))  # away for a while
                arena.start_server()
            if victim != "server":
                arena.start(trainer)
            if tell and cycle % 25 == 24:
                print(f"{cycle + 1} of {cycles} kills", file=sys.stderr, flush=True)
        arena.wait_for_server()
        arena.changer.finish()
        return arena, arena.settle(), kills
    finally:
        arena.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.kills", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradhelm-chaos-") as home:
        began = time.monotonic()
        arena, verdict, kills = rehearse(
            Path(home) / "home", asked.cycles, asked.seed, changes=asked.changes, tell=True
        )
    figures = {
        "kills": kills,
        "seconds": round(time.monotonic() - began),
        "changes": arena.changes,
        **verdict.figures(),
    }
    print(json.dumps(figures, indent=2))
    return 0 if verdict.sound else 1


if __name__ == "__main__":
    sys.exit(main())
