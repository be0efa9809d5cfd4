"""The meeting: how the ranks of a distributed job find each other, and what they leave for one
another, through the store of the job's process group.

Law: nothing here is collective, and nothing but the first announcement is done by the training
thread: it leaves requests and reads attributes that are assigned whole. A key that may be missing
is looked for, never waited for.
"""

from __future__ import annotations

import ctypes
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

import msgspec
import torch.distributed as dist

from .control import Order
from .notice import logger

c10d: Final[Any] = dist
"""torch.distributed with the names that its stubs do not have."""

PATIENCE: Final = 60.0
"""Seconds after which a rank that is waited for counts as lost."""
STEPS: Final = 20
"""Steps after which, where ranks step together, all must have called attach."""
GRACE: Final = 1.0
"""Seconds that they have beyond these steps, and where ranks do not step together:"""
LONG_GRACE: Final = 60.0
FAREWELL: Final = 1.5
"""Seconds that the end of a run, or of the process, waits for this thread."""

_LOOK: Final = (0.01, 0.5)
"""Seconds between two looks at the store, at first and at last."""


class Announcement(msgspec.Struct, frozen=True):
    """What a rank says about itself. why_not: why nothing may be changed from outside."""

    strategies: str
    limits: str
    why_not: str | None


class Verdict(msgspec.Struct, frozen=True):
    """What rank 0 found when it had read all announcements."""

    differs: str | None
    why_not: str | None


class Over(msgspec.Struct, frozen=True):
    """A rank takes part no more. acted: the last edition it acted upon."""

    acted: int
    why: str


