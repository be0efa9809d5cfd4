"""A stream: the steps of one optimizer, clipped, recorded and numbered.

Law: telemetry may fail quietly, clipping may not. What the clip raises reaches the training loop;
what anything else raises is counted and told once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn, optim

from . import unread
from .clip import Gradients, Outcome, Strategy, Target
from .clip.norm import Observe
from .clip.sharded import reader
from .control import Steering
from .errors import RanksError
from .layout import Layout, choose
from .measures import Measures
from .notice import Notices
from .recorder import Recorder
from .ring import Ring
from .wire import Column

SAMPLED: Final = 10
"""Where the norm after clipping costs a pass, it is measured on every tenth step only."""


class Stream:
    """The steps of one optimizer, or those that ``run.clip()`` takes.

    name: None for the run's first stream. step: the number of the next step. model: the one whose
    trainable parameters are clipped, when it is not an optimizer that says which.
    """

    def __init__(
        self,
        name: str | None,
        targets: list[Target],
        strategy: Strategy,
        *,
        start_step: int,
        every: int,
        measures: Measures | None = None,
        measure_every: int = 0,
        model: nn.Module | None = None,
    ) -> None:
        self.name: Final = name
        self.strategy: Final = strategy
        self.layout: Final = Layout(targets, strategy, name)
        self.step = start_step
        self.first_step = start_step
        self.closed = False
        # What still has to be told at the end.
        self.settle: Callable[[], None] | None = None
        self.recorder: Recorder | None = None
        self.measures: Final = measures
        self._every = every
        self._measure_every = measure_every
        self._targets = list(targets)
        self._parameters = [target.parameter for target in targets]
        self._read = reader(self._parameters)
        self._model = model
        self._frozen = [p for p in model.parameters() if not p.requires_grad] if model else []
        self._steering: Steering | None = None
        self._notices = Notices()
        # Which parameters had gradients at the last clip; None when all had.
        self._places: Sequence[int] | None = None
        # Clips of shards so far after which the norm was not known.
        self._unmeasured = 0
        # Gradients that are hidden from the optimizer while it takes a step that is to be skipped.
        self._hidden: list[tuple[Tensor, Tensor]] = []

    @property
    def threshold(self) -> float | None:
        """The threshold in force, None when nothing is clipped or there is not a single one."""
        return self.strategy.threshold

    @property
    def only_watches(self) -> bool:
        """Whether nothing is clipped: no threshold was asked for, nor was one set since."""
        return isinstance(self.strategy, Observe) and self.strategy.threshold is None

    @property
    def last_step(self) -> int | None:
        """The number of the step last taken."""
        return self.step - 1 if self.step > self.first_step else None

    @property
    def columns(self) -> list[Column]:
        """All columns of the stream."""
        return self.layout.columns + ([] if self.measures is None else self.measures.columns)

    def next_step(self) -> int:
        """The number of the next step."""
        return self.step

    def state_dict(self) -> dict[str, Any]:
        """The next step, and the strategy's state."""
        return {"step": self.step, "strategy": self.strategy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes that back; the step only before the first one was taken."""
        if not isinstance(state, Mapping) or not {"step", "strategy"} <= state.keys():
            raise ValueError("state must be what state_dict() gave")
        step = state["step"]
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"state['step'] must be an int of at least 0, not {step!r}")
        self.strategy.load_state_dict(state["strategy"])
        if self.step == self.first_step:
            self.first_step = self.step = step

    # -- for the run ------------------------------------------------------------------------------

    def steer(self, steering: Steering, notices: Notices) -> None:
        """Says where remote changes come from, and where faults are told."""
        self._steering = steering
        self._notices = notices

    def record(self) -> list[tuple[Recorder | Ring, list[Column]]]:
        """Starts recording; returns where rows come from, and their columns."""
        self.recorder = Recorder(self.layout, self._every, self._notices)
        sources: list[tuple[Recorder | Ring, list[Column]]] = [(self.recorder, self.layout.columns)]
        if self.measures is not None:
            self.measures.ring = Ring(len(self.measures.columns))
            sources.append((self.measures.ring, self.measures.columns))
        return sources

    def end(self, *, forget: bool) -> None:
        """Stops recording; clipping goes on. ``forget``: nobody will read what was recorded."""
        if self.settle is not None and not forget:
            self.settle()
        self.closed = True
        if self.recorder is not None and not forget:
            self.recorder.end()
        if forget:
            self.recorder = None
            if self.measures is not None:
                self.measures.ring = None

    # -- for the steps ----------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The version of the control document in force."""
        return 0 if self._steering is None else self._steering.version

    @property
    def lr_factor(self) -> float:
        """What the learning rates are multiplied by, for each step anew."""
        return 1.0 if self._steering is None else self._steering.lr_factor

    def boundary(self) -> None:
        """A step boundary: the only moment at which a remote change takes hold.

        Raises RanksError when the ranks of a distributed job differ.
        """
        try:
            if self._steering is not None:
                self._steering.take(self.name)
        except RanksError:
            raise
        except Exception as error:
            self._notices.fault("applying a change", error)

    def clip(self, places: Sequence[int] | None = None) -> Outcome | None:
        """Clips the gradients there are; None when there are none (or none could be observed).

        places: clip only those of these targets.
        """
        # As torch.no_grad() does it, which takes 20 us when training has emptied the caches.
        recording = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return self._clip(places)
        finally:
            torch._C._set_grad_enabled(recording)

    def _clip(self, places: Sequence[int] | None) -> Outcome | None:
        if self.only_watches:
            try:
                grads = self._gradients(places)
                if grads is None:
                    return None
                self._measure(grads)
                return unread.clip(self.strategy, grads) or self.strategy.clip(grads)
            except Exception as error:
                self._notices.fault("observing", error)
                return None
        grads = self._gradients(places)
        if grads is None:
            return None
        self._measure(grads)
        outcome = unread.clip(self.strategy, grads) or self.strategy.step(grads)
        if outcome.factor is not None:
            return outcome
        if outcome.skipped:
            self._hide(grads)
            self.measured(taken=False)
        elif outcome.post_norm is None and self._sampled(grads):
            outcome = outcome._replace(post_norm=grads.again().global_norm.item())
        return outcome

    def _sampled(self, grads: Gradients) -> bool:
        """Whether the norm after clipping is measured now, where that costs a pass."""
        if not grads.sharded:
            return self.recorder is not None and self.step % SAMPLED == 0
        # All ranks have to, those too that record nothing or number their steps otherwise.
        self._unmeasured += 1
        return self._unmeasured % SAMPLED == 1

    def _measure(self, grads: Gradients) -> None:
        """Before a step that is to be measured."""
        measures = self.measures
        if measures is None or measures.ring is None or self.closed:
            return
        if self.step % self._measure_every == 0:
            try:
                measures.begin(self.step, grads)
            except Exception as error:
                self._notices.fault("measuring", error)

    def measured(self, *, taken: bool = True) -> None:
        """After a step, whether it was to be measured or not."""
        if self.measures is None:
            return
        try:
            if taken and not self.closed:
                with torch.no_grad():
                    self.measures.finish(self.version)
            else:
                self.measures.cancel()
        except Exception as error:
            self._notices.fault("measuring", error)

    def _gradients(self, places: Sequence[int] | None) -> Gradients | None:
        if places is None:
            grads = self._read(self._parameters)
            self._places = None if grads is None else grads.places
            return grads
        grads = Gradients.of([self._parameters[place] for place in places])
        return None if grads is None else Gradients(grads.tensors, grads.parameters, places)

    def _hide(self, grads: Gradients) -> None:
        """Takes the gradients away: an optimizer passes over parameters that have none."""
        for parameter in grads.parameters:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def unhide(self) -> None:
        """Puts hidden gradients back, for whoever looks at them after the step."""
        for parameter, grad in self._hidden:
            if parameter.grad is None:
                parameter.grad = grad
        self._hidden.clear()

    def forget_hidden(self) -> None:
        """Leaves a skipped step without gradients: the loop's own step comes later."""
        self._hidden.clear()

    def count(
        self,
        outcome: Outcome | None,
        lr: Callable[[], float | None] = lambda: None,
        *,
        skipped: bool = False,
    ) -> None:
        """Records the step, with the learning rate that ``lr`` tells, and goes on to the next
        number."""
        step = self.step
        self.step = step + 1
        recorder = self.recorder
        if recorder is None or self.closed:
            return
        try:
            if outcome is None:
                recorder.without_gradients(
                    step, self.threshold, lr(), self.version, skipped=skipped
                )
            else:
                recorder.step(step, outcome, self._places, lr(), self.version)
        except Exception as error:
            recorder.losses.refuse(step)
            self._notices.fault("recording", error)

    def miss(self, error: Exception) -> None:
        """A step was taken, and what it measured cannot be told because of ``error``."""
        if self.recorder is not None and not self.closed:
            self.recorder.losses.refuse(self.step)
        self.step += 1
        self._notices.fault("recording", error)

    def count_round(
        self, places: Sequence[int], outcome: Outcome, lr: Callable[[], float | None]
    ) -> None:
        """Records a step whose gradients, those of ``places``, were clipped one by one."""
        self._places = None if len(places) == len(self._targets) else places
        self.count(outcome, lr)

    def adopt(self, targets: list[Target], optimizer: optim.Optimizer | None) -> None:
        """From here on clips ``targets``: those that are new have no column, and those that are no
        longer among them are as without a gradient."""
        known = {id(target.parameter) for target in self._targets}
        new = [target for target in targets if id(target.parameter) not in known]
        if new:
            self.strategy.bind([*self._targets, *new], optimizer)
            self._targets += new
            self._notices.warn(
                "adopted",
                f"{len(new)} parameters were added to the optimizer after attach, or unfrozen; "
                "they are clipped and count in the global norm, but are not shown one by one",
            )
        held = {id(target.parameter) for target in targets}
        # What is no longer held may keep its last gradient for ever.
        gone = torch.empty(0)
        self._parameters = [
            target.parameter if id(target.parameter) in held else gone for target in self._targets
        ]
        self._read = reader(self._parameters)

    def thaw(self) -> None:
        """Clips parameters of the model that were frozen at first, once they are not."""
        if self._model is not None and any(p.requires_grad for p in self._frozen):
            self.adopt([*self._targets, *choose(self._model, None)], None)
            self._frozen = [p for p in self._frozen if not p.requires_grad]
