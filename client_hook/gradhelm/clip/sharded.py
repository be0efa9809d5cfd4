"""Gradients of which each rank has a shard: DTensors, as ``torch.distributed.fsdp.fully_shard`` makes
them.

Law: every rank clips its own shards, by numbers that are the same on all of them. One all-reduce for
each process group that something is sharded over joins what was measured of all parameters, however
many; what is replicated over a group counts once. Whole gradients pay nothing: whether there are
shards is asked once, not at each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .gradients import Gradients, common

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Reader: TypeAlias = Callable[[Sequence[Tensor]], Gradients | None]


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor. By name: its module takes long to load, and has moved."""
    return any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def local(tensor: Tensor) -> Tensor:
    """What this rank has of ``tensor``, in the same memory; itself where it is whole."""
    return _shard(_dtensor(tensor)) if is_sharded(tensor) else tensor


def locals_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What this rank has of an optimizer's ``state`` of one parameter."""
    return {k: local(v) if isinstance(v, Tensor) else v for k, v in state.items()}


def check(name: str, parameter: Tensor) -> None:
    """Raises ValueError for a DTensor ``parameter`` that is neither sharded nor replicated."""
    for placement in _dtensor(parameter).placements:
        if not (placement.is_replicate() or hasattr(placement, "dim")):
            raise ValueError(
                f"model holds the DTensor {name}, which is {placement}; accepted: Shard and "
                "Replicate, as torch.distributed.fsdp.fully_shard makes them"
            )


def reshard(model: nn.Module) -> None:
    """Has ``fully_shard``'s modules hold their shards, which optimizers step.

    After a forward pass without a backward pass they still hold the gathered parameters, which will
    never have a gradient; the next pass gathers them again.
    """
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


def dims(parameter: Tensor) -> set[int]:
    """The dimensions of ``parameter`` that are sharded over more than one rank."""
    return {dim for _, dim in _sharded_over(parameter)}


def reader(parameters: Sequence[Tensor]) -> Reader:
    """What reads the gradients of ``parameters`` at each step."""
    return Shards(parameters).gradients if any(map(is_sharded, parameters)) else Gradients.of


