"""What ``attach`` makes of a model, its optimizers and its clip: the streams of a run.

Law: what cannot be clipped as asked for is refused here, before a single hook is put on.
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import nn, optim
from torch.nn.parameter import UninitializedParameter

from . import inbackward
from .arguments import instance
from .clip import GlobalNorm, Strategy, Target, sharded
from .clip.divide import divided
from .clip.norm import Observe
from .layout import BLOCKS, MAX_OWN, choose
from .measures import Measures
from .stream import Stream

Optimizers: TypeAlias = (
    "optim.Optimizer | Sequence[optim.Optimizer] | Mapping[str, optim.Optimizer]"
)
Rules: TypeAlias = "Strategy | Mapping[str, Strategy] | Sequence[Strategy]"
Clip: TypeAlias = "Rules | Mapping[str, Rules]"

MAX_STREAMS: Final = 16
_OPTIMIZERS: Final = "one torch.optim.Optimizer, a list or a dict of several, or None"
_ACCEPTED: Final = "accepted for sharded training: torch.distributed.fsdp.fully_shard"
_CLIP: Final = "a gradhelm.clip strategy, such as GlobalNorm(1.0), a dict or a list of strategies"


class Planned(NamedTuple):
    """A stream under the name that users know it by, and the optimizers whose steps it is.

    None: the loop calls ``run.clip()``. Several: one for each parameter, inside the backward pass.
    """

    name: str
    stream: Stream
    optimizers: tuple[optim.Optimizer, ...]


def plan(
    model: nn.Module,
    optimizer: object,
    max_norm: object,
    clip: object,
    *,
    start_step: int,
    every: int,
    measure_every: int,
) -> list[Planned]:
    """The streams, in order, the run's own first.

    Raises ValueError or TypeError that names the argument and what it accepts.
    """
    if clip is not None and max_norm is not None:
        raise ValueError("clip and max_norm are both given; max_norm=x means clip=GlobalNorm(x)")
    _undivided(model, optimizer)
    sharded.reshard(model)
    if clip is None:
        clip = Observe() if max_norm is None else GlobalNorm(max_norm)  # type: ignore[arg-type]
    named = _named(optimizer)
    several = len(named) > 1
    planned: list[Planned] = []
    for (name, optimizers), rules in zip(named.items(), _clips(clip, list(named)), strict=True):
        strategy = rules if isinstance(rules, Strategy) else divided(rules)
        groups = [group for one in optimizers for group in one.param_groups]
        targets = choose(model, groups if optimizers else None, name if several else "")
        _clippable(targets)
        _together(targets, len(optimizers) > 1, measure_every)
        if len(optimizers) > 1:
            inbackward.check(strategy)
        strategy.bind(targets, optimizers[0] if len(optimizers) == 1 else None)
        wire_name = name if planned else None
        if measure_every and len(optimizers) > 1:
            raise ValueError("measure_every cannot be used with optimizers inside backward")
        measures = None
        if measure_every:
            measures = Measures(targets, optimizers[0] if optimizers else None, wire_name)
        stream = Stream(
            wire_name,
            targets,
            strategy,
            start_step=start_step,
            every=every,
            measures=measures,
            measure_every=measure_every,
            model=None if optimizers else model,
        )
        planned.append(Planned(name, stream, optimizers))
    columns = sum(len(one.stream.columns) for one in planned)
    if columns > MAX_OWN:
        raise ValueError(
            f"model makes {columns} columns with this clip and measure_every; at most {MAX_OWN} "
            "are one run's"
        )
    return planned


def _named(optimizer: object) -> dict[str, tuple[optim.Optimizer, ...]]:
    """The optimizers of each stream by its name."""
    if optimizer is None:
        return {"": ()}
    if isinstance(optimizer, optim.Optimizer):
        _has_hooks(optimizer)
        return {"": (optimizer,)}
    if isinstance(optimizer, Mapping):
        found = dict(optimizer)
        for name in found:
            good = isinstance(name, str) and 1 <= len(name) <= 40 and name.isprintable()
            if not good or "/" in name or name in BLOCKS:
                raise ValueError(
                    f"optimizer is a dict with the name {name!r}; accepted: 1 to 40 printable "
                    f"characters without '/', and none of {', '.join(sorted(BLOCKS))}"
                )
    elif isinstance(optimizer, Sequence) and not isinstance(optimizer, str):
        found = {str(number): one for number, one in enumerate(optimizer)}
    else:
        raise TypeError(f"optimizer must be {_OPTIMIZERS}, not {type(optimizer).__name__}")
    if not found:
        raise ValueError(f"optimizer is empty; accepted: {_OPTIMIZERS}")
    for name, one in found.items():
        instance(f"optimizer[{name!r}]", one, optim.Optimizer, "a torch.optim.Optimizer")
        _has_hooks(one)
    if len({id(one) for one in found.values()}) < len(found):
        raise ValueError("optimizer: the same one is given twice")
    optimizers = tuple(found.values())
    if inbackward.looks_so(optimizers):
        return {"": optimizers}
    if len(found) > MAX_STREAMS:
        raise ValueError(
            f"optimizer: {len(found)} are given, at most {MAX_STREAMS} are streams of one run; "
            "for optimizers that step inside backward, one for each parameter, put their hooks on "
            "the parameters before attaching"
        )
    if len(found) == 1:
        return {"": optimizers}
    return {name: (one,) for name, one in found.items()}


def _has_hooks(optimizer: optim.Optimizer) -> None:
    """Raises ValueError for a wrapper around an optimizer that torch's step hooks do not reach."""
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ValueError(
            f"optimizer is a {type(optimizer).__name__}, which has no step hooks; attach the "
            "optimizer inside it, or use gradhelm.integrations.accelerate.attach"
        )
    _whole(optimizer)


