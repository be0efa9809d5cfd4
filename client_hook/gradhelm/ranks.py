"""The ranks of a distributed job: a change takes hold at the same step on all of them.

Law: which step acts is decided by the numbers of steps and rounds alone, never by time; a rank that
fails can only end control, never training; ranks that differ raise.

A round is an all-reduce of three integers that runs beside the steps between two boundaries. It
brings the newest change that rank 0 gave out and the oldest one that some rank has: when they are
the same, every rank has it, and every rank knows so, and acts at the boundary where the round ends.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
import weakref
from collections.abc import Iterable, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from . import meeting
from .control import Lever, Order, Steering
from .errors import RanksError
from .meeting import Announcement, Meeting, c10d
from .notice import Notices
from .wire import Change, Limits

PERIOD: Final = 10
"""Steps between two rounds; 1 while a change is on its way, or when steps are slow:"""
SLOW: Final = 0.1
"""Seconds."""
CHECK_EVERY: Final = 1000
"""Steps between two rounds that compare what is in force."""
FIRST_ASK: Final = 5
"""The step at which ranks first ask whether rounds begin; the next ones are ever further apart."""
SLICE: Final = 0.2
"""Seconds of waiting for a round after which to look whether a rank is gone."""
HELD_UP: Final = (5.0, 0.02)
"""Ranks that do not step together may hold each other up for so many seconds, or for this share of
the time, whichever is more."""

_SLICE: Final = timedelta(seconds=SLICE)
_open: weakref.WeakSet[Ranks] = weakref.WeakSet()
# The runs that were attached under the present process group, and the group.
_attached: tuple[weakref.ref[Any], int] | None = None


def here() -> tuple[int, int]:
    """This process's rank and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class Ranks:
    """One run's place among the ranks; :meth:`agree` stands between it and the changes that come.

    said: what this rank announces. parameters: those that the run clips.
    """

    def __init__(
        self,
        steering: Steering,
        notices: Notices,
        said: Announcement,
        parameters: Sequence[Tensor],
    ) -> None:
        self._steering = steering
        self._notices = notices
        self._first = dist.get_rank() == 0
        self._tick = 0
        self._due = FIRST_ASK
        self._ask_at = 0
        self._off = False
        self._lost: Exception | None = None
        # The round under way: its operation, whether it compares, and when it began.
        self._work: Any = None
        self._checks = False
        self._next_check = CHECK_EVERY
        # What it carries, as the group and as Python sees it.
        self._tensors = [torch.zeros(3, dtype=torch.int64)]
        self._numbers = self._tensors[0].numpy()
        self._period = PERIOD
        self._options = c10d.AllreduceOptions()
        self._options.reduceOp = c10d.ReduceOp.MAX
        self._began = 0
        self._began_at = self._first_at = 0.0
        self._waited = 0.0
        # Editions: what rank 0 gave out, what was last offered, and what was acted upon.
        self._edition = self._offered = self._acted = 0
        self._coupled: bool | None = None
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._meeting = Meeting(
            _store(), dist.get_rank(), dist.get_world_size(), said, self.ticks, self.coupled
        )
        steering.agree = self.agree
        _open.add(self)
        atexit.register(self._at_exit)

    def ticks(self) -> int:
        """How many step boundaries there were."""
        return self._tick

    def coupled(self) -> bool:
        """Whether a wrapper keeps the model equal on all ranks, so that they step together.

        Looked for at most once, in all objects there are: only where a rank is missing or waited
        for.
        """
        if self._coupled is None:
            held = {id(p) for ref in self._parameters if (p := ref()) is not None}
            self._coupled = any(
                not held.isdisjoint(map(id, found.parameters())) for found in _wrappers()
            )
        return self._coupled

    # -- at each step boundary --------------------------------------------------------------------

    def agree(self, waiting: Order | None) -> Order | None:
        """A step boundary, with the order that waits on rank 0: what to act upon, if anything.

        Raises RanksError where training must not go on.
        """
        self._tick = tick = self._tick + 1
        if self._meeting.trouble is not None:
            self._stop(self._meeting.trouble)
        if self._off:
            return _refused(waiting)
        try:
            if waiting is not None and self._work is not None and self._edition == self._acted:
                self._edition += 1
                self._meeting.give(self._edition, waiting)
            if tick < self._due:
                return None
            if self._lost is not None:
                raise self._lost
            if self._work is not None:
                return self._round()
            self._begin()
            return None
        except RanksError:
            raise
        except Exception as error:
            self._give_up(error)
            return _refused(waiting)

    def _begin(self) -> None:
        """Before the first round: at certain steps, all ranks ask whether it is now."""
        met = self._meeting
        if met.failure is not None:
            raise ConnectionError(met.failure)
        if met.settled is not None:
            self._end(met.settled)
        elif met.group is None:
            self._due = self._tick + 1
        elif not self._ask_at:
            # No rank may begin before this one listens, nor without it from then on.
            self._ask_at = self._due = _next_ask(self._tick)
            met.listen(self._ask_at)
            met.ask(self._ask_at)
        elif not met.answered.wait(meeting.PATIENCE):
            raise TimeoutError("the process group's store does not answer")
        elif met.failure is not None:
            raise ConnectionError(met.failure)
        elif met.begins.pop(self._tick):
            self._began, self._began_at = self._tick, time.monotonic()
            self._first_at = self._began_at
            self._launch()
        else:
            self._ask_at = self._due = _next_ask(self._tick)
            met.ask(self._ask_at)

    def _round(self) -> Order | None:
        """The end of a round and the beginning of the next."""
        self._wait()
        highest, least, slowest = self._numbers.tolist()
        change: Order | None = None
        if not self._checks:
            change = self._heed(highest, -least)
        elif highest != -least:
            self._differ()
            return None
        self._period = 1 if self._offered > self._acted or slowest > 1e6 * SLOW else PERIOD
        try:
            self._check_held_up(self._waited)
            if self._meeting.failure is not None:
                raise ConnectionError(self._meeting.failure)
            self._launch()
        except Exception as error:
            # From the next step on: what was agreed upon is acted upon, as on the other ranks.
            self._lost, self._due = error, self._tick + 1
        return change

    def _heed(self, offered: int, least: int) -> Any:
        """A round said which edition there is, and the oldest one that some rank has."""
        new, self._offered = offered > self._offered, offered
        if offered == self._acted:
            return None
        met = self._meeting
        if least == offered:
            assert met.held is not None
            self._acted = met.acted = offered
            if not self._first:
                self._steering.answers().clear()  # nobody sends them
            return met.held[1]
        if new and not self._first:
            met.fetch(offered)
        return None

    def _launch(self) -> None:
        """Begins a round, which ends at a boundary that all ranks know."""
        met = self._meeting
        now = time.monotonic()
        slowness = int(1e6 * (now - self._began_at) / max(1, self._tick - self._began))
        self._began_at, self._began = now, self._tick
        self._checks = self._tick >= self._next_check
        if self._checks:
            self._next_check += CHECK_EVERY
            digest = sha256(repr(self._steering.in_force()).encode()).digest()
            highest = int.from_bytes(digest[:8], "big") >> 2
            least = highest
        else:
            highest = met.given if self._first else 0
            least = 0 if met.held is None else met.held[0]
        self._numbers[:] = highest, -least, slowness
        self._due = self._tick + self._period
        self._work = met.work = met.group.allreduce(self._tensors, self._options)

    def _wait(self) -> None:
        """Until the round has ended; raises when it failed, or takes too long."""
        work, self._work = self._work, None
        if work.is_completed():
            work.wait()  # raises what went wrong
            return
        began = time.monotonic()
        while True:
            try:
                work.wait(_SLICE)
                break
            except RuntimeError:
                if work.is_completed():
                    raise
            waited = time.monotonic() - began
            if self._meeting.failure is not None:
                raise ConnectionError(self._meeting.failure)
            if waited > meeting.PATIENCE:
                raise TimeoutError(f"another rank did not come within {waited:.0f} s")
            self._meeting.look()
            self._check_held_up(self._waited + waited)
        self._waited += time.monotonic() - began

    def _check_held_up(self, waited: float) -> None:
        seconds, share = HELD_UP
        most = max(seconds, share * (time.monotonic() - self._first_at))
        if waited > most and not self.coupled():
            raise TimeoutError(
                f"the ranks do not step together: this one waited {waited:.1f} s for others"
            )

    # -- the end ----------------------------------------------------------------------------------

    def _differ(self) -> None:
        """The ranks are not under the same control: says what differs."""
        met = self._meeting
        met.compare(self._tick, self._steering.in_force())
        met.answered.wait(meeting.PATIENCE)
        self._stop(met.trouble or "the ranks are not under the same control")

    def _stop(self, text: str) -> None:
        if self.coupled():
            self._meeting.trouble = text  # again at each step: training must not go on
            raise RanksError(text)
        self._meeting.trouble = None
        if self._off:
            self._notices.warn("ranks apart", text)
        self._end(text)

    def _give_up(self, error: Exception) -> None:
        why = f"the ranks lost contact ({meeting.sentence(error)})"
        self._end(f"{why}; thresholds stay as they are")
        self._meeting.give_up(why)

    def _end(self, why: str) -> None:
        """There is no control from here on."""
        self._off = True
        self._work = None
        if self._steering.limits.why_not is None:
            self._steering.limits = Limits(why_not=why)
            self._notices.warn("ranks", f"{why}; nothing can be changed from outside any more")

    def leave(self, *, trains_on: bool = True) -> None:
        """The run is over on this rank; ``trains_on`` says that the process is not. Takes at most
        two seconds, and only where another rank hangs."""
        atexit.unregister(self._at_exit)
        _open.discard(self)
        if self._steering.limits.why_not is None:
            self._steering.limits = Limits(why_not="the run is over")
        self._off = True
        work, self._work = self._work, None
        until = time.monotonic() + 0.5
        while work is not None and not work.is_completed() and time.monotonic() < until:
            time.sleep(0.001)
        self._meeting.leave(trains_on=trains_on)

    def _at_exit(self) -> None:
        self.leave(trains_on=False)

    def forget(self) -> None:
        """In a forked child, which has no part in the job."""
        atexit.unregister(self._at_exit)
        self._steering.agree = None
        self._meeting.forget()


