"""Strategies made of strategies: one after a schedule, one under a ceiling.

Law: what is composed stays what it is: its values are the ones that are set from outside, its state
travels along, and its policy for non-finite steps is the one that counts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import torch
from torch import optim

from .base import POSITIVE, Range, Strategy, checked
from .gradients import Gradients, Outcome, Target

_SHAPES: Final[dict[str, Callable[[float, float], float]]] = {
    "linear": lambda done, factor: 1 + (factor - 1) * done,
    "cosine": lambda done, factor: factor + (1 - factor) * (1 + math.cos(math.pi * done)) / 2,
}


class _Wrapper(Strategy):
    """Acts for another strategy, ``inner``, and looks like it from outside.

    The named values are the inner strategy's and those in ``own_names``.
    """

    own_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, strategy: Strategy, **own: float) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"strategy must be a Strategy, not {type(strategy).__name__}")
        self.inner = strategy
        for name in self.own_names:
            if strategy.accepts(name):
                raise ValueError(f"strategy {strategy.name} has a value called {name} already")
        super().__init__(nonfinite="propagate", **own)
        for name in (
            "threshold_name",
            "counts_elements",
            "per_parameter",
            "per_parameter_thresholds",
            "takes_sparse",
            "takes_complex",
            "folds",
        ):
            setattr(self, name, getattr(strategy, name))

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.inner.name})"

    @property
    def parameters(self) -> dict[str, float]:
        return {**self.inner.parameters, **self._values}

    @property
    def threshold(self) -> float | None:
        return self.inner.threshold

    def __getitem__(self, name: str) -> float:
        return self._values[name] if name in self.own_names else self.inner[name]

    def accepts(self, name: str) -> bool:
        return name in self.own_names or self.inner.accepts(name)

    def range(self, name: str) -> Range:
        return super().range(name) if name in self.own_names else self.inner.range(name)

    def validate(self, name: str, value: object) -> float:
        own = name in self.own_names
        return super().validate(name, value) if own else self.inner.validate(name, value)

    def set(self, **values: float) -> None:
        self.reset({**self.parameters, **values})

    def reset(self, values: Mapping[str, float]) -> None:
        self._whole(values)
        own = {name: self.validate(name, values[name]) for name in self.own_names}
        self.inner.reset({name: v for name, v in values.items() if name not in self.own_names})
        self._values = own

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        self.inner.bind(targets, optimizer)

    def admit(self, grads: Gradients) -> None:
        self.inner.admit(grads)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        values, learned = self._read(state)
        if "inner" not in state or set(values) != set(self.own_names):
            raise ValueError(f"state is of another strategy: {self.name} has an inner one")
        own = {name: self.validate(name, value) for name, value in values.items()}
        self.inner.load_state_dict(state["inner"])
        self._values = own
        self._recall(learned)


class Schedule(_Wrapper):
    """Another strategy whose threshold changes with time: c(t) = c * factor(t).

    strategy: the one that clips; its threshold in the script (or as set from outside) is c.
    shape: how the factor goes, with t counted in this strategy's own steps from 0:
        ``"constant"``: 1; ``"linear"`` and ``"cosine"``: from 1 at t=0 to ``factor`` at ``steps``,
        and so it stays; ``"step"``: times ``factor`` after each ``steps``; ``"lr"``: the learning
        rate of the optimizer's first group by its initial one (``initial_lr``, which torch's
        schedulers set, else the first one seen).
    warmup, start: for the first ``warmup`` steps the factor goes from ``start`` to the shape's own,
        linearly: above 1 the clip is looser while the learning rate warms up, below 1 it is tighter.

    The values that are set from outside are the strategy's own. Raises ValueError for a factor with
    which the threshold would leave its range.
    """

    state_names: ClassVar[tuple[str, ...]] = ("taken", "first_lr")

    def __init__(
        self,
        strategy: Strategy,
        shape: str = "constant",
        *,
        steps: int | None = None,
        factor: float | None = None,
        warmup: int = 0,
        start: float = 1.0,
    ) -> None:
        super().__init__(strategy)
        self.other_norm = strategy.other_norm
        if strategy.threshold_name is None:
            raise ValueError(f"strategy {strategy.name} has no threshold to schedule")
        if shape not in ("constant", "linear", "cosine", "step", "lr"):
            raise ValueError(
                f"shape is {shape!r}; accepted: 'constant', 'linear', 'cosine', 'step', 'lr'"
            )
        timed = shape in ("linear", "cosine", "step")
        if timed and (steps is None or factor is None):
            raise ValueError(f"shape {shape!r} needs steps and factor")
        if not timed and not (steps is None and factor is None):
            raise ValueError(f"shape {shape!r} takes neither steps nor factor")
        self.shape = shape
        self.steps = 1 if steps is None else _count("steps", steps, 1)
        self.factor = 1.0 if factor is None else checked("factor", factor)
        self.warmup = _count("warmup", warmup, 0)
        self.start = checked("start", start)
        unbounded = shape == "lr" or (shape == "step" and self.factor > 1)
        if unbounded and strategy.range(strategy.threshold_name) != POSITIVE:
            raise ValueError(
                f"shape {shape!r} cannot be used with {strategy.name}: its "
                f"{strategy.threshold_name} must be {strategy.range(strategy.threshold_name)}"
            )
        self.taken = 0
        self.first_lr: float | None = None
        self._optimizer: optim.Optimizer | None = None
        self.validate(strategy.threshold_name, strategy[strategy.threshold_name])

    def __repr__(self) -> str:
        return f"Schedule({self.inner!r}, {self.shape!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_optimizer": None}

    @property
    def threshold(self) -> float | None:
        with self._scheduled():
            return self.inner.threshold

    @property
    def now(self) -> float:
        """The factor that the next step is clipped with."""
        t = self.taken
        if self.shape in _SHAPES:
            value = _SHAPES[self.shape](min(t / self.steps, 1.0), self.factor)
        elif self.shape == "step":
            value = self.factor ** (t // self.steps)
        else:
            value = self._lr_ratio() if self.shape == "lr" else 1.0
        if t < self.warmup:
            value *= self.start + (1 - self.start) * t / self.warmup
        return value

    def validate(self, name: str, value: object) -> float:
        """As for the inner strategy; and the schedule must not take the threshold out of its
        range."""
        base = super().validate(name, value)
        if name != self.threshold_name:
            return base
        # The factors lie between these: the shapes and the warm-up each go one way.
        ends = {1.0, self.factor if self.shape in _SHAPES else 1.0}
        for end in {end * start for end in ends for start in (1.0, self.start)}:
            try:
                super().validate(name, base * end)
            except ValueError as error:
                raise ValueError(f"{error} (the schedule takes {base:g} times {end:g})") from None
        return base

    def reset(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if self.accepts(name):
                self.validate(name, value)
        super().reset(values)

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        super().bind(targets, optimizer)
        if self.shape == "lr" and optimizer is None:
            raise ValueError(
                "Schedule 'lr' reads the optimizer's learning rate: attach(model, optimizer, ...)"
            )
        self._optimizer = optimizer

    def clip(self, grads: Gradients) -> Outcome:
        try:
            with self._scheduled():
                return self.inner.step(grads)
        finally:
            # Every step counts, refused ones as well: schedules of learning rates do the same.
            self.taken += 1

    @contextmanager
    def _scheduled(self) -> Iterator[None]:
        """Meanwhile the inner strategy has the value that the schedule gives it now."""
        name = self.threshold_name
        assert name is not None
        base = self.inner.parameters
        # A learning rate of 0, and the hundredth halving, still leave a threshold above 0.
        scaled = min(max(base[name] * self.now, sys.float_info.min), sys.float_info.max)
        self.inner.reset({**base, name: scaled})
        try:
            yield
        finally:
            self.inner.reset(base)

    def _lr_ratio(self) -> float:
        if self._optimizer is None:
            return 1.0
        group = self._optimizer.param_groups[0]
        lr = float(group["lr"])
        if self.first_lr is None:
            self.first_lr = float(group.get("initial_lr", lr))
        return lr / self.first_lr if self.first_lr else 1.0


class Ceiling(_Wrapper):
    """Another strategy, and after it a clip of the common norm: never longer than ``max_norm``.

    For adaptive strategies, whose threshold follows the norms: when these run away slowly, the
    ceiling holds. From outside both can be set, the strategy's own values and ``ceiling``. Where
    both bound the common norm, the threshold that is told is the smaller one.
    """

    own_names: ClassVar[tuple[str, ...]] = ("ceiling",)

    def __init__(self, strategy: Strategy, max_norm: float) -> None:
        if isinstance(strategy, Strategy) and strategy.folds:
            raise ValueError("strategy has exact=False: nothing is clipped yet for the ceiling")
        super().__init__(strategy, ceiling=checked("max_norm", max_norm))

    def __repr__(self) -> str:
        return f"Ceiling({self.inner!r}, {self['ceiling']:g})"

    @property
    def threshold(self) -> float | None:
        return self._lower(self.inner.threshold)

    def clip(self, grads: Gradients) -> Outcome:
        first = self.inner.step(grads)
        if first.skipped:
            return first
        limit = self._values["ceiling"]
        if not first.changed:
            norm = grads.global_norm
        elif first.post_norm is not None and not self.inner.other_norm:
            norm = torch.tensor(first.post_norm, dtype=grads.global_norm.dtype)
        else:
            norm = grads.again().global_norm
        factor = grads.scale(torch.clamp(limit / (norm + 1e-6), max=1.0))
        lowered = factor != 1.0
        bounds = first.coefficient is not None
        whole = first.coefficients is None and first.share is None
        return first._replace(
            threshold=self._lower(first.threshold),
            coefficient=(1.0 if first.coefficient is None else first.coefficient) * factor
            if bounds or whole
            else None,
            coefficients=None if first.coefficients is None else first.coefficients * factor,
            share=1.0 if lowered and first.share is not None else first.share,
            post_norm=norm.item() * factor,
            changed=first.changed or lowered,
        )

    def _lower(self, threshold: float | None) -> float | None:
        """The smaller one of ``threshold`` and the ceiling, where both bound the common norm."""
        if self.per_parameter or self.counts_elements or self.inner.other_norm:
            return threshold
        ceiling = self._values["ceiling"]
        return ceiling if threshold is None else min(threshold, ceiling)


def _count(argument: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}, not {value}")
    return value
