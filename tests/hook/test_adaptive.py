"""The adaptive strategies against their papers' few lines, written out in plain Python.

A stream of norms is given as gradients of one float64 element each: their norm is that number to
the bit, and what is left of it after clipping is the coefficient.
"""

from __future__ import annotations

import io
import math
import statistics
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_

import gradhelm
from gradhelm import wire
from gradhelm.clip import (
    AdaGC,
    AutoClip,
    Gradients,
    Outcome,
    SkipStep,
    Strategy,
    Target,
    TargetFraction,
    ZClip,
)
from gradhelm.clip.adaptive import percentile

from .models import losses, small, weights

NORM = st.floats(min_value=1e-6, max_value=1e6)
NORMS = st.lists(st.one_of(NORM, st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0])), min_size=1)
BAD = [math.nan, math.inf]

MADE = {
    "AutoClip": lambda **policy: AutoClip(40, **policy),
    "AutoClip, window": lambda **policy: AutoClip(90, window=4, **policy),
    "TargetFraction": lambda **policy: TargetFraction(0.3, eta=0.2, **policy),
    "TargetFraction, initial": lambda **policy: TargetFraction(initial=2.0, **policy),
    "ZClip": lambda **policy: ZClip(1.5, warmup=5, **policy),
    "ZClip, mean": lambda **policy: ZClip(1, 0.8, 3, 0.7, 5.0, "mean", **policy),
    "ZClip, percentile": lambda **policy: ZClip(
        1, warmup=2, clip_option="percentile", skip_update_on_spike=True, **policy
    ),
    "AdaGC": lambda **policy: AdaGC(warmup=4, **policy),
    "SkipStep": lambda **policy: SkipStep(2.0, window=20, **policy),
}
every_strategy = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
seeds = st.integers(0, 2**32 - 1)


def gradient(*norms: float | None) -> list[nn.Parameter]:
    """One parameter for each of ``norms``, with a gradient of that norm."""
    made = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in norms]
    for p, norm in zip(made, norms, strict=True):
        p.grad = None if norm is None else torch.tensor([norm], dtype=torch.float64)
    return made


def step(strategy: Strategy, *norms: float | None) -> tuple[Outcome, list[float | None]]:
    """One step: its outcome, and the norms that are left."""
    made = gradient(*norms)
    grads = Gradients.of(made)
    assert grads is not None
    outcome = strategy.step(grads)
    return outcome, [None if p.grad is None else p.grad.item() for p in made]


def bound(strategy: Strategy, count: int = 1) -> Strategy:
    strategy.bind([Target(str(i), p) for i, p in enumerate(gradient(*[1.0] * count))])
    return strategy


def feed(strategy: Strategy, norms: list[float]) -> list[tuple]:
    """What each step did, as numbers that compare to the bit (NaN as None)."""
    told = []
    for norm in norms:
        outcome, left = step(strategy, norm)
        row = (outcome.threshold, outcome.coefficient, outcome.changed, outcome.skipped, *left)
        told.append(tuple(None if value != value else value for value in row))
    return told


def saved(strategy: Strategy) -> dict:
    """The state after a trip through a checkpoint file that may hold nothing but plain values."""
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same_state(one: Strategy, other: Strategy) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left["values"] == right["values"] and all(
        torch.equal(value, right["state"][name])
        if isinstance(value, torch.Tensor)
        else value == right["state"][name]
        for name, value in left["state"].items()
    )


def stream(seed: int, length: int = 40, spikes: float = 0.1) -> list[float]:
    """Lognormal norms, some of them 20 times as high."""
    chance = np.random.default_rng(seed)
    norms = np.exp(chance.normal(0, 0.5, length))
    norms[chance.random(length) < spikes] *= 20
    return norms.tolist()


def torchs(norm: float, threshold: float | None) -> float:
    """What torch's own clip leaves of a gradient of one element."""
    (p,) = gradient(norm)
    if threshold is not None:
        clip_grad_norm_([p], threshold)
    return p.grad.item()


# -- the rules ------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(NORMS, st.floats(min_value=0, max_value=100))
def test_a_percentile_of_sorted_numbers_is_numpys_to_the_bit(numbers, percent):
    assert percentile(sorted(numbers), percent) == np.percentile(numbers, percent)


