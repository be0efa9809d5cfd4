"""What a clipping strategy is: a small object with named values that changes gradients in place.

Law: a strategy keeps torch's meaning to the bit where torch has one, and its norms are the clip's
own intermediates, never a second pass over the gradients.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype, _has_foreach_support


class Outcome(NamedTuple):
    """What one clip measured and did.

    norms: [n], the gradients' norms before clipping, in the order they were given.
    global_norm: 0-d, their common norm before clipping.
    threshold: the threshold in force, None when there is none.
    coefficient: the factor all gradients were multiplied by, None where there is no single one.
    share: the share of elements that were changed, None where a coefficient says it all.
    post_norm: the common norm after clipping, None where it would cost another pass.
    changed: whether this step was clipped.
    """

    norms: Tensor
    global_norm: Tensor
    threshold: float | None = None
    coefficient: float | None = None
    share: float | None = None
    post_norm: float | None = None
    changed: bool = False


class Strategy:
    """The base of all strategies; subclass it to write one.

    A subclass passes its named values (those a remote user may change) to ``__init__``, says which
    of them is *the* threshold in ``threshold_name``, and implements :meth:`clip`.
    """

    threshold_name: ClassVar[str | None] = None
    counts_elements: ClassVar[bool] = False
    """Whether outcomes carry a ``share``; such runs have a ``clip_share`` column."""

    def __init__(self, **values: float) -> None:
        self._values = {name: self.validate(name, value) for name, value in values.items()}

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
        """The value called ``threshold_name``, None when nothing is clipped."""
        name = self.threshold_name
        return None if name is None else self._values.get(name)

    def accepts(self, name: str) -> bool:
        """Whether ``name`` is one of this strategy's values."""
        return name in self._values

    def validate(self, name: str, value: object) -> float:
        """``value`` as a float if ``name`` may take it: a finite number above zero.

        Raises TypeError for what is no real number (bool included), else ValueError.
        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number above 0, not {type(value).__name__}")
        number = float(value)
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be a finite number above 0, not {number!r}")
        return number

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
        """All that :meth:`load_state_dict` needs: plain numbers under the values' names."""
        return dict(self._values)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.reset(state)

    def clip(self, grads: Sequence[Tensor]) -> Outcome:
        """Clips ``grads`` (not empty, any shapes) in place; called without gradient recording."""
        raise NotImplementedError

    def check(self, parameters: Sequence[Tensor]) -> None:
        """Raises ValueError when gradients of ``parameters`` cannot be clipped so."""

    @torch.no_grad()
    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Tensor:
        """Clips the gradients of ``parameters`` in place, without a run and without a network.

        Parameters without a gradient are passed over. Returns the common norm before clipping as a
        0-d tensor (0 when there is no gradient).
        """
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        generator = isinstance(parameters, types.GeneratorType)
        parameters = list(parameters)
        if generator and not parameters:
            warnings.warn(
                "`parameters` is an empty generator, no gradient clipping will occur.",
                stacklevel=3,
            )
        grads = [p.grad for p in parameters if p.grad is not None]
        return self.clip(grads).global_norm if grads else torch.tensor(0.0)


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


def measure(
    groups: list[tuple[list[Tensor], list[int]]], norm_type: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Norms [n] in the order given, and their common norm (0-d), as ``get_total_norm`` has them."""
    norms: list[Tensor] = []
    for grads, _ in groups:
        if foreach(grads):
            norms.extend(torch._foreach_norm(grads, norm_type))
        else:
            norms.extend([torch.linalg.vector_norm(g, norm_type) for g in grads])
    if len(groups) == 1:
        stacked = torch.stack(norms)
        return stacked, torch.linalg.vector_norm(stacked, norm_type)
    first = norms[0].device
    stacked = torch.stack([norm.to(first) for norm in norms])
    total = torch.linalg.vector_norm(stacked, norm_type)
    order = torch.empty(len(norms), dtype=torch.long)
    order[[place for _, places in groups for place in places]] = torch.arange(len(norms))
    return stacked[order.to(first)], total
