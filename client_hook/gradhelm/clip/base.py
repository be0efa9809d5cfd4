"""What a clipping strategy is: a small object with named values that changes gradients in place.

Law: a strategy keeps torch's meaning to the bit where torch has one, and its norms are the clip's
own intermediates, never a second pass over the gradients. Half-precision gradients are measured in
float32 (torch rounds their norm to half precision, which is wrong by up to 0.4 %).
"""

from __future__ import annotations

import copy
import math
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor, optim
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype, _has_foreach_support

POLICIES: Final = ("propagate", "zero", "skip", "raise")
_HALVES: Final = (torch.float16, torch.bfloat16)


class Target(NamedTuple):
    """A parameter under the name it is shown by, and what a strategy may have to know of it.

    sparse: its gradients are sparse. mask: gives its pruning mask, None when it is not pruned.
    """

    name: str
    parameter: Tensor
    sparse: bool = False
    mask: Callable[[], Tensor] | None = None


class Outcome(NamedTuple):
    """What one clip measured and did.

    norms: [n], the gradients' norms before clipping, in the order they were given.
    global_norm: 0-d, their common norm before clipping.
    threshold: the threshold in force, None when there is none or not a single one.
    coefficient: the factor all gradients were multiplied by, None where there is no single one.
    share: the share of elements that were changed, None where a coefficient says it all.
    post_norm: the common norm after clipping, None where it would cost another pass.
    changed: whether this step was clipped.
    coefficients: [n], the factor of each gradient (of a monitor: of each parameter's learning rate,
        as advice), None where there is none or one for all.
    thresholds: [n], the threshold of each gradient where they differ.
    skipped: whether the optimizer must not use these gradients.
    lr_scale: what the learning rate is multiplied by for this one step.
    parts: of a strategy made of several, what each of them did (None: it had no gradients).
    """

    norms: Tensor
    global_norm: Tensor
    threshold: float | None = None
    coefficient: float | None = None
    share: float | None = None
    post_norm: float | None = None
    changed: bool = False
    coefficients: Tensor | None = None
    thresholds: Tensor | None = None
    skipped: bool = False
    lr_scale: float = 1.0
    parts: tuple[Outcome | None, ...] = ()


