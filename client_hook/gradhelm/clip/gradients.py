"""What a strategy is given and what it tells: the gradients of one step, and one outcome.

Law: norms are the clip's own intermediates, each measured once and in torch's own order, which
decides their last bit. Half-precision gradients are measured in float32 (torch rounds their norm to
half precision, which is wrong by up to 0.4 %).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import attrgetter
from typing import ClassVar, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype, _has_foreach_support

_HALVES: Final = (torch.float16, torch.bfloat16)
_NUMPYS: Final = {torch.float32: np.float32, torch.float64: np.float64}

# Asked of every gradient at every step: mapped, a question costs a third of a Python loop's.
_dtype = attrgetter("dtype")
_on_cpu = attrgetter("is_cpu")
_sparse = attrgetter("is_sparse")


class Target(NamedTuple):
    """A parameter under the name it is shown by, and what a strategy may have to know of it.

    sparse: its gradients are sparse. mask: gives its pruning mask, None while it is not pruned.
    """

    name: str
    parameter: Tensor
    sparse: bool = False
    mask: Callable[[], Tensor | None] | None = None


class Outcome(NamedTuple):
    """What one clip measured and did. It is read after the step: its tensors must stay as they are.

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
    factor: 0-d, the coefficient where it is left on the device, or to the optimizer.
    folded: the gradients are not multiplied yet: the optimizer is to divide them by 1 / ``factor``.
    found_inf: 0-d, on the device: not 0 when the optimizer is going to skip the step by itself.
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
    factor: Tensor | None = None
    folded: bool = False
    found_inf: Tensor | None = None
    parts: tuple[Outcome | None, ...] = ()


class Gradients:
    """The gradients of one step, as a strategy is given them. Not empty.

    tensors: the gradients to change in place, dense: of a sparse one its coalesced values, of a
        sharded one what this rank has of it.
    parameters: the parameters they belong to, in the same order.
    places: the place of each among the targets that the strategy was bound to; None: all, in order.

    Norms, sizes and what :meth:`joined` and :meth:`summed` give are always those of whole gradients.
    """

    sharded: ClassVar[bool] = False
    """Whether other ranks have parts of them: then all ranks have to measure the same, together."""

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
        if any(map(_sparse, tensors)):
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
                norms = self.joined(measure(self.groups, norm_type), norm_type)
            known = self._norms[norm_type] = norms, self._common(norms, norm_type)
        return known

    @property
    def sizes(self) -> list[int]:
        """[n]: how many elements each gradient has."""
        return [tensor.numel() for tensor in self.tensors]

    def joined(self, norms: Tensor, norm_type: float = 2.0) -> Tensor:
        """``norms`` [..., n], measured of each of the ``tensors``, as those of whole gradients."""
        return norms

    def summed(self, values: Tensor) -> Tensor:
        """``values`` [..., n], summed over each of the ``tensors``, as sums over whole gradients."""
        return values

    def _common(self, norms: Tensor, norm_type: float) -> Tensor:
        return common(self.groups, norms, norm_type)

    def _made(
        self, tensors: list[Tensor], parameters: Sequence[Tensor], places: Sequence[int] | None
    ) -> Gradients:
        return Gradients(tensors, parameters, places)

    def again(self) -> Gradients:
        """The same gradients, to be measured anew: after they were changed."""
        return self._made(self.tensors, self.parameters, self.places)

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
        part = self._made(
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
        if factor != 1.0 or not coefficient.is_cpu:
            self.multiply(coefficient)
        return factor

    def multiply(self, coefficient: Tensor) -> None:
        """Multiplies all gradients by ``coefficient`` (0-d), whatever it is."""
        for tensors, _ in self.groups:
            scale = coefficient.to(tensors[0].device)
            if foreach(tensors):
                torch._foreach_mul_(tensors, scale)
            else:
                for tensor in tensors:
                    tensor.mul_(scale)

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

    def by_elements(self, changed: int | Sequence[int], threshold: float | None = None) -> Outcome:
        """What is told after elements were changed; measure the norms before that.

        changed: how many, in all or of each of the ``tensors``; where they are sharded, of each
        (ValueError otherwise).
        """
        count = self.count(changed)
        return Outcome(
            self.norms,
            self.global_norm,
            threshold=threshold,
            share=count / max(1, sum(self.sizes)),
            post_norm=None if count else self.global_norm.item(),
            changed=count > 0,
        )

    def count(self, changed: int | Sequence[int]) -> int:
        """How many elements that makes of whole gradients; as :meth:`by_elements` takes it."""
        return sum(changed) if isinstance(changed, Sequence) else changed


def group(grads: Sequence[Tensor]) -> list[tuple[list[Tensor], list[int]]]:
    """``grads`` by device and dtype, with their places, in the order torch's own clip uses.

    The order decides the last bit of the common norm, so torch's own function makes it.
    """
    # Devices are slow to compare, so that those other than the CPU are left to torch.
    if all(map(_on_cpu, grads)) and len(set(map(_dtype, grads))) == 1:
        return [(list(grads), list(range(len(grads))))]
    grouped = _group_tensors_by_device_and_dtype([list(grads)], with_indices=True)
    return [
        ([g for g in tensors[0] if g is not None], list(places))
        for tensors, places in grouped.values()
    ]


def foreach(grads: list[Tensor]) -> bool:
    """Whether torch takes its multi-tensor path for ``grads`` (of one device).

    It does not for subclasses; a device has to be asked about only once.
    """
    first = grads[0]
    return set(map(type, grads)) == {Tensor} and (
        first.is_cpu or bool(_has_foreach_support([first], first.device))
    )


def measure(groups: list[tuple[list[Tensor], list[int]]], norm_type: float = 2.0) -> Tensor:
    """The norms [n] in the order given; that of an empty gradient is 0."""
    if len(groups) == 1:
        return _stacked(_measure(groups[0][0], norm_type))
    norms = [norm for grads, _ in groups for norm in _measure(grads, norm_type)]
    first = norms[0].device
    stacked = torch.stack([norm.to(first) for norm in norms])
    order = torch.empty(len(norms), dtype=torch.long)
    order[_places(groups)] = torch.arange(len(norms))
    return stacked[order.to(first)]


def _stacked(norms: Sequence[Tensor]) -> Tensor:
    """[n]: ``norms`` (of one device and dtype) in one tensor.

    On a CPU by way of Python's numbers, which keeps every bit and takes half of torch.stack's time.
    """
    dtype = _NUMPYS.get(norms[0].dtype)
    if dtype is None or not norms[0].is_cpu:
        return torch.stack(list(norms))
    return torch.from_numpy(np.array([norm.item() for norm in norms], dtype))


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


def _measure(grads: list[Tensor], norm_type: float) -> Sequence[Tensor]:
    """The norms of ``grads`` (of one device and dtype)."""
    wide = torch.float32 if grads[0].dtype in _HALVES else None
    if norm_type not in (1, 2) and not all(g.numel() for g in grads):
        nothing = torch.zeros((), dtype=norm_dtype(grads[0]), device=grads[0].device)
        return [
            torch.linalg.vector_norm(g, norm_type, dtype=wide) if g.numel() else nothing
            for g in grads
        ]
    if foreach(grads):
        return torch._foreach_norm(grads, norm_type, dtype=wide)
    return [torch.linalg.vector_norm(g, norm_type, dtype=wide) for g in grads]
