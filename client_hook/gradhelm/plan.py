"""What ``attach`` makes of a model, its optimizers and its clip: the streams of a run.

Law: what cannot be clipped as asked for is refused here, before a single hook is put on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import torch
from torch import nn, optim
from torch.nn.parameter import UninitializedParameter

from . import inbackward
from .arguments import instance
from .clip import GlobalNorm, Strategy, Target
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
        if type(parameter.data).__name__ == "DTensor":
            raise ValueError(
                f"model holds the DTensor {name}; sharded parameters are not supported"
            )