@given(NORMS, st.floats(min_value=0, max_value=100, exclude_min=True))
def test_autoclip_clips_to_numpys_percentile_of_all_norms_this_one_included(norms, percent):
    strategy, history = AutoClip(percent), []
    assert strategy.threshold is None
    for norm in norms:
        history.append(norm)
        expected = float(np.percentile(history, percent))
        outcome, left = step(strategy, norm)
        assert outcome.threshold == strategy.threshold == expected
        assert left == [torchs(norm, expected)]
    assert strategy.history.tolist() == history


@given(st.lists(st.tuples(NORM, st.integers(0, 6)), min_size=1))
def test_autoclips_window_holds_the_last_norms_and_may_be_changed_at_any_step(steps):
    strategy, kept = AutoClip(30), []
    for norm, window in steps:
        strategy.set(window=window)
        kept = [*kept, norm][-window:]
        outcome, _ = step(strategy, norm)
        assert strategy.history.tolist() == kept
        assert outcome.threshold == np.percentile(kept, 30)


def test_autoclips_window_of_none_is_the_value_0():
    assert AutoClip(window=None).parameters == {"percentile": 10.0, "window": 0.0}


@given(
    NORMS,
    st.floats(min_value=0.01, max_value=0.99),
    st.floats(min_value=0.001, max_value=1),
    st.one_of(st.none(), NORM),
)
def test_target_fraction_clips_and_then_moves_by_its_geometric_rule(norms, fraction, eta, initial):
    strategy, limit = TargetFraction(fraction, eta, initial), initial
    for norm in norms:
        assert strategy.threshold == limit
        outcome, left = step(strategy, norm)
        assert outcome.threshold == limit
        assert left == [torchs(norm, limit)]
        if limit is not None:
            limit *= math.exp(-eta * ((norm <= limit) - (1 - fraction)))
        elif norm > 0:
            limit = norm
    assert strategy.threshold == limit


def test_gradients_that_are_zero_for_long_leave_a_threshold_that_comes_back():
    strategy = TargetFraction(0.9, eta=1.0, initial=1.0)
    for _ in range(2000):
        step(strategy, 0.0)
    assert strategy.threshold == 2.0**-126
    for _ in range(2000):
        step(strategy, 3.0)
    assert 1 < strategy.threshold < 10


@given(seeds, st.sampled_from(["adaptive_scaling", "mean", "percentile"]), st.booleans())
def test_zclip_is_the_papers_algorithm(seed, option, skip):
    alpha, reach, warmup, factor = 0.9, 1.5, 6, 0.8
    strategy = ZClip(reach, alpha, warmup, factor, clip_option=option, skip_update_on_spike=skip)
    norms = stream(seed)
    assert [step(strategy, norm)[1] for norm in norms[:warmup]] == [[n] for n in norms[:warmup]]
    mean, var = statistics.fmean(norms[:warmup]), statistics.pvariance(norms[:warmup])
    for norm in norms[warmup:]:
        std = math.sqrt(var)
        z = (norm - mean) / (std + 1e-6)
        beyond = mean + reach * std
        outlier = norm > beyond if option == "percentile" else z > reach
        to = {
            "adaptive_scaling": factor * (mean + reach**2 * std / z),
            "mean": mean,
            "percentile": beyond,
        }[option]
        assert strategy.threshold == pytest.approx(beyond, rel=1e-5)
        outcome, left = step(strategy, norm)
        assert outcome.changed == outlier
        assert outcome.threshold == pytest.approx(to if outlier else beyond, rel=1e-5)
        assert left == [pytest.approx(to if outlier else norm, rel=1e-5)]
        if not (outlier and skip):
            new = to if outlier else norm
            mean = alpha * mean + (1 - alpha) * new
            var = alpha * var + (1 - alpha) * (new - mean) ** 2
    assert (strategy.mean, strategy.var) == pytest.approx((mean, var), rel=1e-9)
    assert strategy.warmup_norms == []


