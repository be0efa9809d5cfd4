"""A run: one training job from ``attach`` to ``close``.

Law: a run that cannot report clips all the same, and its end costs at most DRAIN seconds.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor

from .cargo import Cargo, Lane
from .control import Steering
from .judge import Judge
from .layout import RESERVED
from .notice import Notices, logger
from .outbox import Outbox
from .ring import Group
from .scalars import Scalars
from .stream import Stream
from .wire import MAX_GROUP, Finish

if TYPE_CHECKING:
    from .inbackward import InBackward
    from .ranks import Ranks
    from .stepper import Stepper

DRAIN: Final = 5.0
"""Seconds that the end of a run may take."""
STATUSES: Final = ("finished", "failed", "stopped")

_open_runs: weakref.WeakSet[Run] = weakref.WeakSet()


class Sender(Protocol):
    """The thread that takes what was measured from here: :class:`Link` or :class:`Keeper`."""

    @property
    def outbox(self) -> Outbox: ...

    def start(self) -> None: ...
    def finish(self, end: Finish, limit: float) -> bool: ...
    def forget(self) -> None: ...


class Run:
    """What :func:`gradhelm.attach` returns. Made there only.

    id: UUIDv7. url: the run's page. Closed at the end of the ``with`` block, by :meth:`close`, or
    when the process ends: as failed if an exception ended it, as stopped by Ctrl-C. At that point
    ``sys.exit("reason")`` looks like a proper end; inside a ``with`` block it counts as failed.

    streams: one :class:`Stream` for each optimizer, by name, each with its own ``step`` and
    ``threshold``; those of the run itself are the first one's.
    """

    def __init__(
        self, id: str, url: str, streams: Mapping[str, Stream], steering: Steering
    ) -> None:
        self.id: Final = id
        self.url: Final = url
        self.streams: Final = MappingProxyType(dict(streams))
        self._first = next(iter(streams.values()))
        self._steering = steering
        self._notices = Notices()
        self._scalars: Scalars | None = None
        self._link: Sender | None = None
        self._ranks: Ranks | None = None
        self._steppers: list[Stepper | InBackward] = []
        self._closed = False
        for stream in streams.values():
            stream.steer(steering, self._notices)

    def __repr__(self) -> str:
        return f"<Run {self.id} step {self.step} {self.url}>"

    # -- for users --------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The number of the next step."""
        return self._first.step

    @property
    def threshold(self) -> float | None:
        """The threshold in force, None when nothing is clipped or there is not a single one."""
        return self._first.threshold

    @property
    def control_version(self) -> int:
        """The version of the control document in force; 0 is what the script says."""
        return self._steering.version

    @property
    def should_stop(self) -> bool:
        """Whether somebody asked the run to end, which takes ``Control(stop=True)``. It turns True
        between two steps, for good; it is for the training loop to act upon it."""
        return self._steering.stopped

    def clip(self) -> Tensor:
        """Clips, records and counts one step, where ``clip_grad_norm_`` would stand.

        Only for runs attached without an optimizer (RuntimeError otherwise: gradients would be
        clipped twice). Returns the norm before clipping as a 0-d tensor. After a skipped step no
        parameter has a gradient.
        """
        if self._steppers:
            raise RuntimeError(
                "this run clips at each optimizer.step(); call run.clip() only after "
                "attach(model) without an optimizer"
            )
        stream = self._first
        stream.measured()  # the loop's own step came after the last clip
        stream.thaw()
        stream.boundary()
        outcome = stream.clip()
        stream.forget_hidden()
        stream.count(outcome)
        return torch.tensor(0.0) if outcome is None else outcome.global_norm

    def log(self, /, **scalars: Any) -> None:
        """Tells numbers (or 0-dim tensors, on any device) about the step last taken.

        Never waits and never raises: what cannot be logged costs one warning per name.
        """
        if self._scalars is None or self._closed:
            return
        stream = self._first
        step = stream.first_step if stream.last_step is None else stream.last_step
        try:
            self._scalars.put(step, time.time(), self._steering.version, scalars)
        except Exception as error:
            self._notices.fault("logging", error)

    def stats(self) -> dict[str, float]:
        """What being watched costs: hand-off times in microseconds (``handoff_p50_us``,
        ``handoff_p99_us``), ``ring_fill`` (0 to 1), rows ``dropped``, records ``unsent``, and
        ``sent_frames``. Empty when the run does not report.
        """
        scalars, link, recorder = self._scalars, self._link, self._first.recorder
        sources = [s.recorder for s in self.streams.values() if s.recorder is not None]
        if scalars is None or link is None or recorder is None:
            return {}
        outbox = link.outbox
        lost = sum(source.losses.count for source in sources)
        return recorder.handoff() | {
            "ring_fill": max(source.fill for source in sources),
            "dropped": float(lost + scalars.losses.count + outbox.rows_shed),
            "unsent": float(len(outbox)),
            "sent_frames": float(outbox.frames_sent),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the run's id, and of each stream the next step and what its
        strategy has learned; ``torch.load(weights_only=True)`` reads it. Values that are set for
        a time only are not in it; those that they replaced are.
        """
        with self._steering.settled():
            streams = {name: stream.state_dict() for name, stream in self.streams.items()}
        return {"run_id": self.id, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back steps and strategies; to go on in the same run, also pass
        ``attach(run_id=state["run_id"], resume=True)``.

        Steps never go back within one life of the trainer: after the first step only the strategies
        are taken back. Values that were set remotely come again from the server. Raises ValueError
        for what is not the state of such a run.
        """
        streams = state.get("streams") if isinstance(state, Mapping) else None
        if not isinstance(streams, Mapping) or set(streams) != set(self.streams):
            raise ValueError(
                f"state must be what state_dict() of a run with the streams "
                f"{sorted(self.streams)} gave"
            )
        for name, stream in self.streams.items():
            stream.load_state_dict(streams[name])

    def detach(self) -> None:
        """Takes the hooks off the optimizer: whoever clips now, this run does not.

        The run itself stays open; nothing is left to do for one attached without an optimizer.
        """
        for stepper in self._steppers:
            stepper.remove()
        if self._steppers and self._ranks is not None:
            self._ranks.leave()

    def close(self, status: str = "finished") -> None:
        """Delivers what is left, within five seconds, and ends the run; clipping goes on.

        status: ``finished``, ``failed`` or ``stopped`` (ValueError for others). Closing again does
        nothing.
        """
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}; accepted: {', '.join(STATUSES)}")
        self._end(status, "")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end_by(error)

    # -- for the hook -----------------------------------------------------------------------------

    def _report(self, made: Callable[[Cargo, Notices], Sender], where: str) -> None:
        """Starts reporting by what is ``made``: from here on there is a second thread."""
        lanes = []
        numbers = 0
        for stream in self.streams.values():
            for source, columns in stream.record():
                starts = range(0, len(columns), MAX_GROUP)
                groups = [
                    Group(number, start, min(start + MAX_GROUP, len(columns)))
                    for number, start in enumerate(starts, numbers)
                ]
                numbers += len(groups)
                lanes.append(Lane(source, groups, columns, stream.name))
        names = {column.name for lane in lanes for column in lane.columns} | RESERVED
        self._scalars = Scalars(self._notices, frozenset(names), numbers)
        judge = Judge(self._steering, self._notices)
        for stream in self.streams.values():
            if stream.recorder is not None:
                stream.recorder.judge = judge
        self._scalars.judge = judge
        cargo = Cargo(lanes, self._scalars, self._steering, judge, self._beat, self._notices)
        self._link = made(cargo, self._notices)
        self._link.start()
        _open_runs.add(self)
        atexit.register(self._at_exit)
        watched = sum(len(stream.layout.targets) for stream in self.streams.values())
        logger.info("watching %d parameters %s", watched, where)

    def _beat(self) -> tuple[int | None, dict[str, float]]:
        return self._first.last_step, self.stats()

    def _silence(self, *, forget: bool = False) -> None:
        """Nothing is recorded any more."""
        self._closed = True
        for stream in self.streams.values():
            stream.end(forget=forget)

    def _end(self, status: str, why: str) -> None:
        if self._closed:
            return
        began = time.monotonic()
        with self._notices.guard("closing"):
            self._silence()
        if self._ranks is not None:
            with self._notices.guard("closing"):
                self._ranks.leave()
        if self._link is None:
            return
        atexit.unregister(self._at_exit)
        _open_runs.discard(self)
        end = Finish(status, self._first.last_step, why[:1000])
        for _ in range(2):  # a fault of our own has a second try, which is the last chance
            with self._notices.guard("closing"):
                if not self._link.finish(end, DRAIN - (time.monotonic() - began)):
                    self._notices.warn("end", f"{self.url}: the end of the run was not told")
                return

    def _at_exit(self) -> None:
        if self._ranks is not None:
            self._ranks.leave(trains_on=False)
        # In an interactive session the last exception is not what ended it.
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        self._end_by(error)

    def _end_by(self, error: BaseException | None) -> None:
        """Ends the run as what ended the training says: nothing, a person, or a mistake."""
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self._end("finished", "")
        elif isinstance(error, KeyboardInterrupt):
            self._end("stopped", "interrupted")
        else:
            self._end("failed", _sentence(error))


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _forget_in_child() -> None:
    """A forked child has the run's memory but not its thread: it clips and says nothing."""
    for run in list(_open_runs):
        atexit.unregister(run._at_exit)
        run._silence(forget=True)
        if run._link is not None:
            run._link.forget()
        run._scalars = run._link = None
    _open_runs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