class Meeting:
    """One rank's seat: announces at once, and meets the others on a thread of its own.

    store: where ``rank`` of ``size`` ranks announce; kept for as long as the thread runs. ticks:
    how many step boundaries there were. coupled: whether the ranks train one model together.
    Raises what the store raises.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        announcement: Announcement,
        ticks: Callable[[], int],
        coupled: Callable[[], bool],
    ) -> None:
        self.rank: Final = rank
        self.size: Final = size
        # Read by the training thread.
        self.group: Any = None
        self.begins: dict[int, bool] = {}
        self.given = 0
        self.held: tuple[int, Any] | None = None
        self.settled: str | None = None  # why there will be no control
        self.trouble: str | None = None  # what training may not go on with
        self.failure: str | None = None
        self.answered = threading.Event()
        # Written by it: the last edition acted upon, and the operation last begun in the group.
        self.acted = 0
        self.work: Any = None
        self._store = store
        self._ticks = ticks
        self._coupled = coupled
        self._requests: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._leaving = False
        self._said_over = False
        self._late_since: float | None = None
        self._gathered = False
        store.set(f"here/{rank}", msgspec.json.encode(announcement))
        store.add("here", 1)
        self._thread = threading.Thread(target=self._run, name="gradhelm-ranks", daemon=True)
        self._thread.start()

    # -- for the training thread ------------------------------------------------------------------

    def listen(self, tick: int) -> None:
        """From ``tick`` on this rank asks whether rounds begin."""
        self._requests.put(partial(self._listen, tick))

    def ask(self, tick: int) -> None:
        """Whether rounds begin at ``tick``: the answer, the same on all ranks, is in ``begins``."""
        self.answered.clear()
        self._requests.put(partial(self._decide, tick))

    def give(self, edition: int, order: Order) -> None:
        """Leaves ``order`` for the other ranks; then ``given`` is its edition."""
        self._requests.put(partial(self._give, edition, order))

    def fetch(self, edition: int) -> None:
        """Brings what rank 0 gave; then it is ``held``."""
        self._requests.put(partial(self._fetch, edition))

    def look(self) -> None:
        """Asks whether another rank takes part no more: ``failure`` says so then."""
        self._requests.put(self._look)

    def compare(self, tick: int, state: dict[str, Any]) -> None:
        """Asks what differs between the ranks: ``trouble`` says it, within a few seconds."""
        self.answered.clear()
        self._requests.put(partial(self._compare, tick, state))

    def give_up(self, why: str) -> None:
        """This rank takes part no more; ``trouble`` follows if others acted on something else."""
        self._requests.put(partial(self._give_up, why))

    def leave(self, *, trains_on: bool) -> None:
        """The run is over; ``trains_on`` says that the process is not. Waits at most FAREWELL
        seconds."""
        if self._leaving:
            return
        self._leaving = True
        if trains_on:
            self._requests.put(partial(self._say_over, ""))
        # Otherwise the connections, which are closed now, say enough; the store may be gone.
        self._requests.put(None)
        self._thread.join(FAREWELL)

    def forget(self) -> None:
        """In a forked child: neither the thread nor those of the group are here, and whoever closes
        a connection here takes it from the parent, which does not survive that."""
        self._leaving = True
        self._abandon()
        self.group = self.work = None

    def missing(self) -> str | None:
        """What to say when the others did not come, None when they did."""
        if self._gathered:
            return None
        absent = [rank for rank in range(self.size) if not self._store.check([f"here/{rank}"])]
        if not absent:
            return None
        here = [rank for rank in range(self.size) if rank not in absent]
        return (
            f"attach was called on {_ranks(here)} only: after {self._ticks()} steps {_ranks(absent)} "
            f"of {self.size} did not call it and clip nothing; call attach on every rank of a job "
            "that trains one model (only rank 0 reports)"
        )

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._meet():
                self._connect()
                self._serve()
        except Exception as error:
            self.failure = self.failure or sentence(error)
            self.answered.set()
            # The store may be what failed; then nobody can be told.
            with suppress(Exception):
                self._say_over(self.failure)
        finally:
            self._drop()
            del self._store

    def _meet(self) -> bool:
        """Waits until all ranks are here and agree that there is something to agree on."""
        pause, most = _LOOK
        while not self._gathered:
            if self._pause(pause):
                self._tell_missing()
                return False
            self._gathered = self._store.add("here", 0) >= self.size
            if not self._gathered and self._too_late():
                return False
            pause = min(2 * pause, most)
        if self.rank == 0:
            self._store.set("verdict", msgspec.json.encode(self._judge()))
        pause = _LOOK[0]
        while not self._store.check(["verdict"]):
            if self._pause(pause):
                return False
            pause = min(2 * pause, most)
        verdict = msgspec.json.decode(self._store.get("verdict"), type=Verdict)
        self.trouble, self.settled = verdict.differs, verdict.why_not
        return verdict == Verdict(None, None)

    def _pause(self, seconds: float) -> bool:
        """Whether the run ended meanwhile."""
        with suppress(queue.Empty):
            while (request := self._requests.get(timeout=seconds)) is not None:
                request()
        return self._leaving

    def _too_late(self) -> bool:
        """Whether those who are missing will not come any more."""
        if self._ticks() < STEPS:
            return False
        now = time.monotonic()
        self._late_since = self._late_since or now
        if now - self._late_since < GRACE:
            return False
        # Together with an absent rank, STEPS steps were taken: it is at work, but not attached.
        if self._coupled():
            self.trouble = self.missing()
        elif now - self._late_since >= LONG_GRACE:
            self.settled = self.missing()
        return self.trouble is not None or self.settled is not None

    def _tell_missing(self) -> None:
        """At the end of a run that was too short for a verdict."""
        if self._ticks() >= STEPS and self._coupled() and (text := self.missing()):
            logger.warning("%s", text)

    def _judge(self) -> Verdict:
        """What to make of the announcements."""
        said = [
            msgspec.json.decode(self._store.get(f"here/{rank}"), type=Announcement)
            for rank in range(self.size)
        ]
        for rank, one in enumerate(said):
            if one.strategies != said[0].strategies:
                return Verdict(_differ("clip", said[0].strategies, one.strategies, rank), None)
        for rank, one in enumerate(said):
            if one.why_not is not None:
                return Verdict(None, f"{one.why_not} (rank {rank} of {self.size})")
        for rank, one in enumerate(said):
            if one.limits != said[0].limits:
                return Verdict(_differ("control", said[0].limits, one.limits, rank), None)
        return Verdict(None, None)

    def _connect(self) -> None:
        self.group = c10d.ProcessGroupGloo(
            c10d.PrefixStore("gloo", self._store),
            self.rank,
            self.size,
            timedelta(seconds=2 * PATIENCE),
        )

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            request()

    # -- requests ---------------------------------------------------------------------------------

    def _listen(self, tick: int) -> None:
        self._store.set(f"listens/{self.rank}", str(tick))
        self._store.add("listens", 1)

    def _decide(self, tick: int) -> None:
        """Whoever comes first decides for all: at ``tick``, if all ranks listen from then on."""
        key = f"begin/{tick}"
        if not self._store.check([key]):
            all_listen = self._store.add("listens", 0) >= self.size and all(
                int(self._store.get(f"listens/{rank}")) <= tick for rank in range(self.size)
            )
            self._store.compare_set(key, "", "yes" if all_listen else "no")
        self.begins[tick] = self._store.get(key) == b"yes"
        self.answered.set()

    def _give(self, edition: int, order: Order) -> None:
        self._store.set(f"edition/{edition}", msgspec.msgpack.encode(order))
        self.held = (edition, order)
        self.given = edition
        self._store.delete_key(f"edition/{edition - 1}")

    def _fetch(self, edition: int) -> None:
        order = msgspec.msgpack.decode(self._store.get(f"edition/{edition}"), type=Order)
        self.held = (edition, order)

    def _look(self) -> None:
        over = self._others_over()
        if over:
            rank, one = min(over.items())
            self.failure = f"rank {rank} takes part no more" + (one.why and f" ({one.why})")

    def _others_over(self) -> dict[int, Over]:
        """The other ranks that take part no more."""
        if self._store.add("over", 0) <= self._said_over:
            return {}
        others = [rank for rank in range(self.size) if rank != self.rank]
        return {
            rank: msgspec.json.decode(self._store.get(f"over/{rank}"), type=Over)
            for rank in others
            if self._store.check([f"over/{rank}"])
        }

    def _say_over(self, why: str) -> None:
        if not self._said_over:
            self._store.set(f"over/{self.rank}", msgspec.json.encode(Over(self.acted, why)))
            self._said_over = True
            self._store.add("over", 1)

    def _give_up(self, why: str) -> None:
        """Says so and waits for the others to do so too: what they acted upon must be the same."""
        self._say_over(why)
        until = time.monotonic() + 2 * PATIENCE
        pause, most = _LOOK
        while time.monotonic() < until and not self._pause(pause):
            over = self._others_over()
            for rank, one in over.items():
                if one.acted != self.acted:
                    self.trouble = (
                        "the ranks lost contact while a change was on its way: rank "
                        f"{self.rank} acted on {self.acted} changes, rank {rank} on {one.acted}, so they "
                        "clip by different thresholds from now on"
                    )
                    return
            if len(over) == self.size - 1:
                return
            pause = min(2 * pause, most)

    def _compare(self, tick: int, state: dict[str, Any]) -> None:
        mine = {name: repr(value) for name, value in state.items()}
        self._store.set(f"state/{tick}/{self.rank}", msgspec.json.encode(mine))
        words = []
        until = time.monotonic() + 5.0
        for rank in range(self.size):
            key = f"state/{tick}/{rank}"
            while not self._store.check([key]) and time.monotonic() < until:
                time.sleep(_LOOK[0])
            if self._store.check([key]):
                theirs = msgspec.json.decode(self._store.get(key), type=dict[str, str])
                words += [
                    f"{name} is {mine.get(name)} on rank {self.rank} and {theirs.get(name)} on rank "
                    f"{rank}"
                    for name in sorted(mine.keys() | theirs.keys())
                    if mine.get(name) != theirs.get(name)
                ]
        self.trouble = "the ranks are not under the same control: " + (
            "; ".join(words)[:1000] or f"another rank differs from rank {self.rank}"
        )
        self.answered.set()

    # -- the end ----------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Closes the group's connections, which tells the others.

        Its destructor waits for an operation that is under way, and would hold up the process, or
        crash it at its end: then the connections are left to that end.
        """
        if self.work is not None and not self.work.is_completed():
            self._abandon()
        self.group = self.work = None

    def _abandon(self) -> None:
        """The connections stay open to the end of the process. An operation holds them as well."""
        for holder in (self.group, self.work):
            if holder is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder))


def _ranks(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"


def _differ(argument: str, first: str, other: str, rank: int) -> str:
    return (
        f"attach was called with another {argument} on rank {rank} than on rank 0: {other[:300]}, "
        f"not {first[:300]}; it has to be the same on every rank"
    )


def sentence(error: Exception) -> str:
    """What went wrong, in a line: without the place in torch's sources and its guesses."""
    lines = str(error).splitlines() or [""]
    text = re.sub(r"^\[\S+\.cc:\d+\] ", "", lines[0]).partition(". This is typically")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