def test_zclips_ceiling_holds_in_the_warm_up_and_after_it():
    strategy = ZClip(warmup=3, max_norm=2.0)
    assert strategy.threshold == 2.0
    for norm in (1.0, 3.0, 5.0, 4.0):
        outcome, left = step(strategy, norm)
        assert outcome.threshold == 2.0
        assert left == [torchs(norm, 2.0)]
    assert strategy.mean == 0.97 * 3.0 + 0.03 * 4.0
    strategy.set(max_norm=0)
    assert strategy.threshold > 2.0
    assert ZClip(max_norm=None).threshold is None


@given(seeds)
def test_adagc_is_the_papers_algorithm(seed):
    rel, absolute, beta, warmup = 1.1, 0.7, 0.9, 5
    strategy = bound(AdaGC(rel, absolute, beta, warmup), 3)
    chance = np.random.default_rng(seed)
    gammas = [math.inf] * 3
    for t in range(1, 25):
        norms = [n if chance.random() < 0.8 else None for n in stream(int(chance.integers(99)), 3)]
        if norms == [None] * 3:
            continue
        total = math.hypot(*[n for n in norms if n is not None])
        expected: list[float | None] = []
        for i, norm in enumerate(norms):
            if norm is None:
                expected.append(None)
            elif strategy.steps + 1 < warmup or gammas[i] == math.inf:
                expected.append(norm * min(1, absolute / total))
                gammas[i] = min(gammas[i], expected[-1])
            else:
                expected.append(norm * min(1, rel * gammas[i] / norm))
                gammas[i] = beta * gammas[i] + (1 - beta) * expected[-1]
        early = strategy.steps + 1 < warmup
        assert strategy.threshold == (absolute if early else None)
        outcome, left = step(strategy, *norms)
        assert outcome.threshold == (absolute if early else None)
        assert left == [n if n is None else pytest.approx(n, rel=1e-6) for n in expected], t
        assert strategy.gammas.tolist() == pytest.approx(gammas, rel=1e-6)


def test_adagc_tells_the_threshold_and_the_coefficient_of_each_gradient():
    strategy = bound(AdaGC(1.5, 10.0, warmup=2), 3)
    step(strategy, 1.0, 2.0, None)
    outcome, left = step(strategy, 3.0, None, 4.0)
    assert outcome.thresholds.tolist() == pytest.approx([1.5, math.nan], nan_ok=True)
    assert outcome.coefficients.tolist() == [0.5, 1.0]
    assert left == [1.5, None, 4.0]
    assert outcome.changed


def test_adagc_holds_a_gradient_that_was_zero_in_the_warm_up_near_zero():
    strategy = bound(AdaGC(lambda_abs=9, warmup=3), 2)
    for norm in (0.0, 2.0, 0.0, 0.0):
        step(strategy, norm, 0.5)
    _, left = step(strategy, 2.0, 0.5)
    assert left == pytest.approx([1.05e-8, 0.5])


