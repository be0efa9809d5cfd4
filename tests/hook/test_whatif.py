"""A replay over recorded norms does what the strategy did to the gradients they are the norms of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from gradhelm import wire
from gradhelm.clip import AGC, Strategy, Value
from gradhelm.clip.divide import divided
from gradhelm.whatif import COLUMNS, layered, parse, prepared, replay

STEPS = 300
NAMES = ("encoder.0.weight", "encoder.0.bias", "head.weight")
SHAPES = ((6, 4), (6,), (3, 6))

BY_NORM: dict[str, Callable[[], Strategy]] = {
    text: (lambda text=text: parse(text))
    for text in (
        "GlobalNorm(1.0)",
        "SoftNorm(1.0)",
        "Normalize(0.5, beta=0.5)",
        "AutoClip(percentile=60)",
        "AutoClip(percentile=60, window=50)",
        "TargetFraction(fraction=0.2)",
        "ZClip()",
        "SkipStep(sigma=2)",
        "Schedule(GlobalNorm(1.0), 'cosine', steps=200, factor=0.1)",
        "Ceiling(AutoClip(percentile=90), max_norm=1.5)",
        'GlobalNorm(1.0, nonfinite="zero")',
        'AutoClip(percentile=60, nonfinite="skip")',
    )
}
BY_LAYER: dict[str, Callable[[], Strategy]] = {
    "PerParameterNorm": lambda: parse("PerParameterNorm(0.7)"),
    "PerModuleNorm": lambda: parse("PerModuleNorm(0.7, depth=1)"),
    "AdaGC": lambda: parse("AdaGC()"),
    "patterns": lambda: divided(
        {"head.*": parse("GlobalNorm(0.4)"), "*": parse("AutoClip(percentile=70)")}
    ),
}


def trained(strategy: Strategy) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Norms of gradients that ``strategy`` clipped for real, and what it did to them."""
    from gradhelm.clip import Gradients, Target

    torch.manual_seed(3)
    parameters = [torch.zeros(shape) for shape in SHAPES]
    strategy.bind([Target(*named) for named in zip(NAMES, parameters, strict=True)])
    norms = np.full((STEPS, len(NAMES) + 1), wire.MISSING, np.float32)
    did = {name: np.full(STEPS, np.nan, np.float32) for name in COLUMNS}
    for step in range(STEPS):
        size = math.exp(torch.randn(()).item())
        for place, parameter in enumerate(parameters):
            idle = place == 1 and step % 7 == 3
            parameter.grad = None if idle else size * torch.randn(parameter.shape)
        if step in (50, 51):
            parameters[0].grad[0, 0] = math.nan if step == 50 else math.inf
        grads = Gradients.of(parameters)
        assert grads is not None
        for norm, place in zip(grads.norms, grads.places or range(len(NAMES)), strict=True):
            norms[step, place] = norm
        norms[step, -1] = grads.global_norm
        before = strategy.threshold
        outcome = strategy.step(grads)
        factor = outcome.coefficient
        if factor is None and outcome.factor is not None:
            factor = outcome.factor.item()
        after = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        for name, value in (
            ("threshold", before if outcome.threshold is None else outcome.threshold),
            ("clip_coef", factor),
            ("clipped", outcome.changed),
            ("skipped", outcome.skipped),
            ("post_norm", None if outcome.skipped else torch.linalg.vector_norm(after).item()),
        ):
            if value is not None:
                did[name][step] = value
    columns = [*NAMES, "global_norm"]
    return {name: norms[:, at] for at, name in enumerate(columns)}, did


def same(found: dict[str, np.ndarray], did: dict[str, np.ndarray], rtol: float) -> None:
    assert 0 < np.nansum(did["clipped"]) + np.nansum(did["skipped"]) < STEPS + 1
    for name in COLUMNS:
        if name == "post_norm":
            # Gradients that are not finite become NaN in more elements than a norm can show.
            finite = np.isfinite(did[name])
            assert np.allclose(found[name][finite], did[name][finite], rtol=1e-5), name
            continue
        assert np.array_equal(np.isnan(found[name]), np.isnan(did[name])), name
        assert np.allclose(found[name], did[name], rtol=rtol, atol=0, equal_nan=True), name


@pytest.mark.parametrize("name", BY_NORM)
def test_a_strategy_that_goes_by_the_common_norm_does_the_same_to_the_bit(name: str) -> None:
    norms, did = trained(BY_NORM[name]())
    strategy = prepared(BY_NORM[name]())
    assert not layered(strategy)
    found = replay(strategy, {"all": norms["global_norm"]})
    same(found, did, rtol=1e-6 if name.startswith("Soft") else 0)


@pytest.mark.parametrize("name", BY_LAYER)
def test_a_strategy_that_goes_by_parameters_does_the_same(name: str) -> None:
    norms, did = trained(BY_LAYER[name]())
    strategy = prepared(BY_LAYER[name]())
    assert layered(strategy)
    found = replay(strategy, {each: norms[each] for each in NAMES})
    same(found, did, rtol=2e-6)


def test_what_it_is_asked_about_stays_as_it_is() -> None:
    strategy = parse("AutoClip(percentile=60)")
    before = str(strategy.state_dict())
    replay(prepared(strategy), {"all": np.linspace(1, 2, 50, dtype=np.float32)})
    assert str(strategy.state_dict()) == before


def test_what_would_be_left_to_an_optimizer_is_done_here() -> None:
    norms = {"all": np.linspace(0.5, 2, 50, dtype=np.float32)}
    folded, exact = (
        replay(prepared(parse(text)), norms)
        for text in ("GlobalNorm(1.0, exact=False)", "GlobalNorm(1.0)")
    )
    for name in COLUMNS:
        assert np.array_equal(folded[name], exact[name])


def test_a_step_without_gradients_is_none() -> None:
    norms = np.full(3, wire.MISSING, np.float32)
    norms[1] = 4.0
    found = replay(prepared(parse("GlobalNorm(1.0)")), {"all": norms})
    assert np.isnan(found["clipped"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Value(1.0), "Value goes by single elements"),
        (lambda: AGC(0.01), "AGC goes by the norms of weights"),
        (lambda: parse("Ceiling(AutoClip(), max_norm=1)"), None),
        (lambda: parse("GlobalNorm(1.0, norm_type=1)"), "goes by another norm"),
        (lambda: {"a.*": parse("GlobalNorm(1)"), "*": Value(1.0)}, "Value goes by single"),
    ],
)
def test_what_norms_say_nothing_of_is_refused(
    made: Callable[[], Strategy], message: str | None
) -> None:
    if message is None:
        prepared(made())
        return
    with pytest.raises(ValueError, match=message):
        prepared(made())


def test_no_strategy_at_all_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a gradhelm\.clip strategy, not str"):
        prepared("GlobalNorm(1.0)")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GlobalNorm(", "was never closed"),
        ("print(1)", "there is no strategy print"),
        ("Strategy()", "there is no strategy Strategy"),
        ("Gradients([], [])", "there is no strategy Gradients"),
        ("__import__('os').system('true')", "there is no strategy __import__"),
        ("GlobalNorm(-1)", "above 0"),
        ("GlobalNorm(open('x'))", "there is no strategy open"),
        ("GlobalNorm(norm=1)", "unexpected keyword"),
        ("GlobalNorm(**{'max_norm': 1})", r"\*\* is not known"),
        ("1.0", "expected a strategy"),
        ("", "invalid syntax"),
    ],
)
def test_what_is_no_strategy_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
