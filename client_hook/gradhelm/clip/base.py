"""What a clipping strategy is: a small object with named values that changes gradients in place.

Law: a strategy keeps torch's meaning to the bit where torch has one, and costs no second pass over
the gradients.
"""

from __future__ import annotations

import copy
import math
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, optim

from .gradients import Gradients, Outcome, Target
from .sharded import Reader, check, is_sharded, reader

POLICIES: Final = ("propagate", "zero", "skip", "raise")


@dataclass(frozen=True)
class Range:
    """What a named value may be: a number above ``low`` (or at it) and below ``high`` (or at it)."""

    low: float = 0.0
    high: float = math.inf
    low_in: bool = False
    high_in: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number"
        low = f"{'at least' if self.low_in else 'above'} {self.low:g}"
        if self.high == math.inf:
            return f"{kind} {low}"
        return f"{kind} {low} and {'at most' if self.high_in else 'below'} {self.high:g}"

    def __contains__(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.low < number or (self.low_in and number == self.low))
            and (number < self.high or (self.high_in and number == self.high))
            and (not self.whole or number.is_integer())
        )


POSITIVE: Final = Range()
SHARE: Final = Range(0, 1)
"""Strictly between 0 and 1."""
DECAY: Final = Range(0, 1, low_in=True)
"""The factor of an exponential moving average."""
COUNT: Final = Range(1, 2**53, low_in=True, whole=True)
COUNT_OR_NONE: Final = Range(0, 2**53, low_in=True, whole=True)


