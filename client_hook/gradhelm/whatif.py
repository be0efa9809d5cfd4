"""What a strategy would have done to the norms that were recorded: the strategy itself, run over them.

Exact for that trajectory. Had the strategy been in force the weights would have been others, and so
would all norms after the first step that it clips differently: no replay can know those.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from . import clip
from .clip import (
    AGC,
    AdaGC,
    BlockRMS,
    Curvature,
    Gradients,
    PerModuleNorm,
    PerParameterNorm,
    Preconditioned,
    SigmaClip,
    SpikeAware,
    Strategy,
    Target,
    UpdateRMS,
    Value,
)
from .clip.divide import Divided, divided
from .wire import FloatArray, missing

LAYERED: Final = (AdaGC, PerModuleNorm, PerParameterNorm, Divided)
"""Strategies that ask for the norm of each parameter; the others for the common one."""
UNKNOWN: Final[dict[type[Strategy], str]] = {
    AGC: "the norms of weights, unit by unit",
    BlockRMS: "the sizes of parameters",
    Value: "single elements",
    SpikeAware: "single elements and the optimizer's moments",
    SigmaClip: "single elements and the optimizer's moments",
    Preconditioned: "the optimizer's state",
    UpdateRMS: "the optimizer's updates",
    Curvature: "the optimizer's updates",
}
"""What these look at, of which norms of gradients say nothing."""
COLUMNS: Final = ("threshold", "clip_coef", "clipped", "skipped", "post_norm")


def prepared(strategy: Strategy | Mapping[str, Strategy]) -> Strategy:
    """A copy that can be run over norms, with whatever ``strategy`` has learned so far.

    Raises ValueError for one whose clip does not follow from norms, TypeError for none.
    """
    made = divided(strategy) if isinstance(strategy, Mapping) else strategy
    if not isinstance(made, Strategy):
        raise TypeError(f"strategy must be a gradhelm.clip strategy, not {type(made).__name__}")
    made = copy.deepcopy(made)
    for one in _inside(made):
        for kind, what in UNKNOWN.items():
            if isinstance(one, kind):
                raise ValueError(f"{one.name} goes by {what}, of which recorded norms say nothing")
        if one.norm_type != 2:
            raise ValueError(f"{one.name} goes by another norm than the recorded ones (L2)")
        one.folds = False  # there is no optimizer that it could be left to
    return made


def layered(strategy: Strategy) -> bool:
    """Whether it needs the norm of each parameter."""
    return any(isinstance(one, LAYERED) for one in _inside(strategy))


@torch.no_grad()
def replay(strategy: Strategy, norms: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What ``strategy`` (of :func:`prepared`, which learns on the way) does at each step.

    norms: [steps] by the name of the parameter, MISSING where it had no gradient; of a strategy that
    is not :func:`layered` one alone, the common norm. Gives [steps] for each of ``COLUMNS``: the
    threshold that was in force, the clip coefficient, whether the step was clipped or skipped, and
    the common norm afterwards; NaN where there is none. Raises ValueError as ``attach`` would.
    """
    # A gradient of one element has exactly the norm that is asked for.
    parameters = [torch.zeros(1) for _ in norms]
    strategy.bind([Target(*named) for named in zip(norms, parameters, strict=True)])
    rows = torch.from_numpy(np.stack(list(norms.values()), axis=1))
    absent = missing(rows.numpy())
    found = {name: np.full(len(rows), np.nan, np.float32) for name in COLUMNS}
    for step, row in enumerate(rows):
        for place, parameter in enumerate(parameters):
            gone = bool(absent[step, place])
            parameter.grad = None if gone else row[place : place + 1].clone()
        grads = Gradients.of(parameters)
        if grads is None:
            continue
        before = strategy.threshold
        outcome = strategy.step(grads)
        factor = outcome.coefficient
        if factor is None and outcome.factor is not None:
            factor = outcome.factor.item()
        threshold = before if outcome.threshold is None else outcome.threshold
        for name, value_ in (
            ("threshold", threshold),
            ("clip_coef", factor),
            ("clipped", float(outcome.changed)),
            ("skipped", float(outcome.skipped)),
            ("post_norm", None if outcome.skipped else _norm(grads.tensors)),
        ):
            if value_ is not None:
                found[name][step] = value_
    return found


def parse(text: str) -> Strategy:
    """The strategy that ``text`` makes, such as ``Ceiling(AutoClip(percentile=90), max_norm=10)``.

    Nothing else is evaluated. Raises ValueError that says what is wrong.
    """
    try:
        made = _made(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
    if not isinstance(made, Strategy):
        raise ValueError(f"{text!r}: expected a strategy, such as AutoClip(percentile=90)")
    return made


def _made(node: ast.expr) -> Any:
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    kind = getattr(clip, name, None) if name in clip.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, Strategy) and kind is not Strategy):
        raise ValueError(f"there is no strategy {name}")
    named = {word.arg: _made(word.value) for word in node.keywords if word.arg is not None}
    if len(named) < len(node.keywords):
        raise ValueError("** is not known here")
    return kind(*map(_made, node.args), **named)


def _inside(strategy: Strategy) -> Iterable[Strategy]:
    """It, and all that it is made of."""
    yield strategy
    inner = getattr(strategy, "inner", None)
    parts = [inner] if isinstance(inner, Strategy) else []
    parts += [rule for rule in strategy.rules.values() if rule is not strategy]
    for part in parts:
        yield from _inside(part)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.linalg.vector_norm(torch.cat(tensors)))
