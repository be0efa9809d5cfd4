"""Optimizers that step inside the backward pass, one for each parameter, as soon as its gradient is
there, so that no two gradients have to be held at once.

Law: each gradient is clipped by itself, because the others are not there yet or are gone already.
A step of the run is one round: until a parameter comes again.

See https://docs.pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import optim

from .clip import Outcome, Strategy
from .clip.norm import Observe
from .stepper import take_over
from .stream import Stream


def looks_so(optimizers: Sequence[optim.Optimizer]) -> bool:
    """Whether each of several optimizers holds one parameter, and these have hooks that fire when
    a gradient is there."""
    if len(optimizers) < 2:
        return False
    held = [[p for group in one.param_groups for p in group["params"]] for one in optimizers]
    return all(len(parameters) == 1 for parameters in held) and any(
        getattr(parameters[0], "_post_accumulate_grad_hooks", None) for parameters in held
    )


def check(strategy: Strategy) -> None:
    """Raises ValueError for a strategy that has to see all gradients of a step at once."""
    if not (strategy.one_by_one or isinstance(strategy, Observe)):
        raise ValueError(
            f"clip: {strategy.name} needs all gradients of a step at once, and optimizers that "
            "step inside backward have one at a time; use PerParameterNorm, BlockRMS, Value or "
            "AGC, or a dict of patterns with these"
        )


class InBackward:
    """The hooks of one stream on many optimizers."""

    def __init__(self, stream: Stream, optimizers: Sequence[optim.Optimizer], run: str) -> None:
        self.stream: Stream = stream
        self.run = run
        for one in optimizers:
            take_over(one, self)
        self._round: dict[int, Outcome] = {}
        self._lr: float | None = None
        self._place = {id(t.parameter): i for i, t in enumerate(stream.layout.targets)}
        self._handles = [one.register_step_pre_hook(self._before) for one in optimizers]
        self._handles += [one.register_step_post_hook(self._after) for one in optimizers]
        stream.settle = self._tell

    def remove(self) -> None:
        """Takes the hooks off; a round that has begun is told."""
        for handle in self._handles:
            handle.remove()
        self._tell()

    def _before(self, optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
        (parameter,) = optimizer.param_groups[0]["params"]
        place = self._place.get(id(parameter))
        if place is None or parameter.grad is None:
            return
        if place in self._round:
            self._tell()
        if not self._round:
            self.stream.boundary()
        outcome = self.stream.clip([place])
        if outcome is not None:
            self._round[place] = outcome
            self._lr = optimizer.param_groups[0].get("lr")
        if len(self._round) == len(self._place):
            self._tell()

    def _after(self, optimizer: optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.stream.unhide()

    def _tell(self) -> None:
        """The round is over: its outcomes become one."""
        if not self._round:
            return
        places = sorted(self._round)
        targets = self.stream.layout.targets
        try:
            outcome = joined(
                [self._round[place] for place in places],
                [targets[place].parameter.numel() for place in places],
            )
        except Exception as error:
            self.stream.miss(error)
        else:
            self.stream.count_round(places, outcome, lambda: self._lr)
        finally:
            self._round.clear()


def joined(parts: Sequence[Outcome], sizes: Sequence[int]) -> Outcome:
    """The outcome of a step out of those of its gradients, each clipped by itself.

    sizes: the gradients' numbers of elements.
    """
    norms = torch.cat([part.norms.float() for part in parts])
    posts = [part.post_norm for part in parts]
    own = [part.coefficients for part in parts]
    changed = [p.share * size for p, size in zip(parts, sizes, strict=True) if p.share is not None]
    known = [post for post in posts if post is not None]
    return Outcome(
        norms,
        torch.linalg.vector_norm(norms),
        threshold=parts[0].threshold,
        share=sum(changed) / sum(sizes) if len(changed) == len(parts) else None,
        post_norm=float(torch.tensor(known).norm()) if len(known) == len(posts) else None,
        changed=any(part.changed for part in parts),
        coefficients=None if any(c is None for c in own) else torch.cat(own),  # type: ignore[arg-type]
        skipped=any(part.skipped for part in parts),
        parts=tuple(_rule(rule, sizes) for rule in zip(*(p.parts for p in parts), strict=True)),
    )


def _rule(parts: Sequence[Outcome | None], sizes: Sequence[int]) -> Outcome | None:
    """What one rule of several did in a step, None when it had no gradients."""
    own = [(part, size) for part, size in zip(parts, sizes, strict=True) if part is not None]
    return joined(*zip(*own, strict=True)) if own else None
