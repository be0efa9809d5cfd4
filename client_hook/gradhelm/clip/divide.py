"""One run, several strategies: by patterns of parameter names, or by parameter groups.

Law: each strategy is given its own gradients and measures their own common norm, as if there were
no others; what none of them claims is measured and left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, optim

from ..wire import MAX_NAME
from .base import Strategy
from .gradients import Gradients, Outcome, Target


class Divided(Strategy):
    """Several strategies, each for some of the parameters; the others are only measured.

    What ``attach`` makes of a ``clip`` that is a dict or a list; subclasses say whose each
    parameter is. When one of them wants a step skipped, the whole step is.
    """

    def __init__(self, rules: Mapping[str, Strategy]) -> None:
        super().__init__()
        for rule, strategy in rules.items():
            if strategy.folds:
                raise ValueError(
                    f"clip[{rule!r}] has exact=False, which is for all of an optimizer's parameters"
                )
        self._rules = dict(rules)
        strategies = list(self._rules.values())
        self.counts_elements = any(s.counts_elements for s in strategies)  # type: ignore[misc]
        self.per_parameter = any(s.per_parameter for s in strategies)  # type: ignore[misc]
        self.per_parameter_thresholds = any(  # type: ignore[misc]
            s.per_parameter_thresholds for s in strategies
        )
        self.one_by_one = all(s.one_by_one for s in strategies)  # type: ignore[misc]
        self._members: list[list[int]] = []

    def __repr__(self) -> str:
        return f"{self.name}({self._rules!r})"

    @property
    def name(self) -> str:
        return ", ".join(dict.fromkeys(s.name for s in self._rules.values()))

    @property
    def rules(self) -> Mapping[str | None, Strategy]:
        return {rule: strategy for rule, strategy in self._rules.items()}

    def home(self, target: Target, optimizer: optim.Optimizer | None) -> str | None:
        """The rule that ``target`` falls under, None for none."""
        raise NotImplementedError

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        homes = [self.home(target, optimizer) for target in targets]
        members = []
        for rule, strategy in self._rules.items():
            mine = [i for i, home in enumerate(homes) if home == rule]
            if not mine:
                raise ValueError(self._empty(rule, targets))
            strategy.bind([targets[i] for i in mine], optimizer)
            members.append(mine)
        self._members = members

    def _empty(self, rule: str, targets: Sequence[Target]) -> str:
        """What is said of a rule that no parameter falls under."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        rules = {rule: strategy.state_dict() for rule, strategy in self._rules.items()}
        return {**super().state_dict(), "rules": rules}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rules = state.get("rules") if isinstance(state, Mapping) else None
        if not isinstance(rules, Mapping):
            raise ValueError("state is of another strategy: clip is a dict or a list of several")
        if set(rules) != set(self._rules):
            raise ValueError(
                f"state is of other rules: it has {sorted(rules)}, and clip has "
                f"{sorted(self._rules)}"
            )
        before = {rule: strategy.state_dict() for rule, strategy in self._rules.items()}
        try:
            for rule, strategy in self._rules.items():
                strategy.load_state_dict(rules[rule])
        except Exception:
            for rule, strategy in self._rules.items():
                strategy.load_state_dict(before[rule])
            raise

    def clip(self, grads: Gradients) -> Outcome:
        norms, total = grads.norms, grads.global_norm
        parts: list[Outcome | None] = []
        coefficients = torch.ones_like(norms) if self.per_parameter else None
        thresholds = torch.full_like(norms, math.nan) if self.per_parameter_thresholds else None
        after: Tensor | None = norms.clone()
        elements = 0.0
        for strategy, (mine, part) in zip(self._rules.values(), self._shares(grads), strict=True):
            if part is None:
                parts.append(None)
                continue
            outcome = strategy.step(part)
            parts.append(outcome)
            if coefficients is not None:
                coefficients[mine] = _each(outcome.coefficients, outcome.coefficient, 1.0, norms)
            if thresholds is not None:
                thresholds[mine] = _each(outcome.thresholds, outcome.threshold, math.nan, norms)
            if outcome.share:
                elements += outcome.share * sum(part.sizes)
            if outcome.post_norm is None or strategy.other_norm:
                after = None
            elif after is not None:
                # Of this part only its common norm is needed: on its first place, 0 on the others.
                after[mine] = 0.0
                after[mine[0]] = outcome.post_norm
        told = [part for part in parts if part is not None]
        changed = any(part.changed for part in told)
        post = None if after is None else torch.linalg.vector_norm(after).item()
        return Outcome(
            norms,
            total,
            share=elements / max(1, sum(grads.sizes)) if self.counts_elements else None,
            post_norm=post if changed else total.item(),
            changed=changed,
            coefficients=coefficients,
            thresholds=thresholds,
            skipped=any(part.skipped for part in told),
            lr_scale=min((part.lr_scale for part in told), default=1.0),
            parts=tuple(parts),
        )

    def _shares(self, grads: Gradients) -> list[tuple[list[int], Gradients | None]]:
        """Which of the gradients are each strategy's, and these; None where it has none.

        Raises RuntimeError when one of them is to raise, before any of them has clipped.
        """
        where = None if grads.places is None else {p: i for i, p in enumerate(grads.places)}
        shares: list[tuple[list[int], Gradients | None]] = []
        for strategy, members in zip(self._rules.values(), self._members, strict=True):
            places = None
            mine = members
            if where is not None:
                places = [k for k, member in enumerate(members) if member in where]
                mine = [where[members[k]] for k in places]
            part = grads.part(mine, places) if mine else None
            if part is not None:
                strategy.admit(part)
            shares.append((mine, part))
        return shares