class Gradients:
    """The gradients of one step, as a strategy is given them. Not empty.

    tensors: the gradients to change in place, dense: of a sparse one its coalesced values.
    parameters: the parameters they belong to, in the same order.
    places: the place of each among the targets that the strategy was bound to; None: all, in order.
    """

    __slots__ = ("_groups", "_norms", "_whole", "parameters", "places", "tensors")

    def __init__(
        self,
        tensors: list[Tensor],
        parameters: Sequence[Tensor],
        places: Sequence[int] | None = None,
    ) -> None:
        self.tensors = tensors
        self.parameters = parameters
        self.places = places
        self._groups: list[tuple[list[Tensor], list[int]]] | None = None
        self._norms: dict[float, tuple[Tensor, Tensor]] = {}
        # The gradients that these are a part of, and which of them.
        self._whole: tuple[Gradients, list[int]] | None = None

    @classmethod
    def of(cls, parameters: Sequence[Tensor]) -> Gradients | None:
        """The gradients that ``parameters`` have now, None when there are none.

        A sparse gradient is replaced by its coalesced self: the same gradient, each row once.
        """
        tensors = [grad for p in parameters if (grad := p.grad) is not None]
        if not tensors:
            return None
        places = None
        held = parameters
        if len(tensors) < len(parameters):
            places = [i for i, p in enumerate(parameters) if p.grad is not None]
            held = [parameters[i] for i in places]
        if any(grad.is_sparse for grad in tensors):
            for i, p in enumerate(held):
                if tensors[i].is_sparse:
                    p.grad = tensors[i].coalesce()
                    tensors[i] = p.grad._values()
        return cls(tensors, held, places)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def norms(self) -> Tensor:
        """[n]: the L2 norm of each gradient, measured once."""
        return self.norm()[0]

    @property
    def global_norm(self) -> Tensor:
        """0-d: the L2 norm of all gradients together, measured once."""
        return self.norm()[1]

    @property
    def groups(self) -> list[tuple[list[Tensor], list[int]]]:
        """The tensors by device and dtype, with their places in ``tensors``."""
        if self._groups is None:
            self._groups = group(self.tensors)
        return self._groups

    def norm(self, norm_type: float = 2.0) -> tuple[Tensor, Tensor]:
        """The p-norm of each gradient, and of all together; each p is measured once."""
        known = self._norms.get(norm_type)
        if known is None:
            norms = self._measured(norm_type)
            if norms is None:
                norms = measure(self.groups, norm_type)
            known = self._norms[norm_type] = norms, common(self.groups, norms, norm_type)
        return known

    def _measured(self, norm_type: float) -> Tensor | None:
        """The norms, if the gradients that these are a part of know them."""
        if self._whole is None or norm_type not in self._whole[0]._norms:
            return None
        whole, indices = self._whole
        dtypes = [norm_dtype(tensors[0]) for tensors, _ in self.groups]
        return whole._norms[norm_type][0][indices].to(reduce(torch.promote_types, dtypes))

    def part(self, indices: list[int], places: Sequence[int] | None = None) -> Gradients:
        """Some of these gradients, for a strategy that was bound to a part of the targets.

        places: theirs among the targets of that strategy; None: all of them, in order. What was
        measured before is not measured again, so take it before the part is clipped.
        """
        part = Gradients(
            [self.tensors[i] for i in indices], [self.parameters[i] for i in indices], places
        )
        part._whole = self, indices
        return part

    def pick(self, values: Tensor) -> Tensor:
        """Of ``values`` [targets] those of the gradients there are [n]."""
        return values if self.places is None else values[self.places]

    def scale(self, coefficient: Tensor) -> float:
        """Multiplies all gradients by ``coefficient`` (0-d) and returns it as a number.

        On a CPU a coefficient of exactly 1 is not multiplied in: x * 1.0 is x.
        """
        factor: float = coefficient.item()
        if factor != 1.0 or coefficient.device.type != "cpu":
            for tensors, _ in self.groups:
                scale = coefficient.to(tensors[0].device)
                if foreach(tensors):
                    torch._foreach_mul_(tensors, scale)
                else:
                    for tensor in tensors:
                        tensor.mul_(scale)
        return factor

    def scale_each(self, coefficients: Tensor) -> None:
        """Multiplies each gradient by its own of the ``coefficients`` [n]; those of 1 stay."""
        for tensor, coefficient, factor in zip(
            self.tensors, coefficients.unbind(), coefficients.tolist(), strict=True
        ):
            if factor != 1.0:
                tensor.mul_(coefficient.to(tensor.device))

    def by_norm(self, threshold: float | Tensor, coefficient: Tensor) -> Outcome:
        """Multiplies all gradients by ``coefficient`` (0-d), chosen by their L2 norm."""
        factor = self.scale(coefficient)
        return Outcome(
            self.norms,
            self.global_norm,
            threshold=float(threshold),
            coefficient=factor,
            post_norm=self.global_norm.item() * factor,
            changed=factor != 1.0,
        )

    def by_norms(
        self,
        coefficients: Tensor,
        threshold: float | None = None,
        thresholds: Tensor | None = None,
    ) -> Outcome:
        """Multiplies each gradient by its own of the ``coefficients`` [n]."""
        self.scale_each(coefficients)
        after = self.norms * coefficients
        return Outcome(
            self.norms,
            self.global_norm,
            threshold=threshold,
            post_norm=torch.linalg.vector_norm(after).item(),
            changed=bool((coefficients != 1.0).any()),
            coefficients=coefficients,
            thresholds=thresholds,
        )

    def by_elements(self, changed: int, threshold: float | None = None) -> Outcome:
        """What is told after ``changed`` elements were changed; measure the norms before that."""
        return Outcome(
            self.norms,
            self.global_norm,
            threshold=threshold,
            share=changed / max(1, sum(tensor.numel() for tensor in self.tensors)),
            post_norm=None if changed else self.global_norm.item(),
            changed=changed > 0,
        )


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
    norm_type: float = 2.0

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
        for name in values:
            if not self.accepts(name):
                raise ValueError(f"{self.name} has no value called {name!r}")
        self._values = {name: self.validate(name, value) for name, value in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs: the named values, and what was learned.

        Numbers, lists and tensors only, so that ``torch.load(weights_only=True)`` reads it.
        """
        state = {name: copy.deepcopy(getattr(self, name)) for name in self.state_names}
        return {"values": dict(self._values), "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave: goes on as if never stopped.

        Raises ValueError or TypeError, and changes nothing, when it is another strategy's state.
        """
        values, learned = self._read(state)
        self.reset(values)
        self._recall(learned)

    def _read(self, state: Mapping[str, Any]) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Named values and learned ones out of a state_dict of this strategy."""
        try:
            values, learned = state["values"], state["state"]
            same = set(learned) == set(self.state_names)
        except (KeyError, TypeError):
            raise ValueError("state must be what state_dict() gave") from None
        if not same:
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

    def clip(self, grads: Gradients) -> Outcome:
        """Clips ``grads`` in place; called without gradient recording."""
        raise NotImplementedError

    def step(self, grads: Gradients) -> Outcome:
        """Clips ``grads`` in place, once it is settled what happens if they are not finite."""
        if self.nonfinite != "propagate":
            norms, total = grads.norm(self.norm_type)
            if not bool(torch.isfinite(total)):
                return self._refuse(grads, norms, total)
        return self.clip(grads)

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
            self._bound = identities
        grads = Gradients.of(parameters)
        if grads is None:
            return torch.tensor(0.0)
        outcome = self.step(grads)
        if outcome.skipped:
            for p in parameters:
                p.grad = None
        return outcome.global_norm


def group(grads: Sequence[Tensor]) -> list[tuple[list[Tensor], list[int]]]:
    """``grads`` by device and dtype, with their places, in the order torch's own clip uses.

    The order decides the last bit of the common norm, so torch's own function makes it.
    """
    first = grads[0]
    device, dtype = first.device, first.dtype
    if all(g.dtype is dtype and g.device == device for g in grads):
        return [(list(grads), list(range(len(grads))))]
    grouped = _group_tensors_by_device_and_dtype([list(grads)], with_indices=True)
    return [
        ([g for g in tensors[0] if g is not None], list(places))
        for tensors, places in grouped.values()
    ]


def foreach(grads: list[Tensor]) -> bool:
    """Whether torch takes its multi-tensor path for ``grads`` (of one device)."""
    return bool(_has_foreach_support(grads, grads[0].device))


def measure(groups: list[tuple[list[Tensor], list[int]]], norm_type: float = 2.0) -> Tensor:
    """The norms [n] in the order given; that of an empty gradient is 0."""
    norms = [norm for grads, _ in groups for norm in _measure(grads, norm_type)]
    if len(groups) == 1:
        return torch.stack(norms)
    first = norms[0].device
    stacked = torch.stack([norm.to(first) for norm in norms])
    order = torch.empty(len(norms), dtype=torch.long)
    order[_places(groups)] = torch.arange(len(norms))
    return stacked[order.to(first)]


def common(
    groups: list[tuple[list[Tensor], list[int]]], norms: Tensor, norm_type: float = 2.0
) -> Tensor:
    """The common norm (0-d) of gradients that have these ``norms``, as ``get_total_norm`` has it.

    An empty gradient has no say where its 0 would decide.
    """
    if len(groups) > 1:
        norms = norms[_places(groups).to(norms.device)]
    if norm_type <= 0 or norm_type == math.inf:
        says = [bool(g.numel()) for grads, _ in groups for g in grads]
        if not any(says):
            return torch.zeros_like(norms[0])
        if not all(says):
            norms = norms[torch.tensor(says, device=norms.device)]
    total: Tensor = torch.linalg.vector_norm(norms, norm_type)
    return total


def _places(groups: list[tuple[list[Tensor], list[int]]]) -> Tensor:
    return torch.tensor([place for _, places in groups for place in places])


def norm_dtype(grad: Tensor) -> torch.dtype:
    """The dtype in which the norm of ``grad`` is measured."""
    return torch.float32 if grad.dtype in _HALVES else grad.dtype.to_real()


def _measure(grads: list[Tensor], norm_type: float) -> list[Tensor]:
    """The norms of ``grads`` (of one device and dtype)."""
    wide = torch.float32 if grads[0].dtype in _HALVES else None
    if norm_type not in (1, 2) and not all(g.numel() for g in grads):
        nothing = torch.zeros((), dtype=norm_dtype(grads[0]), device=grads[0].device)
        return [
            torch.linalg.vector_norm(g, norm_type, dtype=wide) if g.numel() else nothing
            for g in grads
        ]
    if foreach(grads):
        return list(torch._foreach_norm(grads, norm_type, dtype=wide))
    return [torch.linalg.vector_norm(g, norm_type, dtype=wide) for g in grads]