class Shards:
    """The process groups that parameters are sharded over, in the order that all ranks have."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._sharded = {id(p) for p in parameters if is_sharded(p)}
        # By name: the process group, and the parameters that are sharded over it.
        self._groups: dict[str, tuple[dist.ProcessGroup, set[int]]] = {}
        for p in parameters:
            if id(p) in self._sharded:
                for group, _ in _sharded_over(p):
                    self._groups.setdefault(group.group_name, (group, set()))[1].add(id(p))

    def gradients(self, parameters: Sequence[Tensor]) -> Gradients | None:
        """The gradients that ``parameters`` have now, None when there are none."""
        grads = Gradients.of(parameters)
        if grads is None:
            return None
        tensors = [
            self._own(p) if id(p) in self._sharded else tensor
            for p, tensor in zip(grads.parameters, grads.tensors, strict=True)
        ]
        return ShardedGradients(self, tensors, grads.parameters, grads.places)

    def _own(self, parameter: Tensor) -> Tensor:
        grad, wanted = _dtensor(parameter.grad), _dtensor(parameter).placements
        if grad.placements != wanted:
            # A sum that is still to be made: the optimizer would have it made for itself.
            grad = grad.redistribute(placements=wanted)
            parameter.grad = grad
        return _shard(grad)

    def groups(
        self, parameters: Sequence[Tensor]
    ) -> Iterator[tuple[dist.ProcessGroup, list[int] | None]]:
        """The groups that some of ``parameters`` are sharded over, and the places of these; None
        for all."""
        for group, members in self._groups.values():
            places = [i for i, p in enumerate(parameters) if id(p) in members]
            if places:
                yield group, None if len(places) == len(parameters) else places


class ShardedGradients(Gradients):
    """Gradients of one step, some of which are shards."""

    sharded: ClassVar[bool] = True

    __slots__ = ("_shards",)

    def __init__(
        self,
        shards: Shards,
        tensors: list[Tensor],
        parameters: Sequence[Tensor],
        places: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tensors, parameters, places)
        self._shards = shards

    @property
    def sizes(self) -> list[int]:
        return [
            parameter.numel() if is_sharded(parameter) else tensor.numel()
            for parameter, tensor in zip(self.parameters, self.tensors, strict=True)
        ]

    def joined(self, norms: Tensor, norm_type: float = 2.0) -> Tensor:
        if norm_type < 0:
            # A shard without elements has no say where its 0 would decide.
            norms = torch.where(_empty([t.numel() for t in self.tensors], norms), math.inf, norms)
        norms = self._over(norms, lambda some, group: _join(some, norm_type, group))
        if norm_type < 0:
            norms = torch.where(_empty(self.sizes, norms), 0.0, norms)
        return norms

    def summed(self, values: Tensor) -> Tensor:
        return self._over(values, _sum)

    def _over(self, values: Tensor, join: Callable[[Tensor, dist.ProcessGroup], Tensor]) -> Tensor:
        """``values`` [..., n] after each group joined those of the gradients it has shards of."""
        for group, places in self._shards.groups(self.parameters):
            if places is None:
                values = join(values, group)
            else:
                values = values.clone()
                values[..., places] = join(values[..., places], group)
        return values

    def _common(self, norms: Tensor, norm_type: float) -> Tensor:
        # Parameters are asked instead of shards: an empty shard's gradient has its say.
        whole = [([self.parameters[i] for i in places], places) for _, places in self.groups]
        return common(whole, norms, norm_type)

    def _made(
        self, tensors: list[Tensor], parameters: Sequence[Tensor], places: Sequence[int] | None
    ) -> Gradients:
        return ShardedGradients(self._shards, tensors, parameters, places)

    def count(self, changed: int | Sequence[int]) -> int:
        if not isinstance(changed, Sequence):
            raise ValueError(
                "by_elements needs the number of changed elements of each gradient: they are "
                "sharded, and what other ranks have a copy of must not count twice"
            )
        counts = torch.tensor(changed, dtype=torch.float64, device=self.tensors[0].device)
        return int(self.summed(counts).sum())


def _join(norms: Tensor, norm_type: float, group: dist.ProcessGroup) -> Tensor:
    """The norms of what all ranks of ``group`` have together.

    In float64: a power that leaves its range has long left that of a whole gradient's norm.
    """
    wide = norms.double()
    if math.isinf(norm_type):
        # Backends may pass over a NaN when they look for the largest: it travels beside.
        sign = math.copysign(1.0, norm_type)
        both = torch.stack([wide.nan_to_num(0.0, math.inf) * sign, wide.isnan().double()])
        dist.all_reduce(both, dist.ReduceOp.MAX, group)
        largest, nan = both
        return torch.where(nan > 0, math.nan, largest * sign).to(norms)
    exponent = norm_type or 1.0  # of order 0 they are counts
    return _sum(wide.pow(exponent), group).pow(1 / exponent).to(norms)


def _sum(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    sums = values.to(torch.float64, copy=True).contiguous()
    dist.all_reduce(sums, dist.ReduceOp.SUM, group)
    return sums.to(values)


def _sharded_over(parameter: Tensor) -> Iterator[tuple[dist.ProcessGroup, int]]:
    """The process groups of more than one rank that a DTensor is sharded over, and by which of its
    dimensions."""
    tensor = _dtensor(parameter)
    for number, placement in enumerate(tensor.placements):
        if not placement.is_replicate() and tensor.device_mesh.size(number) > 1:
            yield tensor.device_mesh.get_group(number), placement.dim  # type: ignore[attr-defined]


def _shard(tensor: DTensor) -> Tensor:
    own: Any = tensor.to_local()
    # A gradient that was only just communicated may still be on its way.
    here: Tensor = own.wait() if hasattr(own, "wait") else own
    return here


def _dtensor(tensor: Tensor | None) -> DTensor:
    found: Any = tensor
    return found  # type: ignore[no-any-return]


def _empty(sizes: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor([size == 0 for size in sizes], device=like.device)
