"""Strategies run over what a real training recorded, in Python and by the command line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import Program, Running, eventually

import gradhelm
from gradhelm.clip import AdaGC, AutoClip, GlobalNorm, Value

pytestmark = pytest.mark.joined
STEPS = 200


def train(server: Running, clip: object) -> str:
    """A training with a skipped step, one without gradients, and one that is not finite."""
    torch.manual_seed(4)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradhelm.attach(model, optimizer, clip=clip, server=server.url, token=server.token) as run:
        for step in range(STEPS):
            optimizer.zero_grad()
            scale = float(torch.randn(()).exp())
            if step != 60:
                (scale * model(torch.randn(4, 6))).square().mean().backward()
            if step == 70:
                model[0].weight.grad[0, 0] = torch.inf
                with torch.no_grad():
                    kept = [p.clone() for p in model.parameters()]
            optimizer.step()
            if step == 70:
                with torch.no_grad():
                    for p, before in zip(model.parameters(), kept, strict=True):
                        p.copy_(before)
    eventually(lambda: server.get(f"runs/{run.id}")["status"] == "finished", 30, "the end")
    return run.id


@pytest.fixture(scope="module")
def adaptive(server: Running) -> str:
    return train(server, AutoClip(percentile=70))


def test_the_strategy_that_was_in_force_would_have_done_what_it_did(
    server: Running, adaptive: str
) -> None:
    run = gradhelm.open(adaptive, server=server.url, token=server.token)
    frame = run.frame()
    found = run.whatif(AutoClip(percentile=70))
    assert found.index.tolist() == [step for step in range(STEPS) if step != 60]
    for name in ("global_norm", "threshold", "clip_coef", "clipped"):
        was, is_ = frame.loc[found.index, name].to_numpy(), found[name].to_numpy("float32")
        assert np.array_equal(was, is_, equal_nan=True), name
    assert 0.1 < found["clipped"].mean() < 0.6


def test_layer_by_layer_too(server: Running) -> None:
    run = gradhelm.open(train(server, AdaGC()), server=server.url, token=server.token)
    frame, found = run.frame(), run.whatif(AdaGC())
    was = frame.loc[found.index, "clipped"].to_numpy()
    assert np.array_equal(was, found["clipped"].to_numpy("float32"))
    assert 0 < was.sum() < STEPS


def test_strategies_are_put_side_by_side(server: Running, here: Program, adaptive: str) -> None:
    norms = gradhelm.open(adaptive, server=server.url, token=server.token).frame()["global_norm"]
    usual = float(norms[np.isfinite(norms)].median())
    words = (f"GlobalNorm({usual:.4g})", "ZClip()", "SkipStep(sigma=2)")
    done = here.run("whatif", adaptive, *words)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert rows[2:] == ["STRATEGY", "as it was", *words]
    told = {one["strategy"]: one for one in here.json("whatif", adaptive, *words)["strategies"]}
    server_says = server.get(f"runs/{adaptive}/whatif", max_norm=f"{usual:.4g}")["results"][0]
    assert told[words[0]]["clip_fraction"] == pytest.approx(server_says["clip_fraction"])
    assert told[words[0]]["mean_coef"] == pytest.approx(server_says["mean_coef"], rel=1e-5)
    assert told[words[2]]["skip_fraction"] > 0


def test_what_cannot_be_answered_is_said(server: Running, here: Program, adaptive: str) -> None:
    for words, code, message in (
        ([adaptive, "Value(1.0)"], 2, "Value goes by single elements"),
        ([adaptive, "GlobalNorm(0)"], 2, "max_norm must be"),
        ([adaptive, "exit()"], 2, "there is no strategy exit"),
        ([adaptive, "Schedule(GlobalNorm(1.0), 'lr')"], 1, "Schedule"),
        (["no such run", "GlobalNorm(1)"], 1, "there is no run"),
    ):
        done = here.run("whatif", *words)
        assert (done.returncode, message in done.stderr) == (code, True), (words, done.stderr)
        assert done.stdout == ""
    run = gradhelm.open(adaptive, server=server.url, token=server.token)
    with pytest.raises(ValueError, match="Value goes by single elements"):
        run.whatif({"0.*": GlobalNorm(1.0), "*": Value(0.1)})
    with pytest.raises(ValueError, match="matches no parameter"):
        run.whatif({"nothing.*": GlobalNorm(1.0)})
