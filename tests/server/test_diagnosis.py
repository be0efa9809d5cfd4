"""Each finding where it is the case, with its figures, and not where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import Running
from trainer import trainer

from gradhelm import wire
from gradhelm_server.diagnosis import Finding, Seen, findings

NAMES = ("embed.weight", "lstm.weight", "lstm.bias", "head.weight")
SHAPES = ((100, 16), (64, 16), (64,), (16, 100))


def healthy(steps: int = 2000, threshold: float = 3.0) -> Seen:
    """A run of which there is nothing to say: a few of its steps are clipped, by all layers."""
    random = np.random.default_rng(7)
    layers = random.lognormal(-0.5, 0.4, (len(NAMES), steps)).astype(np.float32)
    norms = np.sqrt((layers.astype(np.float64) ** 2).sum(axis=0)).astype(np.float32)
    return Seen(
        norms=norms,
        clipped=(norms > threshold).astype(np.float32),
        clips=True,
        first_bad=None,
        layers=layers[:, -1000:],
        thresholds=np.full(min(1000, steps), threshold, np.float32),
        ratios=np.full((len(NAMES), 50), 1e-3, np.float32),
        names=NAMES,
        shapes=SHAPES,
        optimizer="SGD",
    )


def only(seen: Seen, kind: str) -> Finding:
    found = {finding.kind: finding for finding in findings(seen)}
    assert kind in found, found
    return found[kind]


def kinds(seen: Seen) -> set[str]:
    return {finding.kind for finding in findings(seen)}


def test_of_a_healthy_run_there_is_nothing_to_say() -> None:
    seen = healthy()
    assert 0 < seen.clipped.mean() < 0.1
    assert kinds(seen) == set()
    assert kinds(replace(seen, optimizer="AdamW")) == set()


def test_of_a_run_without_steps_there_is_nothing_to_say() -> None:
    nothing = np.empty(0, np.float32)
    empty = np.empty((len(NAMES), 0), np.float32)
    seen = healthy()
    bare = replace(
        seen, norms=nothing, clipped=nothing, layers=empty, thresholds=nothing, ratios=empty
    )
    assert kinds(bare) == set()
    assert kinds(replace(bare, layers=empty[:0], ratios=empty[:0], names=(), shapes=())) == set()


def test_more_than_half_clipped() -> None:
    seen = healthy(threshold=1.0)
    share = seen.clipped.mean()
    assert share > 0.5
    found = only(seen, "clips_most")
    assert f"{100 * share:.3g} % of the newest 2,000 steps" in found.text
    assert found.max_norm == float(f"{np.percentile(seen.norms.astype(float), 90):.3g}")
    assert f"{found.max_norm:g}" in found.help
    assert "lower the learning rate" in found.help
    assert "scale_is_invisible" not in kinds(seen)
    assert "AdamW" in only(replace(seen, optimizer="AdamW"), "scale_is_invisible").text
    exactly = replace(seen, clipped=np.resize(np.float32([0, 1]), 2000))
    assert "clips_most" not in kinds(exactly)
    assert kinds(replace(seen, clips=False)) == set()


def test_steps_without_a_norm_are_neither_clipped_nor_not() -> None:
    seen = healthy(threshold=1.0)
    norms, clipped = seen.norms.copy(), seen.clipped.copy()
    norms[::2] = clipped[::2] = wire.MISSING
    assert (
        "of the newest 1,000 steps"
        in only(replace(seen, norms=norms, clipped=clipped), "clips_most").text
    )


def test_never_clipped() -> None:
    seen = healthy(threshold=50.0)
    found = only(seen, "never_clips")
    assert f"the largest norm was {seen.norms.max():.3g}, and the threshold is 50" in found.text
    assert "never_clips" not in kinds(healthy(steps=999, threshold=50.0))


def test_one_layer_causes_the_clips() -> None:
    seen = healthy()
    layers = seen.layers.copy()
    layers[3, ::3] *= 20
    found = only(replace(seen, layers=layers), "one_layer")
    assert found.parameters == ("head.weight",)
    assert found.text.startswith("head.weight alone causes ")
    own = float(f"{np.percentile(layers[3].astype(float), 90):.3g}")
    assert f'clip={{"head.weight": GlobalNorm({own:g}), "*": GlobalNorm(' in found.help
    all_alike = replace(seen, layers=np.float32(3) * seen.layers)
    assert "one_layer" not in kinds(all_alike)
    alone = replace(
        seen, layers=layers[3:], names=NAMES[3:], shapes=SHAPES[3:], ratios=seen.ratios[3:]
    )
    assert "one_layer" not in kinds(alone)


def test_norms_that_grow() -> None:
    seen = healthy()
    growth = np.geomspace(1, 10, len(seen.norms)).astype(np.float32)
    found = only(replace(seen, norms=seen.norms * growth), "growing")
    assert "over the last eighth of 2,000 steps" in found.text
    for other in (growth[::-1], 1 + 2 * np.sin(np.arange(2000) / 100) ** 2):
        changed = replace(seen, norms=(seen.norms * other).astype(np.float32))
        assert "growing" not in kinds(changed)


def test_layers_that_are_dead() -> None:
    seen = healthy()
    layers = seen.layers.copy()
    layers[1] = 0
    found = only(replace(seen, layers=layers), "dead")
    assert found.parameters == ("lstm.weight",)
    assert "all of the newest 200 steps" in found.text
    layers[1, 700] = 1e-9  # long ago
    assert "dead" in kinds(replace(seen, layers=layers))
    layers[1, 900] = 1e-9
    assert "dead" not in kinds(replace(seen, layers=layers))
    layers[1] = wire.MISSING  # it had no gradient: nothing that died
    assert "dead" not in kinds(replace(seen, layers=layers))


def test_layers_whose_gradient_vanishes() -> None:
    seen = healthy()
    layers = seen.layers.copy()
    layers[0] *= np.float32(1e-7)
    found = only(replace(seen, layers=layers), "vanishing")
    assert found.parameters == ("embed.weight",)
    layers[0] = seen.layers[0] * np.float32(1e-3)
    layers[2] *= np.float32(1e-7)  # a bias
    assert "vanishing" not in kinds(replace(seen, layers=layers))


def test_norms_that_are_not_finite() -> None:
    seen = healthy()
    norms = seen.norms.copy()
    norms[[100, 101]] = np.nan, np.inf
    found = findings(replace(seen, norms=norms, first_bad=(8100, "lstm.weight")))[0]
    assert found.kind == "nonfinite"
    assert found.text == (
        "2 steps of 2,000 had a NaN or infinite gradient norm, first at step 8,100 in lstm.weight."
    )
    assert found.parameters == ("lstm.weight",)
    assert only(replace(seen, norms=norms), "nonfinite").parameters == ()


@pytest.mark.parametrize(
    ("ratio", "kind"), [(0.03, "update_ratio_high"), (1e-6, "update_ratio_low"), (0.0, None)]
)
def test_update_ratios_out_of_band(ratio: float, kind: str | None) -> None:
    seen = healthy()
    ratios = seen.ratios.copy()
    ratios[0] = ratio
    ratios[2] = 0.5  # a bias, which begins at zero: it may
    ratios[0, ::7] = wire.MISSING
    changed = replace(seen, ratios=ratios)
    assert kinds(changed) == ({kind} if kind else set())
    if kind:
        assert only(changed, kind).parameters == ("embed.weight",)
        assert f"({ratio:.1g})" in only(changed, kind).text


def test_many_layers_are_not_all_named() -> None:
    count = 40
    layers = np.zeros((count, 100), np.float32)
    layers[0] = 1
    seen = replace(
        healthy(),
        layers=layers,
        thresholds=np.full(100, 3, np.float32),
        ratios=np.empty((count, 0), np.float32),
        names=[f"layer{number}" for number in range(count)],
        shapes=[(4, 4)] * count,
    )
    found = only(seen, "dead")
    assert "layer1, layer2, layer3, layer4, layer5 and 34 more" in found.text
    assert len(found.parameters) == 39


def test_findings_come_with_the_advice(server: Running) -> None:
    def asked(**values: Any) -> dict[str, Any]:
        with trainer(server.ws, server.token, **values) as fake:
            rows = fake.rows([2.0] * 200 + [float("nan")] + [2.0] * 99)
            rows[:, -1] = 0
            fake.send(0, rows)
            return server.get(f"runs/{fake.run}/advice")

    limits = {"max_norm": wire.Limit(0.01, 100.0)}
    adam = wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limits, optimizer="Adam")
    found = {warning["kind"]: warning for warning in asked(coded=(adam,))["warnings"]}
    assert set(found) == {"nonfinite", "clips_most", "scale_is_invisible", "one_layer", "dead"}
    assert "1 step of 300" in found["nonfinite"]["text"]
    assert "first at step 200 in a.weight" in found["nonfinite"]["text"]
    assert found["dead"]["parameters"] == ["b.weight"]
    assert found["clips_most"]["max_norm"] == 2.0

    # Whatever the strategy is: findings are of the gradients, suggestions of the threshold.
    other = asked(coded=(wire.Coded("AutoClip", {"percentile": 10.0}, "percentile"),))
    assert other["suggestions"] == []
    assert "AutoClip is percentile" in other["note"]
    assert {"nonfinite", "clips_most", "dead"} <= {one["kind"] for one in other["warnings"]}
