"""``verify`` finds each mistake by itself, and none where there is none."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_

import gradhelm
from gradhelm.clip import GlobalNorm, UpdateClipped

from .models import losses, small, weights

HOOK = str(Path(gradhelm.__file__).parents[1])


def loop(model, optimizer, *, before=None, after=None, steps=5, scaler=None, micro=1):
    """A training loop with places for mistakes: before and after each backward pass."""
    source = losses(model, steps * micro)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(micro):
            loss = next(source)
            if before is not None:
                before()
            (loss if scaler is None else scaler.scale(loss)).backward()
            if after is not None:
                after()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def found(check) -> list[str]:
    return [finding.kind for finding in check.findings]


@pytest.fixture
def model() -> nn.Module:
    return small()


def attach(model, optimizer=None, **options):
    return gradhelm.attach(model, optimizer, max_norm=0.1, mode="disabled", **options)


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_sound_loop_has_no_finding(model, micro, scaled):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(attach(model, optimizer), steps=5)
    scaler = torch.amp.GradScaler("cpu") if scaled else None
    loop(model, optimizer, scaler=scaler, micro=micro)
    assert check.done
    assert str(check) == "5 steps watched: nothing wrong with the clipping"


def test_a_sound_loop_without_an_optimizer_has_no_finding(model):
    run = attach(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    check = gradhelm.verify(run, steps=5)

    def clip():
        scaler.unscale_(optimizer)
        run.clip()

    loop(model, optimizer, after=clip, scaler=scaler)
    assert (check.steps, check.findings) == (5, [])


def test_clipping_by_hand_beside_the_run_is_double(model):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(attach(model, optimizer))
    loop(model, optimizer, after=lambda: clip_grad_norm_(model.parameters(), 1.0))
    (finding,) = check.findings
    assert finding.kind == "double"
    assert finding.where.startswith("tests/hook/test_verify.py:")
    assert "by hand, and by the attached run" in str(check)


def test_clipping_each_micro_batch_is_double_and_too_early(model):
    run = attach(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(run)
    loop(model, optimizer, after=run.clip, micro=2)
    assert found(check) == ["double"]
    assert "clipped 2 times before one step" in str(check)


def test_clipping_before_the_backward_pass_is_found(model):
    run = attach(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(run)
    loop(model, optimizer, before=run.clip)
    assert found(check) == ["before_backward"]
    assert "there are no gradients" in str(check)


def test_a_backward_pass_after_the_clip_is_found(model):
    run = attach(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(run)
    first = []

    def once():
        first.append(1)
        if len(first) % 2:
            run.clip()

    loop(model, optimizer, after=once, micro=2)
    assert found(check) == ["before_backward"]
    assert "a backward pass follows the clip" in str(check)


@pytest.mark.parametrize("by_hand", [False, True])
def test_clipping_scaled_gradients_is_found(model, by_hand):
    run = attach(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(run)
    clip = (lambda: clip_grad_norm_(model.parameters(), 1.0)) if by_hand else run.clip
    loop(model, optimizer, after=clip, scaler=torch.amp.GradScaler("cpu"))
    assert found(check) == ["scaled"]
    assert "scaler.unscale_(optimizer)" in str(check)


def test_optimizers_that_share_parameters_are_found(model):
    one = optim.SGD(model.parameters(), lr=0.1)
    other = optim.Adam(model.decoder.parameters(), lr=0.1)
    check = gradhelm.verify(attach(model, [one, other]))
    assert found(check) == ["shared"]
    assert "(Adam and SGD) step the same parameters" in str(check)


def test_watching_changes_nothing_and_leaves_nothing_behind(model):
    twin = small()
    before = (
        torch.nn.utils.clip_grad_norm_,
        clip_grad_norm_,
        torch.autograd.backward,
        torch.amp.GradScaler.scale,
        gradhelm.Run.clip,
    )
    for one, watched in ((model, True), (twin, False)):
        optimizer = optim.SGD(one.parameters(), lr=0.1)
        run = attach(one, optimizer)
        if watched:
            check = gradhelm.verify(run, steps=3)
        loop(one, optimizer, after=lambda one=one: clip_grad_norm_(one.parameters(), 1.0))
    assert check.steps == 3
    assert weights(model) == weights(twin)
    assert before == (
        torch.nn.utils.clip_grad_norm_,
        globals()["clip_grad_norm_"],
        torch.autograd.backward,
        torch.amp.GradScaler.scale,
        gradhelm.Run.clip,
    )


def test_bad_arguments_are_refused_by_name(model):
    with pytest.raises(TypeError, match="run must be what attach returned, not _Small"):
        gradhelm.verify(model)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        gradhelm.verify(attach(model), steps=0)
    with pytest.raises(TypeError, match="steps must be an int, not float"):
        gradhelm.verify(attach(model), steps=1.0)
    check = gradhelm.verify(attach(model), steps=1)
    assert "no optimizer step was seen" in str(check)
    loop(model, optim.SGD(model.parameters(), lr=0.1), steps=1)
    assert check.done


SCRIPT = """
import sys
import torch
from torch.nn.utils import clip_grad_norm_
model = torch.nn.Linear(3, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print("a line that the script prints", *sys.argv[1:])
{start}
for step in range(1000):
    optimizer.zero_grad()
    {early}
    model(torch.ones(2, 3)).sum().backward()
    {late}
    optimizer.step()
"""


def doctor(tmp_path: Path, *more: str, **parts: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(**{"start": "", "early": "", "late": "", **parts}))
    root = Path(gradhelm.__file__).parents[2]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "gradhelm_server",
            "doctor",
            *more,
            "--script",
            "train.py",
            "--x",
            "1",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{HOOK}{os.pathsep}{root / 'server'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_doctor_runs_a_script_and_says_what_is_wrong(tmp_path):
    good = doctor(tmp_path, late="clip_grad_norm_(model.parameters(), 1.0)")
    assert (good.returncode, good.stdout) == (
        0,
        "20 steps watched: nothing wrong with the clipping\n",
    ), good.stderr
    assert "a line that the script prints --x 1" in good.stderr
    early = doctor(tmp_path, early="clip_grad_norm_(model.parameters(), 1.0)")
    assert early.returncode == 1
    assert "1. the clip is called when there are no gradients (train.py:11)" in early.stdout
    double = doctor(
        tmp_path,
        "--steps",
        "3",
        "--json",
        start="import gradhelm; gradhelm.attach(model, optimizer, max_norm=1.0)",
        late="clip_grad_norm_(model.parameters(), 1.0)",
    )
    assert double.returncode == 1
    assert '"steps": 3' in double.stdout
    assert '"kind": "double"' in double.stdout
    broken = doctor(tmp_path, late="raise KeyError('data')")
    assert broken.returncode == 1
    assert "the script raised KeyError: 'data'" in broken.stderr
    idle = doctor(tmp_path, start="sys.exit(0)")
    assert idle.returncode == 1
    assert "the script took no optimizer step" in idle.stderr


def test_measuring_the_norm_is_no_clip(model):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(attach(model, optimizer), steps=5)

    def measure():
        clip_grad_norm_(model.parameters(), math.inf)
        clip_grad_norm_(model.parameters(), max_norm=float("inf"))

    loop(model, optimizer, after=measure)
    assert (check.steps, check.findings) == (5, [])


def test_parts_of_a_model_that_are_clipped_apart_are_clipped_once(model):
    run = gradhelm.attach(small(), mode="disabled")
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(run, steps=3)

    def clip():
        for part in (model.embedding, model.lstm, model.decoder):
            clip_grad_norm_(part.parameters(), 1.0)

    loop(model, optimizer, after=clip, steps=3)
    assert (check.steps, check.findings) == (3, [])


def test_a_backward_pass_for_other_parameters_adds_nothing():
    """Of a GAN: both are clipped before both are stepped."""
    models = small(), small()
    optimizers = [optim.SGD(one.parameters(), lr=0.1) for one in models]
    check = gradhelm.verify(gradhelm.attach(small(), mode="disabled"), steps=6)
    for losses_of_both in zip(losses(models[0], 3), losses(models[1], 3), strict=True):
        for one, optimizer, loss in zip(models, optimizers, losses_of_both, strict=True):
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(one.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    assert (check.steps, check.findings) == (6, [])


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_of_a_run_that_only_watches_no_double_clip_is_said(model, with_optimizer):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    run = gradhelm.attach(model, optimizer if with_optimizer else None, mode="disabled")
    check = gradhelm.verify(run, steps=3)

    def clip():
        if not with_optimizer:
            run.clip()
        clip_grad_norm_(model.parameters(), 1.0)

    loop(model, optimizer, after=clip, steps=3)
    assert found(check) == (["watched_late"] if with_optimizer else [])


@pytest.mark.parametrize(
    "clip",
    [
        lambda held: GlobalNorm(1.0)(held),
        lambda held: GlobalNorm(1.0)(parameters=held),
        lambda held: clip_grad_norm_(parameters=held, max_norm=1.0),
        lambda held: nn.utils.clip_grads_with_norm_(held, 1.0, torch.tensor(2.0)),
        lambda held: nn.utils.clip_grad.clip_grad_value_(held, clip_value=1.0),
    ],
)
def test_whatever_clips_by_hand_is_seen(model, clip):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    check = gradhelm.verify(attach(model, optimizer), steps=3)
    loop(model, optimizer, after=lambda: clip(list(model.parameters())), steps=3)
    assert found(check) == ["double"]
    assert check.findings[0].where.startswith("tests/hook/test_verify.py:")


def test_an_optimizer_in_a_wrapper_is_one_optimizer(model):
    optimizer = UpdateClipped(optim.AdamW(model.parameters()))
    check = gradhelm.verify(attach(model, optimizer), steps=4)
    loop(model, optimizer)
    assert check.findings == []


def test_arguments_may_be_given_by_name(model):
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    check = gradhelm.verify(attach(model, optimizer), steps=2)
    for loss in losses(model, 2):
        optimizer.zero_grad()
        torch.autograd.backward(tensors=scaler.scale(outputs=loss))
        scaler.unscale_(optimizer=optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert (check.steps, check.findings) == (2, [])