@given(seeds, st.integers(20, 50), st.floats(min_value=0.5, max_value=4))
def test_skip_step_skips_what_is_far_above_the_mean_of_the_last(seed, window, sigma):
    strategy, last = SkipStep(sigma, window), deque(maxlen=window)
    for norm in stream(seed, 70):
        limit = None
        if len(last) + 1 >= max(20, window // 2):
            std, mean = torch.std_mean(torch.tensor(list(last), dtype=torch.float64))
            limit = pytest.approx((mean + sigma * std).item(), rel=1e-12)
        assert strategy.threshold == limit
        outcome, left = step(strategy, norm)
        assert outcome.threshold == limit
        assert outcome.skipped == (limit is not None and norm > limit.expected)
        assert (left, outcome.changed) == ([norm], False)
        last.append(norm)
    assert strategy.history == list(last)


def test_skip_step_takes_a_norm_that_stays_high_for_normal_after_a_while():
    strategy = SkipStep(6.0, window=20)
    rising = [*np.linspace(1.0, 1.1, 20), *np.linspace(9.0, 9.1, 20)]
    skipped = [step(strategy, norm)[0].skipped for norm in rising]
    assert skipped[20]
    assert not any(skipped[23:])


# -- shares of clipped steps ----------------------------------------------------------------------


def share(strategy: Strategy, norms: np.ndarray, after: int) -> float:
    return float(np.mean([step(strategy, norm)[0].changed for norm in norms.tolist()][after:]))


@pytest.mark.parametrize("percent", [10.0, 50.0, 90.0])
@pytest.mark.parametrize("window", [None, 500])
def test_autoclip_clips_100_minus_percentile_percent_of_a_stationary_stream(percent, window):
    norms = np.random.default_rng(0).lognormal(0, 0.5, 6000)
    found = share(AutoClip(percent, window), norms, after=1000)
    assert found == pytest.approx(1 - percent / 100, abs=0.015)


def test_a_window_keeps_autoclips_share_where_norms_fall_and_all_of_the_past_does_not():
    norms = np.random.default_rng(0).lognormal(0, 0.5, 6000) * np.linspace(10, 1, 6000)
    assert share(AutoClip(90), norms, after=1000) < 0.03
    assert share(AutoClip(90, window=200), norms, after=1000) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_target_fraction_clips_that_share_of_steps(fraction):
    norms = np.random.default_rng(0).lognormal(0, 0.5, 10_000)
    falling = norms * np.linspace(10, 1, norms.size)
    for given_norms in (norms, falling):
        found = share(TargetFraction(fraction, 0.05), given_norms, after=1000)
        assert found == pytest.approx(fraction, abs=0.006)


# -- what all of them hold ------------------------------------------------------------------------


@every_strategy
@settings(max_examples=25)
@given(seeds, st.data())
def test_steps_that_are_not_finite_teach_nothing(make, seed, data):
    norms = stream(seed)
    disturbed, places = [], set()
    for norm in norms:
        if data.draw(st.integers(0, 4)) == 0:
            places.add(len(disturbed))
            disturbed.append(data.draw(st.sampled_from(BAD)))
        disturbed.append(norm)
    plain, tried = bound(make()), bound(make())
    told = feed(tried, disturbed)
    assert [row for i, row in enumerate(told) if i not in places] == feed(plain, norms)
    assert same_state(plain, tried)


@every_strategy
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("seen", [0, 1, 40])
def test_with_propagate_they_do_what_torchs_formula_does(make, bad, seen):
    strategy = bound(make(), 2)
    for norm in stream(1, seen):
        step(strategy, norm, norm)
    in_force = strategy.threshold
    outcome, left = step(strategy, 3.0, bad)
    ours = torch.tensor(left, dtype=torch.float64)
    if isinstance(strategy, SkipStep):
        expected = torch.tensor([3.0, bad], dtype=torch.float64)
        assert outcome.skipped == (seen == 40)
    elif isinstance(strategy, AdaGC) and seen == 40:
        # Each parameter by its own norm, so the finite one keeps its clip.
        limit = 1.05 * strategy.gammas[0].item()
        expected = torch.tensor([limit, math.nan], dtype=torch.float64)
        assert not outcome.skipped
    else:
        made = gradient(3.0, bad)
        clip_grad_norm_(made, 1.0)
        expected = torch.stack([p.grad[0] for p in made])
        assert not outcome.skipped
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-6, atol=0)
    assert outcome.threshold == strategy.threshold == in_force


@every_strategy
def test_the_other_policies_teach_nothing_either(make):
    norms = stream(2)
    plain = bound(make())
    feed(plain, norms)
    for policy in ("zero", "skip", "raise"):
        strategy = bound(make(nonfinite=policy))
        feed(strategy, norms)
        if policy == "raise":
            with pytest.raises(RuntimeError, match="non-finite"):
                step(strategy, math.nan)
        else:
            outcome, _ = step(strategy, math.nan)
            assert outcome.skipped == (policy == "skip")
            assert outcome.threshold == plain.threshold
        assert same_state(strategy, plain)


@every_strategy
@settings(max_examples=25)
@given(seeds, st.integers(0, 40))
def test_a_run_saved_at_any_step_goes_on_as_if_never_stopped(make, seed, stop):
    norms = stream(seed)
    whole, first, second = bound(make()), bound(make()), make()
    expected = feed(whole, norms)
    assert feed(first, norms[:stop]) == expected[:stop]
    second.load_state_dict(saved(first))
    assert feed(bound(second), norms[stop:]) == expected[stop:]
    assert same_state(second, whole)
    assert second.threshold == whole.threshold