def _whole(optimizer: optim.Optimizer) -> None:
    """Raises ValueError for an optimizer that ZeRO keeps from seeing all gradients of a step."""
    zero = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if zero is None:
        return
    kind = zero.ZeroRedundancyOptimizer
    if isinstance(optimizer, kind):
        if optimizer._overlap_with_ddp:
            raise ValueError(
                "optimizer is a ZeroRedundancyOptimizer with overlap_with_ddp=True, which steps "
                "while gradients still come in; they can only be clipped without it"
            )
    elif any(
        getattr(one, "optim", None) is optimizer  # one whose steps overlap has none yet
        for one in gc.get_objects()
        if kind in type(one).__mro__
    ):
        raise ValueError(
            "optimizer is the part of a ZeroRedundancyOptimizer that this rank holds; attach the "
            "ZeroRedundancyOptimizer itself"
        )


def _clips(clip: object, names: list[str]) -> Iterator[Rules]:
    """The clip of each stream: one for all is copied, a dict of their names is taken apart."""
    if not isinstance(clip, (Strategy, Mapping)) and not (
        isinstance(clip, Sequence) and not isinstance(clip, str)
    ):
        raise TypeError(f"clip must be {_CLIP}, not {type(clip).__name__}")
    if len(names) == 1:
        yield clip
        return
    if isinstance(clip, Strategy):
        for _ in names:
            yield copy.deepcopy(clip)
        return
    if not isinstance(clip, Mapping) or set(clip) != set(names):
        raise ValueError(
            "clip with several optimizers must be one strategy (each gets a copy) or a dict with "
            f"their names: {', '.join(map(repr, names))}"
        )
    if len({id(one) for one in clip.values()}) < len(clip):
        raise ValueError("clip: the same strategy stands twice; each optimizer needs its own")
    for name in names:
        yield from _clips(clip[name], [name])


def _clippable(targets: list[Target]) -> None:
    for name, parameter, *_ in targets:
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"model is lazy: {name} has no shape before the first forward pass")
        if parameter.layout != torch.strided:
            raise ValueError(f"model holds the sparse parameter {name}; torch cannot clip those")
        if sharded.is_sharded(parameter):
            sharded.check(name, parameter)


def _together(targets: list[Target], in_backward: bool, measure_every: int) -> None:
    """Raises ValueError for what one rank would do without the others, where they have shards."""
    name = next((t.name for t in targets if sharded.is_sharded(t.parameter)), None)
    if name is not None and in_backward:
        raise ValueError(
            f"optimizer: those inside backward cannot be used with sharded parameters ({name} is "
            "one); use one optimizer for all"
        )
    if name is not None and measure_every:
        raise ValueError(
            f"measure_every must be 0 where parameters are sharded ({name} is): one rank measures, "
            "and it has no whole weights"
        )


def _undivided(model: nn.Module, optimizer: object) -> None:
    """Raises ValueError for libraries that keep flat pieces in the place of parameters."""
    wrapped = {one.__name__ for module in model.modules() for one in type(module).__mro__}
    flat = any(getattr(p, "_is_flat_param", False) for p in model.parameters())
    if flat or "FullyShardedDataParallel" in wrapped:
        raise ValueError(
            "model is wrapped in FullyShardedDataParallel, which keeps flat pieces in the place of "
            f"parameters; {_ACCEPTED}"
        )
    given = list(optimizer.values()) if isinstance(optimizer, Mapping) else optimizer
    for one in given if isinstance(given, (list, tuple)) else [given]:
        if any(kind.__module__.startswith("deepspeed.runtime") for kind in type(one).__mro__):
            raise ValueError(
                f"optimizer is DeepSpeed's {type(one).__name__}, which clips flat pieces by itself "
                f"(gradient_clipping in its configuration); {_ACCEPTED}"
            )
    if any(hasattr(p, "ds_id") for p in model.parameters()):
        raise ValueError(f"model is partitioned by DeepSpeed's ZeRO stage 3; {_ACCEPTED}")