class Patterns(Divided):
    """``{pattern: strategy}``: a parameter falls under the first pattern that its name matches."""

    def home(self, target: Target, optimizer: optim.Optimizer | None) -> str | None:
        return next((rule for rule in self._rules if fnmatchcase(target.name, rule)), None)

    def _empty(self, rule: str, targets: Sequence[Target]) -> str:
        names = [target.name for target in targets]
        if any(fnmatchcase(name, rule) for name in names):
            return f"clip: all that the pattern {rule!r} matches falls under an earlier pattern"
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return f"clip: the pattern {rule!r} matches no parameter; there are {some}"


class ParameterGroups(Divided):
    """``[strategy, ...]``: one for each of the optimizer's parameter groups, in their order."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        super().__init__({f"group {i}": strategy for i, strategy in enumerate(strategies)})

    def home(self, target: Target, optimizer: optim.Optimizer | None) -> str | None:
        groups = [] if optimizer is None else optimizer.param_groups
        for i, group in enumerate(groups):
            if any(p is target.parameter for p in group["params"]):
                return f"group {i}"
        return None

    def bind(self, targets: Sequence[Target], optimizer: optim.Optimizer | None = None) -> None:
        count = 0 if optimizer is None else len(optimizer.param_groups)
        if count != len(self._rules):
            raise ValueError(
                f"clip is a list of {len(self._rules)} strategies, one for each parameter group; "
                f"the optimizer has {count} groups"
            )
        super().bind(targets, optimizer)

    def _empty(self, rule: str, targets: Sequence[Target]) -> str:
        return f"clip: {rule} of the optimizer is empty"


def divided(clip: Mapping[str, Strategy] | Sequence[Strategy]) -> Divided:
    """The strategy that a dict of patterns, or a list for parameter groups, stands for.

    Raises ValueError or TypeError when it cannot stand for one.
    """
    patterns = isinstance(clip, Mapping)
    rules: dict[Any, Strategy] = dict(clip if isinstance(clip, Mapping) else enumerate(clip))
    if not rules:
        raise ValueError("clip is empty; accepted: at least one pattern with its strategy")
    for rule, strategy in rules.items():
        if not isinstance(strategy, Strategy):
            raise TypeError(
                f"clip[{rule!r}] must be a gradhelm.clip strategy, not {type(strategy).__name__}"
            )
        if patterns and not (
            isinstance(rule, str) and 0 < len(rule) <= MAX_NAME and rule.isprintable()
        ):
            raise ValueError(f"clip: {rule!r} is no pattern of parameter names")
    if len({id(strategy) for strategy in rules.values()}) < len(rules):
        raise ValueError("clip: the same strategy stands twice; each rule needs one of its own")
    return Patterns(rules) if patterns else ParameterGroups(list(rules.values()))


def _each(own: Tensor | None, one: float | None, otherwise: float, like: Tensor) -> Tensor:
    if own is not None:
        return own.to(like)
    return torch.tensor(otherwise if one is None else one).to(like)
