"""What the training script has, and within which limits a control document may differ from it.

The trainer holds every change to these limits itself. They are looked at here as well so that a
person is told at once, and told what is accepted.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from sqlalchemy import Row

from gradhelm import wire

from .errors import ApiError

_coded = msgspec.json.Decoder(tuple[wire.Coded, ...])
_limits = msgspec.json.Decoder(wire.Limits)


def every_coded(row: Row[Any]) -> tuple[wire.Coded, ...]:
    """The strategies of all streams of the run in ``row``, as the script has them."""
    return _coded.decode(row.coded or "[]")


def coded_of(row: Row[Any], stream: str | None = None) -> tuple[wire.Coded, ...]:
    """The strategies of one stream ("" or None: the run's first) as the script has them."""
    return tuple(c for c in every_coded(row) if c.stream == (stream or None))


def own_of(row: Row[Any]) -> wire.Coded:
    """The run's own strategy: the one for all parameters, an empty one when it has patterns."""
    nothing = wire.Coded("", {})
    return next((coded for coded in coded_of(row) if coded.match is None), nothing)


def limits_of(row: Row[Any]) -> wire.Limits:
    """What holds for every change of the run."""
    return _limits.decode(row.limits)


def rule_of(row: Row[Any], match: str | None, stream: str | None) -> wire.Coded:
    """The strategy that a rule is for. Raises ApiError 422 when the script has none such."""
    found = [coded for coded in coded_of(row, stream) if coded.match == match]
    if found:
        return found[0]
    patterns = [coded.match for coded in coded_of(row, stream) if coded.match is not None]
    known = f"match: one of {', '.join(map(repr, patterns))}" if patterns else "no match"
    what = "one strategy for all parameters" if match is None else f"pattern {match!r}"
    raise ApiError(422, "unknown_pattern", f"the training script has no {what}; expected {known}")


def shown_limits(row: Row[Any], coded: wire.Coded) -> dict[str, Any]:
    """Limits as REST shows them, in the document and with every refusal."""
    limits = limits_of(row)
    return {
        "limits": {n: {"min": v.min, "max": v.max} for n, v in coded.limits.items()},
        "factor": limits.factor,
        "every_steps": limits.every_steps,
    }


def check_open(row: Row[Any]) -> None:
    """Raises ApiError 422 when nothing of the run may be changed."""
    why_not = limits_of(row).why_not
    if why_not is not None:
        raise ApiError(422, "read_only", why_not, shown_limits(row, own_of(row)))


def check_values(
    row: Row[Any],
    before: dict[str, float],
    values: dict[str, float],
    match: str | None,
    stream: str | None,
) -> None:
    """Raises ApiError 422 for ``values`` that the rule may not be given in place of ``before``."""
    coded = rule_of(row, match, stream)
    details = shown_limits(row, coded)
    for name, value in values.items():
        limit = coded.limits.get(name)
        if limit is None:
            names = ", ".join(sorted(coded.limits)) or "nothing: it has no threshold"
            raise ApiError(
                422,
                "unknown_value",
                f"{name[:100]!r} cannot be set here; expected {names}",
                details,
            )
        if not (math.isfinite(value) and limit.min <= value <= limit.max):
            raise ApiError(
                422,
                "out_of_range",
                f"{name} = {value:g} is outside {limit.min:g} to {limit.max:g}, the range that the "
                "training script allows",
                details,
            )
        if limit.whole and value != int(value):
            raise ApiError(
                422,
                "out_of_range",
                f"{name}: expected a whole number from {limit.min:g} to {limit.max:g}, "
                f"not {value:g}",
                details,
            )
        _check_factor(row, name, before.get(name), value, details)


def check_lr_factor(row: Row[Any], before: float, value: float) -> None:
    """Raises ApiError 422 when learning rates may not be multiplied by ``value``."""
    if not limits_of(row).lr:
        raise ApiError(
            422,
            "not_allowed",
            "lr_factor: the training script does not allow it; it has to attach with an optimizer "
            "that does not step inside backward, and control=gradhelm.Control(lr=True)",
        )
    most = wire.MAX_LR_FACTOR
    if not 1 / most <= value <= most:
        raise ApiError(
            422, "out_of_range", f"lr_factor = {value:g} is outside {1 / most:g} to {most:g}"
        )
    _check_factor(row, "lr_factor", before, value, {"factor": limits_of(row).factor})


def check_stop(row: Row[Any]) -> None:
    """Raises ApiError 422 when the run may not be asked to end."""
    if not limits_of(row).stop:
        raise ApiError(
            422,
            "not_allowed",
            "stop: the training script does not allow it; it has to attach with "
            "control=gradhelm.Control(stop=True) and look at run.should_stop",
        )


def _check_factor(
    row: Row[Any], name: str, old: float | None, value: float, details: dict[str, Any]
) -> None:
    factor = limits_of(row).factor
    if factor and old and value and not old / factor <= value <= old * factor:
        raise ApiError(
            422,
            "too_far",
            f"{name} may change by a factor of at most {factor:g} at once: "
            f"{old / factor:g} to {old * factor:g}",
            details,
        )
