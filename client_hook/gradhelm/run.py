"""A run: one training job from ``attach`` to ``close``.

Law: telemetry may fail quietly, clipping may not. What the clip raises reaches the training loop;
what anything else raises is counted and told once.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, optim

from .cargo import Cargo
from .clip import Gradients, Outcome, Strategy, Target
from .clip.norm import Observe
from .control import Steering
from .layout import Layout
from .link import Link
from .notice import Notices, logger
from .recorder import Recorder
from .ring import Ring
from .scalars import Scalars
from .wire import Finish, Hello, Limits

if TYPE_CHECKING:
    from .stepper import Stepper

DRAIN: Final = 5.0
"""Seconds that the end of a run may take."""
SAMPLED: Final = 10
"""Where the norm after clipping costs a pass, it is measured on every tenth step only."""
STATUSES: Final = ("finished", "failed", "stopped")

_open_runs: weakref.WeakSet[Run] = weakref.WeakSet()


class Run:
    """What :func:`gradhelm.attach` returns. Made there only.

    id: UUIDv7. url: the run's page. Closed at the end of the ``with`` block, by :meth:`close`, or
    when the process ends: as failed if an exception ended it, as stopped by Ctrl-C. At that point
    ``sys.exit("reason")`` looks like a proper end; inside a ``with`` block it counts as failed.
    """

    def __init__(
        self,
        id: str,
        url: str,
        layout: Layout,
        strategy: Strategy,
        limits: Limits,
        *,
        start_step: int,
        every: int,
    ) -> None:
        self.id: Final = id
        self.url: Final = url
        self._targets = list(layout.targets)
        self._parameters = [target.parameter for target in layout.targets]
        self._layout = layout
        self._strategy = strategy
        self._steering = Steering(strategy, limits)
        self._notices = Notices()
        self._every = every
        self._first_step = start_step
        self._step = start_step
        self._scalars: Scalars | None = None
        self._recorder: Recorder | None = None
        self._ring: Ring | None = None
        self._link: Link | None = None
        self._stepper: Stepper | None = None
        self._closed = False
        # Which parameters had gradients at the last clip; None when all had.
        self._places: Sequence[int] | None = None
        # Gradients that are hidden from the optimizer while it takes a step that is to be skipped.
        self._hidden: list[tuple[Tensor, Tensor]] = []

    def __repr__(self) -> str:
        return f"<Run {self.id} step {self._step} {self.url}>"

    # -- for users --------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The number of the next step."""
        return self._step

    @property
    def threshold(self) -> float | None:
        """The threshold in force, None when nothing is clipped."""
        return self._strategy.threshold

    @property
    def control_version(self) -> int:
        """The version of the control document in force; 0 is what the script says."""
        return self._steering.version

    def clip(self) -> Tensor:
        """Clips, records and counts one step, where ``clip_grad_norm_`` would stand.

        Only for runs attached without an optimizer (RuntimeError otherwise: gradients would be
        clipped twice). Returns the norm before clipping as a 0-d tensor.
        """
        if self._stepper is not None:
            raise RuntimeError(
                "this run clips at each optimizer.step(); call run.clip() only after "
                "attach(model) without an optimizer"
            )
        self._boundary()
        outcome = self._clip()
        self._hidden.clear()  # here the user's own step comes later: a skipped one has no gradients
        self._count(outcome, None)
        return torch.tensor(0.0) if outcome is None else outcome.global_norm

    def log(self, /, **scalars: Any) -> None:
        """Tells numbers (or 0-dim tensors, on any device) about the step last taken.

        Never waits and never raises: what cannot be logged costs one warning per name.
        """
        if self._scalars is None or self._closed:
            return
        step = max(self._step - 1, self._first_step)
        try:
            self._scalars.put(step, time.time(), self._steering.version, scalars)
        except Exception as error:
            self._notices.fault("logging", error)

    def stats(self) -> dict[str, float]:
        """What being watched costs: hand-off times in microseconds (``handoff_p50_us``,
        ``handoff_p99_us``), ``ring_fill`` (0 to 1), rows ``dropped``, records ``unsent``, and
        ``sent_frames``. Empty when the run does not report.
        """
        ring, scalars, link, recorder = self._ring, self._scalars, self._link, self._recorder
        if ring is None or scalars is None or link is None or recorder is None:
            return {}
        outbox = link.outbox
        return recorder.handoff() | {
            "ring_fill": ring.fill,
            "dropped": float(ring.losses.count + scalars.losses.count + outbox.rows_shed),
            "unsent": float(len(outbox)),
            "sent_frames": float(outbox.frames_sent),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the run's id, the next step, the strategy's values."""
        return {"run_id": self.id, "step": self._step, "strategy": self._strategy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back step and strategy values; to go on in the same run, also pass
        ``attach(run_id=state["run_id"], resume=True)``.

        Steps never go back within one life of the trainer: after the first step only the values are
        taken back. Values that were set remotely come again from the server.
        """
        step = state["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"state['step'] must be an int of at least 0, not {step!r}")
        self._strategy.load_state_dict(state["strategy"])
        if self._step == self._first_step:
            self._first_step = self._step = step

    def detach(self) -> None:
        """Takes the hooks off the optimizer: whoever clips now, this run does not.

        The run itself stays open; nothing is left to do for one attached without an optimizer.
        """
        if self._stepper is not None:
            self._stepper.remove()

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

    def _report_to(self, server: str, token: str, hello: Hello) -> None:
        """Starts reporting: from here on there is a second thread."""
        layout = self._layout
        self._ring = Ring(len(layout.columns))
        self._scalars = Scalars(self._notices, layout.names, len(layout.groups))
        self._recorder = Recorder(layout, self._ring, self._every)
        cargo = Cargo(
            self._ring, layout.groups, layout.columns, self._scalars, self._steering, self._beat
        )
        self._link = Link(server, token, hello, cargo, self._notices)
        self._link.start()
        _open_runs.add(self)
        atexit.register(self._at_exit)
        logger.info("watching %d parameters at %s", len(layout.targets), self.url)

    def _boundary(self) -> None:
        """A step boundary: the only moment at which a remote change takes hold."""
        try:
            self._steering.take(self._step)
        except Exception as error:
            self._notices.fault("applying a change", error)

    def _clip(self) -> Outcome | None:
        """Clips the gradients there are; None when there are none (or none could be observed)."""
        with torch.no_grad():
            if isinstance(self._strategy, Observe) and self._strategy.threshold is None:
                try:
                    return self._watch()
                except Exception as error:
                    self._notices.fault("observing", error)
                    return None
            grads = Gradients.of(self._parameters)
            if grads is None:
                return None
            self._places = grads.places
            outcome = self._strategy.step(grads)
            if outcome.skipped:
                self._hide(grads)
            elif outcome.post_norm is None and self._recorder and self._step % SAMPLED == 0:
                after = Gradients(grads.tensors, grads.parameters).global_norm
                outcome = outcome._replace(post_norm=after.item())
        return outcome

    def _watch(self) -> Outcome | None:
        grads = Gradients.of(self._parameters)
        if grads is None:
            return None
        self._places = grads.places
        return self._strategy.clip(grads)

    def _hide(self, grads: Gradients) -> None:
        """Takes the gradients away: an optimizer passes over parameters that have none."""
        for parameter in grads.parameters:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def _unhide(self) -> None:
        """Puts hidden gradients back, for whoever looks at them after the step."""
        for parameter, grad in self._hidden:
            if parameter.grad is None:
                parameter.grad = grad
        self._hidden.clear()

    def _count(self, outcome: Outcome | None, lr: float | None, *, skipped: bool = False) -> None:
        """Records the step and goes on to the next number."""
        step = self._step
        self._step = step + 1
        recorder = self._recorder
        if recorder is None or self._closed:
            return
        version = self._steering.version
        try:
            if outcome is None:
                threshold = self._strategy.threshold
                recorder.without_gradients(step, threshold, lr, version, skipped=skipped)
            else:
                recorder.step(step, outcome, self._places, lr, version)
        except Exception as error:
            self._notices.fault("recording", error)

    def _adopt(self, targets: list[Target], optimizer: optim.Optimizer) -> None:
        """Clips parameters that the optimizer was given later, too; they have no column."""
        known = {id(p) for p in self._parameters}
        new = [target for target in targets if id(target.parameter) not in known]
        if new:
            self._strategy.bind([*self._targets, *new], optimizer)
            self._targets += new
            self._parameters += [target.parameter for target in new]
            self._notices.warn(
                "adopted",
                f"{len(new)} parameters were added to the optimizer after attach; they are clipped "
                "and count in the global norm, but are not shown one by one",
            )

    def _beat(self) -> tuple[int | None, dict[str, float]]:
        return self._last_step(), self.stats()

    def _last_step(self) -> int | None:
        return self._step - 1 if self._step > self._first_step else None

    def _end(self, status: str, why: str) -> None:
        if self._closed:
            return
        self._closed = True
        link = self._link
        if link is None:
            return
        atexit.unregister(self._at_exit)
        _open_runs.discard(self)
        try:
            if not link.finish(Finish(status, self._last_step(), why[:1000]), DRAIN):
                self._notices.warn("end", f"{self.url}: the end of the run was not delivered")
        except Exception as error:
            self._notices.fault("closing", error)

    def _at_exit(self) -> None:
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
        run._closed = True
        run._recorder = run._scalars = run._link = None
    _open_runs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