@every_strategy
def test_a_saved_state_is_a_copy(make):
    strategy = bound(make())
    feed(strategy, stream(3))
    kept = saved(strategy)
    feed(strategy, stream(4))
    again = bound(make())
    again.load_state_dict(kept)
    twin = bound(make())
    twin.load_state_dict(kept)
    feed(again, stream(5))
    fresh = bound(make())
    feed(fresh, stream(3))
    assert same_state(twin, fresh)


@every_strategy
def test_steps_without_gradients_are_no_steps(make):
    strategy = make()
    parameters = gradient(None, None)
    assert strategy(parameters) == 0.0
    fresh = bound(make(), 2)
    assert same_state(strategy, fresh)
    for norm in stream(6):
        for one in (strategy, fresh):
            parameters[0].grad = torch.tensor([norm], dtype=torch.float64)
            one(parameters) if one is strategy else one.step(Gradients.of(parameters))
        parameters[0].grad = None
        strategy(parameters)
    assert same_state(strategy, fresh)


@every_strategy
def test_half_sparse_and_complex_gradients_teach_what_dense_ones_do(make):
    chance = torch.Generator().manual_seed(0)
    dense, mixed = make(), make()
    rows = torch.tensor([[0, 2, 2]])
    plain = [nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(2, 2))]
    other = [nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(2, dtype=torch.complex64))]
    for _ in range(30):
        values = torch.randn(3, 3, generator=chance)
        pairs = torch.randn(2, 2, generator=chance)
        sparse = torch.sparse_coo_tensor(rows, values, (4, 3), check_invariants=True)
        plain[0].grad, plain[1].grad = sparse.to_dense(), pairs.clone()
        other[0].grad, other[1].grad = sparse, torch.view_as_complex(pairs.clone())
        assert mixed(other).item() == pytest.approx(dense(plain).item(), rel=1e-6)
        if plain[0].grad is None:  # skipped
            assert other[0].grad is None
            continue
        torch.testing.assert_close(other[0].grad.to_dense(), plain[0].grad)
        torch.testing.assert_close(torch.view_as_real(other[1].grad), plain[1].grad)
    if not isinstance(dense, AdaGC):  # which has no single one
        assert mixed.threshold == pytest.approx(dense.threshold, rel=1e-6)
    half = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    half.grad = torch.tensor([1.0, 2.0, 2.0], dtype=torch.bfloat16)
    assert make()(half) == 3.0


@every_strategy
def test_a_changed_value_holds_from_the_next_step_on(make):
    strategy, twin = bound(make()), bound(make())
    norms = stream(7)
    feed(strategy, norms)
    feed(twin, norms)
    name = strategy.threshold_name
    assert strategy[name] == strategy.parameters[name]
    state = saved(strategy)["state"]
    strategy.set(**{name: strategy[name] * 1.1})
    changed = make()
    changed.load_state_dict({"values": strategy.parameters, "state": state})
    followed, as_before = feed(strategy, norms), feed(twin, norms)
    assert followed == feed(bound(changed), norms)
    assert followed != as_before


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: AutoClip(0), "percentile must be a finite number above 0 and at most 100"),
        (lambda: AutoClip(100.5), "percentile must be a finite number above 0 and at most 100"),
        (lambda: AutoClip(window=-1), "window must be a whole number at least 0"),
        (lambda: AutoClip(window=2.5), "window must be a whole number at least 0"),
        (lambda: TargetFraction(0.0), "fraction must be a finite number above 0 and below 1"),
        (lambda: TargetFraction(1.0), "fraction must be a finite number above 0 and below 1"),
        (lambda: TargetFraction(eta=1.5), "eta must be a finite number above 0 and at most 1"),
        (lambda: TargetFraction(initial=0.0), "initial must be a finite number above 0"),
        (lambda: TargetFraction(initial=math.nan), "initial must be a finite number above 0"),
        (lambda: ZClip(0), "z_threshold must be a finite number above 0"),
        (lambda: ZClip(alpha=1.0), "alpha must be a finite number at least 0 and below 1"),
        (lambda: ZClip(warmup=0), "warmup must be a whole number at least 1"),
        (lambda: ZClip(clip_factor=1.1), "clip_factor must be .* above 0 and at most 1"),
        (lambda: ZClip(max_norm=-1.0), "max_norm must be a finite number at least 0"),
        (lambda: ZClip(clip_option="zscore"), "clip_option is 'zscore'; accepted: 'adaptive_sc"),
        (lambda: ZClip(skip_update_on_spike=1), "skip_update_on_spike must be a bool, not int"),
        (lambda: AdaGC(lambda_rel=0), "lambda_rel must be a finite number above 0"),
        (lambda: AdaGC(lambda_abs="1"), "lambda_abs must be a finite number above 0, not str"),
        (lambda: AdaGC(beta=1), "beta must be a finite number at least 0 and below 1"),
        (lambda: AdaGC(warmup=1.5), "warmup must be a whole number at least 1"),
        (lambda: SkipStep(-6), "sigma must be a finite number above 0"),
        (lambda: SkipStep(window=19), "window must be a whole number at least 20"),
        (lambda: SkipStep(window=True), "window must be a whole number at least 20"),
    ],
)
def test_bad_values_are_refused_by_name_with_what_is_accepted(make, error):
    with pytest.raises((ValueError, TypeError), match=error):
        make()