def checked(name: str, value: object, allowed: Range = POSITIVE) -> float:
    """``value`` as a float if it is ``allowed``; ``name`` is what the error calls it.

    Raises TypeError for what is no real number (bool included), else ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {allowed}, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number not in allowed:
        raise ValueError(f"{name} must be {allowed}, not {number!r}")
    return number


class Strategy:
    """The base of all strategies; subclass it to write one.

    A subclass passes its named values (those a remote user may change) to ``__init__``, says in
    ``threshold_name`` which of them one turns to clip more or less, and implements :meth:`clip`::

        class Halve(Strategy):
            threshold_name = "max_norm"

            def __init__(self, max_norm: float, *, nonfinite: str = "propagate") -> None:
                super().__init__(max_norm=max_norm, nonfinite=nonfinite)

            def clip(self, grads: Gradients) -> Outcome:
                limit = self["max_norm"]
                half = torch.tensor(0.5 if grads.global_norm > limit else 1.0)
                return grads.by_norm(limit, half)

    What it learns on the way it keeps in attributes named in ``state_names``; they travel in
    :meth:`state_dict`.

    nonfinite: what happens to a step whose common norm is not finite. ``"propagate"``: the formula
    decides, as in torch; ``"zero"``: all gradients become 0; ``"skip"``: the optimizer does not
    take them; ``"raise"``: RuntimeError, gradients untouched. Such a step teaches a strategy
    nothing.
    """

    threshold_name: ClassVar[str | None] = None
    ranges: ClassVar[Mapping[str, Range]] = {}
    """What the named values may be; above 0 where nothing is said."""
    state_names: ClassVar[tuple[str, ...]] = ()
    counts_elements: ClassVar[bool] = False
    """Whether outcomes carry a ``share``; such runs have a ``clip_share`` column."""
    per_parameter: ClassVar[bool] = False
    """Whether outcomes carry ``coefficients``; such runs have a column ``coef/...`` for each."""
    per_parameter_thresholds: ClassVar[bool] = False
    """Whether outcomes carry ``thresholds``; such runs have a column ``threshold/...`` for each."""
    one_by_one: ClassVar[bool] = False
    """Whether each gradient can be clipped while the others are not there."""
    takes_sparse: ClassVar[bool] = True
    """Whether sparse gradients can be clipped so."""
    takes_complex: ClassVar[bool] = True
    takes_sharded: ClassVar[bool] = False
    """Whether shards of gradients can be clipped so: all that decides is measured by
    :class:`Gradients`, or goes through its ``joined`` and ``summed``."""
    folds: bool = False
    """Whether the multiplication is left to a fused optimizer, see :class:`GlobalNorm`."""
    outcome: Outcome | None = None
    """What the last call without a run measured and did; None before the first."""
    _gather: Reader = staticmethod(Gradients.of)
    norm_type: float = 2.0
    other_norm: bool = False
    """Whether outcomes are told in another norm than the gradients' L2 norm."""

    def __init__(self, *, nonfinite: str = "propagate", **values: float) -> None:
        if nonfinite not in POLICIES:
            accepted = ", ".join(map(repr, POLICIES))
            raise ValueError(f"nonfinite is {nonfinite!r}; accepted: {accepted}")
        self.nonfinite = nonfinite
        self._values = {name: self.validate(name, value) for name, value in values.items()}
        self._bound: tuple[object, ...] = ()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self._values.items())
        return f"{self.name}({values})"

    def __getstate__(self) -> dict[str, Any]:
        """A copy is bound to nothing: neither to the parameters nor to their optimizer."""
        state = {**self.__dict__, "_bound": ()}
        state.pop("_gather", None)
        return state

    def __getitem__(self, name: str) -> float:
        """The named value in force. Raises KeyError for a name that is not one."""
        return self._values[name]

    @property
    def name(self) -> str:
        """The strategy's name as the page shows it."""
        return type(self).__name__

    @property
    def parameters(self) -> dict[str, float]:
        """The named values in force (a copy)."""
        return dict(self._values)

    @property
    def threshold(self) -> float | None:
        """The threshold in force, None when nothing is clipped or there is not a single one."""
        name = self.threshold_name
        return None if name is None else self._values.get(name)

    @property
    def rules(self) -> Mapping[str | None, Strategy]:
        """The strategies whose named values are set from outside, by the pattern they are for.

        Its own alone, under None, unless it is made of several.
        """
        return {None: self}

    def accepts(self, name: str) -> bool:
        """Whether ``name`` is one of this strategy's values."""
        return name in self._values

    def range(self, name: str) -> Range:
        """What the value called ``name`` may be."""
        return self.ranges.get(name, POSITIVE)

    def validate(self, name: str, value: object) -> float:
        """``value`` as a float if ``name`` may take it.

        Raises TypeError for what is no real number (bool included), else ValueError.
        """
        return checked(name, value, self.range(name))

    def set(self, **values: float) -> None:
        """Changes named values, all or none. Raises ValueError or TypeError as validate does."""
        self.reset({**self._values, **values})

    def reset(self, values: Mapping[str, float]) -> None:
        """Makes ``values`` all the named values there are, or changes nothing and raises."""
        self._whole(values)
        self._values = {name: self.validate(name, value) for name, value in values.items()}

    def _whole(self, values: Mapping[str, float]) -> None:
        """Raises ValueError unless ``values`` has this strategy's names, and all of them."""
        known = self.parameters
        for name in values:
            if not self.accepts(name):
                accepted = ", ".join(known) or "none"
                raise ValueError(f"{self.name} has no value called {name!r}; accepted: {accepted}")
        for name in known:
            if name not in values:
                raise ValueError(f"{self.name} needs a value for {name!r} as well")

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs: the named values, and what was learned.

        Numbers, texts, lists and tensors only, so that ``torch.load(weights_only=True)`` reads it.
        """
        state = {name: copy.deepcopy(getattr(self, name)) for name in self.state_names}
        return {"strategy": type(self).__name__, "values": dict(self._values), "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave: goes on as if never stopped.

        Raises ValueError or TypeError, and changes nothing, when it is another strategy's state.
        """
        values, learned = self._read(state)
        self.reset(values)
        self._recall(learned)

    def _read(self, state: Mapping[str, Any]) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Named values and learned ones out of a state_dict of this strategy."""
        known = state if isinstance(state, Mapping) else {}
        values, learned = known.get("values"), known.get("state")
        if not (isinstance(values, Mapping) and isinstance(learned, Mapping)):
            raise ValueError("state must be what state_dict() gave")
        own = type(self).__name__
        kind = known.get("strategy", own)
        if kind != own:
            raise ValueError(f"state is of another strategy: it is a {kind}'s, and this is {own}")
        if set(learned) != set(self.state_names):
            raise ValueError(
                f"state is of another strategy: it has {sorted(learned)}, and {self.name} "
                f"has {sorted(self.state_names)}"
            )
        return values, learned

    def _recall(self, learned: Mapping[str, Any]) -> None:
        for name, value in learned.items():
            setattr(self, name, copy.deepcopy(value))

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        """Says which parameters will be clipped, in order, and by whom they are stepped.

        Called before the first step, and again when parameters were added at the end. Raises
        ValueError when they cannot be clipped so.
        """
        for target in targets:
            if target.sparse and not self.takes_sparse:
                raise ValueError(
                    f"{self.name} cannot clip the sparse gradients of {target.name}; "
                    "use GlobalNorm or Value, or sparse=False"
                )
            if target.parameter.is_complex() and not self.takes_complex:
                raise ValueError(
                    f"{self.name} cannot clip the complex gradients of {target.name}; "
                    "use GlobalNorm"
                )
            if is_sharded(target.parameter):
                check(target.name, target.parameter)
                if not self.takes_sharded:
                    raise ValueError(
                        f"{self.name} does not say that it can clip shards of gradients "
                        f"(takes_sharded), and {target.name} is sharded; use a strategy of "
                        "gradhelm.clip"
                    )

    def clip(self, grads: Gradients) -> Outcome:
        """Clips ``grads`` in place; called without gradient recording."""
        raise NotImplementedError

    def admit(self, grads: Gradients) -> None:
        """Raises RuntimeError when ``grads`` are not finite and the policy is to raise then.

        For who has several strategies clip parts of a step: asks before any has changed its part.
        """
        if self.nonfinite == "raise":
            norms, total = grads.norm(self.norm_type)
            if not bool(torch.isfinite(total)):
                self._refuse(grads, norms, total)

    def step(self, grads: Gradients) -> Outcome:
        """Clips ``grads`` in place, once it is settled what happens if they are not finite."""
        if not self.takes_sparse and any(
            p.grad is not None and p.grad.is_sparse for p in grads.parameters
        ):
            raise ValueError(
                f"{self.name} cannot clip sparse gradients, and there are some; "
                "use GlobalNorm or Value, or sparse=False"
            )
        if self.nonfinite != "propagate":
            norms, total = grads.norm(self.norm_type)
            if not bool(torch.isfinite(total)):
                return self._refuse(grads, norms, total)
        outcome = self.clip(grads)
        if not isinstance(outcome, Outcome):
            raise TypeError(
                f"{self.name}.clip must return an Outcome, not {type(outcome).__name__}"
            )
        return outcome

    def _refuse(self, grads: Gradients, norms: Tensor, total: Tensor) -> Outcome:
        if self.nonfinite == "raise":
            raise RuntimeError(
                f"The total norm of order {self.norm_type} for gradients from "
                "`parameters` is non-finite, so it cannot be clipped. To disable "
                "this error and scale the gradients by the non-finite norm anyway, "
                'set `nonfinite="propagate"`'
            )
        skipped = self.nonfinite == "skip"
        if not skipped:
            for tensor in grads.tensors:
                tensor.zero_()
        return Outcome(
            norms,
            total,
            threshold=self.threshold,
            coefficient=None if skipped else 0.0,
            post_norm=None if skipped else 0.0,
            changed=not skipped,
            skipped=skipped,
        )

    @torch.no_grad()
    def __call__(
        self, parameters: Tensor | Iterable[Tensor], optimizer: optim.Optimizer | None = None
    ) -> Tensor:
        """Clips the gradients of ``parameters`` in place, without a run and without a network.

        Parameters without a gradient are passed over, and one given twice is clipped once. A
        strategy that reads the optimizer's state has to be given the ``optimizer``. A skipped step
        leaves no gradients: each ``grad`` is None. Returns the common norm before clipping as a 0-d
        tensor (0 when there is no gradient).
        """
        if self.folds:
            raise ValueError(
                f"{self.name} with exact=False clips inside the steps of an attached optimizer; "
                "use exact=True to clip gradients here and now"
            )
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        generator = isinstance(parameters, types.GeneratorType)
        parameters = list({id(p): p for p in parameters}.values())
        if generator and not parameters:
            warnings.warn(
                "`parameters` is an empty generator, no gradient clipping will occur.",
                stacklevel=3,
            )
        identities = (optimizer, *map(id, parameters))
        if identities != self._bound:
            sparse = [p.grad is not None and p.grad.is_sparse for p in parameters]
            self.bind(
                [
                    Target(str(i), p, s)
                    for i, (p, s) in enumerate(zip(parameters, sparse, strict=True))
                ],
                optimizer,
            )
            self._gather = reader(parameters)
            self._bound = identities
        grads = self._gather(parameters)
        if grads is None:
            return torch.tensor(0.0)
        outcome = self.outcome = self.step(grads)
        if outcome.skipped:
            for p in parameters:
                p.grad = None
        return outcome.global_norm
