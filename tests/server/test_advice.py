"""Advice is what numpy says of the norms, each value with what torch would have clipped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import Running
from trainer import SCALARS, FakeTrainer, trainer

from gradhelm import wire
from gradhelm_server.advice import CUSTOMARY, ENOUGH, advise

BAD = [math.nan, math.inf]


def clipped(norms: np.ndarray, threshold: float) -> float:
    """The share of the steps that torch's own rule clips; those that are NaN are steps."""
    all_norms = torch.tensor(norms)
    coefficient = torch.clamp(threshold / (all_norms + 1e-6), max=1.0)
    return int((coefficient < 1).sum()) / len(norms)


def close(value: float, wanted: float) -> bool:
    """Equal to four figures."""
    return value == pytest.approx(wanted, rel=5.1e-4)


@st.composite
def drawn(draw: st.DrawFn) -> np.ndarray:
    """Norms of one run: of any scale and spread, some of them not finite, some of them equal."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    count = draw(st.integers(ENOUGH, 400))
    spread = draw(st.sampled_from([0.0, 0.01, 0.5, 2.0]))
    scale = 10.0 ** draw(st.integers(-6, 30))
    norms = (scale * random.lognormal(0, spread, count)).astype(np.float32)
    if draw(st.booleans()):
        norms = np.round(norms / np.float32(scale), 1).astype(np.float32) * np.float32(scale)
    bad = draw(st.integers(0, 40))
    return np.insert(norms, random.integers(0, count, bad), random.choice(BAD, bad))


@given(drawn(), st.sampled_from([0.01, 0.1, 0.33]))
def test_statistics_are_numpys_and_fractions_torchs(norms: np.ndarray, target: float) -> None:
    found = advise(norms, target)
    finite = norms[np.isfinite(norms)].astype(np.float64)
    assert (found.steps, found.finite, found.note) == (len(norms), len(finite), None)
    values = {s.name: s.value for s in found.suggestions if s.kind == "statistic"}
    wanted = {
        "90th percentile": np.percentile(finite, 90),
        "Mean + 3 standard deviations": finite.mean() + 3 * finite.std(),
        "10th percentile": np.percentile(finite, 10),
        "Half the mean": finite.mean() / 2,
        "Ten times the mean": 10 * finite.mean(),
    }
    for name, value in wanted.items():
        assert close(values.pop(name), value) if value > 0 else name not in values, name
    for suggestion, fraction in zip(found.suggestions, found.fractions, strict=True):
        assert fraction == clipped(norms, suggestion.value), suggestion.name
        assert float(f"{suggestion.value:.4g}") == suggestion.value
    for value in values.values():  # the one for the target is all that is left
        assert clipped(norms, value) <= target
        unit = 10.0 ** (math.floor(math.log10(value)) - 3)
        # A little less would clip more than that; by how much the 1e-6 tells.
        assert clipped(norms, (value - 2 * unit) * (1 - 1e-6)) > target or value < 1e-2


@pytest.mark.parametrize("count", [0, 1, ENOUGH - 1])
def test_few_steps_give_no_statistics_and_say_so(count: int) -> None:
    norms = np.array([1.0] * count + [math.nan] * 100, np.float32)
    found = advise(norms)
    assert {s.kind for s in found.suggestions} == {"customary"}
    assert str(count) in (found.note or "")
    assert found.steps == 100 + count
    assert advise(np.empty(0, np.float32)).fractions == [None] * len(CUSTOMARY)


def test_missing_norms_are_no_steps_and_zeros_lead_to_nothing() -> None:
    norms = np.full(200, wire.MISSING, np.float32)
    norms[:100] = 0.0
    found = advise(norms)
    assert (found.steps, found.finite) == (100, 100)
    assert {s.kind for s in found.suggestions} == {"customary"}
    assert found.note is None


def test_every_suggestion_has_a_reason_and_a_source() -> None:
    norms = np.random.default_rng(1).lognormal(size=1000).astype(np.float32)
    for suggestion in advise(norms).suggestions:
        assert suggestion.reason.endswith(".")
        assert len(suggestion.source) > 10


# -- over REST ------------------------------------------------------------------------------------


def advice(server: Running, fake: FakeTrainer, **query: object) -> dict:
    return server.get(f"runs/{fake.run}/advice", **query)


def test_advice_is_of_the_newest_steps_and_says_what_is_outside_the_limits(
    server: Running,
) -> None:
    random = np.random.default_rng(5)
    norms = random.lognormal(size=12_000).astype(np.float32)
    norms[[11_000, 11_001]] = BAD
    with trainer(server.ws, server.token) as fake:
        for first in range(0, len(norms), 600):
            fake.send(first, fake.rows(norms[first : first + 600]))
        found = advice(server, fake)
        short = advice(server, fake, window=100, clip_fraction=0.25)
    assert (found["first"], found["last"]) == (2_000, 11_999)
    assert (found["steps"], found["finite"]) == (10_000, 9_998)
    assert found["limits"] == {"min": 0.01, "max": 100.0}
    newest = norms[2_000:]
    by_name = {s["name"]: s for s in found["suggestions"]}
    finite = newest[np.isfinite(newest)].astype(np.float64)
    assert close(by_name["90th percentile"]["value"], np.percentile(finite, 90))
    assert by_name["Clips 10 % of the steps"]["clip_fraction"] == pytest.approx(0.1, abs=2e-3)
    for one in found["suggestions"]:
        assert one["clip_fraction"] == clipped(newest, one["value"])
        assert one["allowed"] == (0.01 <= one["value"] <= 100)
        assert ("Outside 0.01 to 100" in (one["note"] or "")) != one["allowed"]
        assert ("more than half" in (one["note"] or "")) == (one["clip_fraction"] > 0.5)
    assert not by_name["Speech recognition with CTC and RNNs"]["allowed"]
    assert short["steps"] == 100
    quarter = {s["name"]: s for s in short["suggestions"]}["Clips 25 % of the steps"]
    assert quarter["clip_fraction"] == clipped(norms[-100:], quarter["value"]) <= 0.25


def test_a_run_without_steps_or_limits_gets_what_is_customary(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        found = advice(server, fake)
        assert found["steps"] == 0
        assert "no statistics" in found["note"]
        assert all(s["clip_fraction"] is None for s in found["suggestions"])
    watching = wire.Coded("Observe", {})
    why = wire.Limits(why_not="the run only watches")
    with trainer(server.ws, server.token, coded=(watching,), limits=why) as fake:
        fake.send(0, fake.rows([1.0] * 60))
        found = advice(server, fake)
    assert found["limits"] is None
    assert len(found["suggestions"]) == len(CUSTOMARY) + 6
    assert not any(s["allowed"] or "Outside" in (s["note"] or "") for s in found["suggestions"])


def test_of_what_norms_say_nothing_nothing_is_suggested(server: Running) -> None:
    limits = {"percentile": wire.Limit(0.0, 100.0)}
    coded = wire.Coded("AutoClip", {"percentile": 10.0}, "percentile", limits)
    with trainer(server.ws, server.token, coded=(coded,)) as fake:
        path = f"/api/v1/runs/{fake.run}/advice"
        found = server.get(f"runs/{fake.run}/advice")
        assert found["suggestions"] == []
        assert "AutoClip is percentile" in found["note"]
        for wrong in ("match=nobody", "stream=nobody", "window=10", "clip_fraction=1"):
            assert server.rest.get(f"{path}?{wrong}").status_code == 422, wrong
    assert server.rest.get("/api/v1/runs/nobody/advice").status_code == 404


def test_a_rule_is_advised_by_the_norms_of_its_own_parameters(server: Running) -> None:
    limits = {"max_norm": wire.Limit(0.01, 100.0)}
    coded = tuple(
        wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limits, match)
        for match in ("a.*", "*")
    )
    random = np.random.default_rng(9)
    ours, theirs = random.lognormal(size=(2, 300)).astype(np.float32)
    with trainer(server.ws, server.token, layers=(), coded=coded) as fake:
        names = [wire.Column(name, "scalar") for name in SCALARS]
        rules = [
            wire.Column(f"rule/{match}/{name}", "detail")
            for match in ("a.*", "*")
            for name in ("global_norm", "clipped")
        ]
        fake.say(wire.Columns(0, 0, (*names, *rules)))
        rows = np.hstack(
            [
                fake.rows(np.hypot(ours, theirs)),
                np.stack([ours, ours > 1, theirs, theirs > 1], 1).astype(np.float32),
            ]
        )
        fake.send(0, rows)
        for match, norms in (("a.*", ours), ("*", theirs)):
            found = advice(server, fake, match=match)
            assert [s["clip_fraction"] for s in found["suggestions"]] == [
                clipped(norms, s["value"]) for s in found["suggestions"]
            ]
            asked = server.get(f"runs/{fake.run}/whatif", max_norm="0.7", match=match)
            assert asked["results"][0]["clip_fraction"] == clipped(norms, 0.7)
            assert asked["actual"]["clipped"] == int((norms > 1).sum())
        for what in ("advice?match=nobody", "whatif?max_norm=1&match=nobody"):
            refused = server.rest.get(f"/api/v1/runs/{fake.run}/{what}")
            assert refused.json()["error"]["code"] == "unknown_pattern", what
        whole = server.get(f"runs/{fake.run}/advice")
        assert whole["suggestions"] == []
        assert "ask for one of them" in whole["note"]