def test_the_names_and_values_are_shown():
    assert repr(AutoClip()) == "AutoClip(percentile=10, window=0)"
    assert repr(ZClip(clip_option="mean")) == (
        "ZClip(z_threshold=2.5, alpha=0.97, warmup=25, clip_factor=1, max_norm=0, "
        "clip_option='mean')"
    )


# -- AdaGC's parameters ---------------------------------------------------------------------------


def test_parameters_added_later_begin_without_an_average():
    strategy = bound(AdaGC(warmup=2), 2)
    step(strategy, 1.0, 0.5)
    before = strategy.gammas.tolist()
    state = saved(strategy)
    bound(strategy, 3)
    assert strategy.gammas.tolist() == [*before, math.inf]
    step(strategy, 1.0, 1.0, 5.0)
    assert strategy.gammas.isfinite().all()
    late = bound(AdaGC(warmup=2), 3)
    late.load_state_dict(state)
    assert late.gammas.tolist() == [*before, math.inf]


def test_averages_of_more_parameters_than_there_are_cannot_be_used():
    strategy = bound(AdaGC(), 3)
    with pytest.raises(ValueError, match="averages of 3 parameters, and 2 are given"):
        bound(strategy, 2)
    other = bound(AdaGC(1.2), 2)
    step(other, 1.0, 2.0)
    kept = saved(other)
    with pytest.raises(ValueError, match="averages of 3 parameters, and 2 are given"):
        other.load_state_dict(strategy.state_dict())
    assert other["lambda_rel"] == 1.2
    assert torch.equal(other.gammas, kept["state"]["gammas"])


# -- in a run -------------------------------------------------------------------------------------


def test_a_skipped_step_changes_no_weights():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = gradhelm.attach(model, optimizer, clip=SkipStep(window=20), mode="disabled")
    moved = []
    for number, loss in enumerate(losses(model, 40)):
        before = weights(model)
        optimizer.zero_grad()
        (loss * (1000 if number == 30 else 1)).backward()
        optimizer.step()
        moved.append(weights(model) != before)
    assert [i for i, did in enumerate(moved) if not did] == [30]
    assert run.threshold is not None


def test_a_remote_user_turns_the_percentile_and_the_limits_are_its_own(server):
    model = small()
    run = gradhelm.attach(model, clip=AutoClip(10), server=server.url)
    (coded,) = server.hello.coded
    assert coded.threshold == "percentile"
    assert coded.limits == {"percentile": wire.Limit(0.1, 100.0)}  # and not a hundred times 10
    history = []
    for number, loss in enumerate(losses(model, 6)):
        if number == 3:
            values = (wire.Rule({"percentile": 80.0}),)
            server.say(wire.Change(version=1, rules=values))
            server.wait(lambda: wire.Delivered(1) in server.heard)
        model.zero_grad()
        loss.backward()
        history.append(run.clip().item())
        assert run.threshold == np.percentile(history, 10 if number < 3 else 80)
    run.close()
    found = [(version, row["threshold"]) for _, version, row in server.rows()]
    assert [version for version, _ in found] == [0, 0, 0, 1, 1, 1]
    assert found[-1][1] == pytest.approx(run.threshold)
