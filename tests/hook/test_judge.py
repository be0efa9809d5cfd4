"""A version on trial: judged by its rows, in the sender thread, and taken back in words."""

from __future__ import annotations

import math
import time

import pytest
import torch

import gradhelm
from gradhelm import notice, wire
from gradhelm.clip import GlobalNorm, Outcome
from gradhelm.control import Control, Lever, Steering
from gradhelm.judge import Judge
from gradhelm.notice import Notices

from .models import one_step, small

RULE = (wire.Rule({"max_norm": 0.5}),)


class Trial:
    """Version 1 on trial from step 10 on."""

    def __init__(self, **conditions: object) -> None:
        self.at = 10
        lever = Lever(GlobalNorm(1.0), Control().ranges("max_norm", 1.0), lambda: self.at)
        self.steering = Steering([lever], Control().limits())
        self.judge = Judge(self.steering, Notices())
        self.steering.receive(wire.Change(1, RULE, revert_if=wire.RevertIf(**conditions)))
        self.steering.take()
        assert self.steering.version == 1

    def step(self, step: int, norm: float = 1.0, version: int = 1, **more: object) -> None:
        norms = torch.tensor([norm])
        outcome = Outcome(norms, norms[0], **{"changed": norm > 0.5, **more})
        self.judge.step(None, step, version, outcome)

    def verdict(self) -> str | None:
        """Why it was taken back; None when it was not."""
        self.judge.look(math.inf)
        self.at += 1000
        self.steering.take()
        told = self.steering.answers()[-1]
        return told.why if isinstance(told, wire.Reverted) else None


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_ends_the_trial(norm):
    trial = Trial(within=5, nonfinite=True)
    trial.step(10)
    trial.step(14, norm)
    assert trial.verdict() == f"the global norm was {norm} at step 14"


def test_a_loss_that_is_not_finite_ends_the_trial():
    trial = Trial(within=5, nonfinite=True)
    trial.judge.loss(9, 0, math.nan)
    trial.judge.loss(10, 1, 3.0)
    trial.judge.loss(12, 1, -math.inf)
    assert trial.verdict() == "the loss was -inf at step 12"


def test_what_comes_after_the_window_or_before_the_version_is_none_of_it():
    trial = Trial(within=5, nonfinite=True)
    trial.step(9, math.nan, version=0)
    for step in range(10, 15):
        trial.step(step)
    trial.step(15, math.nan)
    trial.judge.loss(15, 1, math.nan)
    assert trial.verdict() is None
    assert trial.steering.trial is None


def test_a_scalers_search_for_its_scale_is_no_failure():
    trial = Trial(within=5, nonfinite=True)
    trial.step(10, math.inf, skipped=True, found_inf=torch.tensor(1.0))
    trial.judge.step(None, 11, 1, None)
    assert trial.verdict() is None


@pytest.mark.parametrize(
    ("clipped", "back"), [(0, True), (1, False), (2, False), (3, True), (4, True)]
)
def test_the_share_of_clipped_steps_has_to_be_within_the_band(clipped, back):
    trial = Trial(within=4, clip_fraction=(0.25, 0.5))
    for step in range(4):
        trial.step(10 + step, 1.0 if step < clipped else 0.1)
        assert trial.steering.trial is not None
    trial.step(14)
    why = trial.verdict()
    assert (why is not None) == back
    if why is not None:
        assert why == (
            f"{clipped / 4:g} of the 4 steps from 10 on were clipped, outside 0.25 to 0.5"
        )


def test_nothing_is_decided_before_a_step_after_the_window_was_taken():
    trial = Trial(within=2, clip_fraction=(0.9, 1.0))
    trial.step(10, 0.1)
    trial.step(11, 0.1)
    assert trial.verdict() is None
    assert trial.steering.trial is not None


def test_a_step_that_is_looked_at_twice_counts_once():
    trial = Trial(within=4, clip_fraction=(0.25, 0.25))
    for step in (10, 10, 10, 11, 12, 13, 14):
        trial.step(step, 1.0 if step == 10 else 0.1)
    assert trial.verdict() is None


def attached(server, model, **more):
    run = gradhelm.attach(model, max_norm=1.0, server=server.url, **more)
    return run


def steps(server, run, model, norm: float, count: int, until=lambda: False) -> None:
    for _ in range(count):
        one_step(model, norm)
        run.clip()
        if until():
            return
        time.sleep(0.002)


@pytest.mark.parametrize("every", [1, 7])
def test_a_run_goes_back_when_too_little_is_clipped(server, every):
    """Thinned rows are judged whole: also the steps that are never told."""
    model = small()
    server.pace_ms = 100
    run = attached(server, model, every=every)
    server.say(
        wire.Change(
            1,
            (wire.Rule({"max_norm": 50.0}),),
            revert_if=wire.RevertIf(20, clip_fraction=(0.1, 0.9)),
        )
    )
    server.wait(lambda: server.of(wire.Delivered))
    steps(server, run, model, 0.001, 3000, until=lambda: bool(server.of(wire.Reverted)))
    (told,) = server.of(wire.Reverted)
    assert told.why == "0 of the 20 steps from 0 on were clipped, outside 0.1 to 0.9"
    assert told.step > 20
    assert (run.threshold, run.control_version) == (1.0, 0)
    run.close()
    versions = {step: version for step, version, _ in server.rows()}
    assert {v for s, v in versions.items() if s < told.step} == {1}
    assert {v for s, v in versions.items() if s >= told.step} <= {0}


def test_a_run_goes_back_when_its_loss_explodes(server):
    model = small()
    server.pace_ms = 100
    run = attached(server, model)
    change = wire.Change(1, RULE, revert_if=wire.RevertIf(10**6, nonfinite=True))
    server.say(change)
    server.wait(lambda: server.of(wire.Delivered))
    one_step(model)
    run.clip()
    run.log(loss=torch.tensor(float("nan")))
    steps(server, run, model, 1.0, 3000, until=lambda: bool(server.of(wire.Reverted)))
    assert server.of(wire.Reverted)[0].why == "the loss was nan at step 0"
    assert run.control_version == 0
    run.close()


def test_a_fault_of_the_judges_costs_no_row(server, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(notice, "strict", False)
    for name in ("_step", "_loss", "_look"):
        monkeypatch.setattr(Judge, name, broken)
    model = small()
    run = attached(server, model)
    steps(server, run, model, 1.0, 10)
    run.log(loss=1.0)
    run.close()
    assert [step for step, _, _ in server.rows()] == list(range(10))
    assert server.logged() == {9: {"loss": 1.0}}