def announcement(levers: Iterable[Lever], limits: Limits, *, reports: bool) -> Announcement:
    """What a rank says about how it clips. reports: False on a rank 0 that talks to no server."""
    strategies, ranges = [], []
    for lever in levers:
        name = "/".join(part for part in (lever.stream, lever.match) if part is not None)
        values = " ".join(f"{key}={value!r}" for key, value in lever.strategy.parameters.items())
        kind = type(lever.strategy).__name__
        strategies.append(" ".join(part for part in (name and f"{name}:", kind, values) if part))
        ranges += [
            f"{name and f'{name}: '}{key} {limit.min!r}..{limit.max!r}"
            for key, limit in lever.limits.items()
        ]
    ranges.append(f"factor {limits.factor!r}, every {limits.every_steps} steps")
    ranges.append(f"learning rate {limits.lr!r}, stop {limits.stop!r}")
    why_not = limits.why_not or (None if reports else "rank 0 reports to no server")
    return Announcement("; ".join(strategies), "; ".join(ranges), why_not)


def _refused(waiting: Order | None) -> Change | None:
    """Without control a change is taken up to be refused, with the reason why; nothing else is."""
    return waiting if isinstance(waiting, Change) else None


def _store() -> Any:
    """This run's part of the store of the process group: the same for the n-th run on every rank."""
    global _attached
    group = c10d.distributed_c10d._get_default_group()
    known = _attached is not None and _attached[0]() is group
    number = _attached[1] + 1 if known and _attached is not None else 0
    _attached = (weakref.ref(group), number)
    store = c10d.distributed_c10d._get_default_store()
    if hasattr(store, "clone"):  # a connection of its own: nobody waits for its lock
        store = store.clone()
        store.set_timeout(timedelta(seconds=meeting.PATIENCE))
    return c10d.PrefixStore(f"gradhelm/{number}", store)


def _next_ask(tick: int) -> int:
    """The next step after ``tick`` at which ranks ask whether rounds begin."""
    ask = FIRST_ASK
    while ask <= tick:
        ask += max(FIRST_ASK, min(ask // 2, CHECK_EVERY))
    return ask


def _wrappers() -> Iterable[torch.nn.Module]:
    """All modules of this process that keep a model equal on all ranks."""
    kinds: set[type] = {torch.nn.parallel.DistributedDataParallel}
    sharded = sys.modules.get("torch.distributed.fsdp")
    if sharded is not None:
        names = ("FullyShardedDataParallel", "FSDPModule")
        kinds |= {getattr(sharded, name) for name in names if hasattr(sharded, name)}
    # Not issubclass: these are abstract classes, which remember every class they were asked about.
    return [found for found in gc.get_objects() if not kinds.isdisjoint(type(found).__mro__)]


def _forget_in_child() -> None:
    for one in list(_open):
        one.forget()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
