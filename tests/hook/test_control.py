"""Changes: whole or not at all, at a step boundary, newest wins, within the script's limits."""

from __future__ import annotations

import math

import pytest

import gradhelm
from gradhelm import Control, wire
from gradhelm.clip import GlobalNorm
from gradhelm.clip.norm import Observe
from gradhelm.control import Lever, Steering

from .models import one_step, small


def steering(control: Control | None = None, strategy=None) -> Steering:
    strategy = strategy or GlobalNorm(1.0)
    control = control or Control()
    ranges = control.ranges("max_norm", strategy.threshold)
    return Steering([Lever(strategy, ranges, lambda: STEP[0])], control.limits())


def change(version: int, **values: float) -> wire.Change:
    return wire.Change(version, (wire.Rule(values),))


STEP = [0]
"""The number of the next step, as the levers of these tests have it."""


def take(desk: Steering, step: int) -> None:
    STEP[0] = step
    desk.take()


def taken(desk: Steering, message: wire.Change, step: int = 5):
    desk.receive(message)
    take(desk, step)
    return desk.answers()[-1]


def test_a_change_is_taken_at_the_boundary_and_not_before():
    strategy = GlobalNorm(1.0)
    desk = steering(strategy=strategy)
    assert desk.receive(change(1, max_norm=0.5)) == wire.Delivered(1)
    assert strategy.threshold == 1.0
    assert desk.waiting
    take(desk, 7)
    assert strategy.threshold == 0.5
    assert (desk.version, desk.waiting) == (1, False)
    assert list(desk.answers()) == [wire.Applied(1, 7, (wire.Rule({"max_norm": 0.5}),))]
    take(desk, 8)
    assert len(desk.answers()) == 1


def test_only_the_newest_of_several_waiting_changes_is_applied():
    desk = steering()
    desk.receive(change(1, max_norm=0.5))
    desk.receive(change(3, max_norm=0.3))
    desk.receive(change(2, max_norm=0.2))
    take(desk, 0)
    assert [answer.version for answer in desk.answers()] == [3]
    assert desk.version == 3


def test_an_older_version_is_ignored_and_a_decided_one_gets_its_answer_again():
    desk = steering()
    answer = taken(desk, change(4, max_norm=0.5))
    assert desk.receive(change(3, max_norm=0.1)) is None
    assert desk.receive(change(4, max_norm=0.1)) == answer
    take(desk, 9)
    assert len(desk.answers()) == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"max_norm": math.nan}, "finite"),
        ({"max_norm": math.inf}, "finite"),
        ({"max_norm": 0.0}, "outside"),
        ({"max_norm": -1.0}, "outside"),
        ({"max_norm": 0.0099}, "outside"),
        ({"max_norm": 101.0}, "outside"),
        ({"clip_value": 0.5}, "clip_value may not be changed"),
        ({"max_norm": 0.5, "other": 1.0}, "other may not be changed"),
    ],
)
def test_a_change_outside_the_limits_is_refused_whole(values, why):
    strategy = GlobalNorm(1.0)
    desk = steering(strategy=strategy)
    answer = taken(desk, change(2, **values))
    assert isinstance(answer, wire.Rejected)
    assert (answer.version, answer.step) == (2, 5)
    assert why in answer.why
    assert (strategy.threshold, desk.version) == (1.0, 0)


def test_the_default_limits_are_a_hundredth_and_a_hundred_times():
    assert Control().ranges("max_norm", 0.29) == {"max_norm": wire.Limit(0.0029, 29.0)}
    assert Control().ranges("fraction", 0.3, 0.99) == {"fraction": wire.Limit(0.003, 0.99)}
    desk = steering()
    assert isinstance(taken(desk, change(1, max_norm=0.01)), wire.Applied)
    assert isinstance(taken(desk, change(2, max_norm=100.0)), wire.Applied)


def test_factor_bounds_one_change_up_and_down():
    desk = steering(Control(factor=2.0))
    assert isinstance(taken(desk, change(1, max_norm=2.01)), wire.Rejected)
    assert isinstance(taken(desk, change(2, max_norm=0.49)), wire.Rejected)
    assert isinstance(taken(desk, change(3, max_norm=2.0)), wire.Applied)
    assert isinstance(taken(desk, change(4, max_norm=4.0)), wire.Applied)


def test_every_steps_keeps_changes_apart():
    desk = steering(Control(every_steps=10))
    assert isinstance(taken(desk, change(1, max_norm=2.0), step=3), wire.Applied)
    early = taken(desk, change(2, max_norm=3.0), step=12)
    assert isinstance(early, wire.Rejected)
    assert "9 steps" in early.why
    assert isinstance(taken(desk, change(3, max_norm=2.0), step=12), wire.Applied)
    assert isinstance(taken(desk, change(4, max_norm=3.0), step=13), wire.Applied)


def test_a_document_that_names_nothing_goes_back_to_the_script():
    strategy = GlobalNorm(1.0)
    desk = steering(strategy=strategy)
    taken(desk, change(1, max_norm=3.0))
    assert isinstance(taken(desk, wire.Change(2, ())), wire.Applied)
    assert strategy.threshold == 1.0


def test_a_pattern_that_the_script_does_not_have_is_refused():
    answer = taken(steering(), wire.Change(1, (wire.Rule({"max_norm": 0.5}, "lstm.*"),)))
    assert isinstance(answer, wire.Rejected)
    assert "lstm.*" in answer.why


def test_a_read_only_run_refuses_and_says_why():
    answer = taken(steering(Control.none()), change(1, max_norm=0.5))
    assert isinstance(answer, wire.Rejected)
    assert "read-only" in answer.why


def test_observing_with_a_range_can_be_told_to_clip_and_to_stop():
    strategy = Observe()
    desk = steering(Control(min=0.1, max=10.0), strategy)
    assert strategy.threshold is None
    assert isinstance(taken(desk, change(1, max_norm=0.5)), wire.Applied)
    assert strategy.threshold == 0.5
    assert isinstance(taken(desk, wire.Change(2, ())), wire.Applied)
    assert strategy.threshold is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"min": 0}, "min"),
        ({"max": math.inf}, "max"),
        ({"min": True}, "min"),
        ({"min": "1"}, "min"),
        ({"min": 2.0, "max": 1.0}, "above"),
        ({"factor": 1.0}, "factor"),
        ({"every_steps": -1}, "every_steps"),
        ({"every_steps": 1.5}, "every_steps"),
    ],
)
def test_limits_that_are_none_are_refused(options, error):
    with pytest.raises((ValueError, TypeError), match=error):
        Control(**options)


def test_frames_carry_the_version_and_the_threshold_of_exactly_their_step(server):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    for step in range(9):
        if step in (3, 6):
            server.say(change(step, max_norm=1.0 / step))
            server.wait(lambda step=step: wire.Delivered(step) in server.heard)
        one_step(model)
        run.clip()
    run.close()
    found = [(step, version, row["threshold"]) for step, version, row in server.rows()]
    third, sixth = pytest.approx(1 / 3), pytest.approx(1 / 6)
    assert found == [
        *((step, 0, 1.0) for step in range(3)),
        *((step, 3, third) for step in range(3, 6)),
        *((step, 6, sixth) for step in range(6, 9)),
    ]
    assert [(a.version, a.step) for a in server.of(wire.Applied)] == [(3, 3), (6, 6)]
    assert run.control_version == 6


def test_the_answer_comes_home_soon_after_the_boundary(server):
    model = small()
    server.pace_ms = 60_000
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.say(change(1, max_norm=0.5))
    server.wait(lambda: server.of(wire.Delivered))
    run.clip()
    server.wait(lambda: server.of(wire.Applied))
    assert run.threshold == 0.5
    run.close()


def test_the_newest_answer_is_told_again_to_a_new_connection(server):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.say(change(1, max_norm=0.5))
    server.wait(lambda: server.of(wire.Delivered))
    run.clip()
    server.wait(lambda: server.of(wire.Applied))
    server.hang_up()
    server.wait(lambda: len(server.of(wire.Applied)) == 2)
    assert server.hello.version == 1
    assert server.hello.resume
    run.close()


def test_the_environment_can_forbid_all_changes(server, monkeypatch):
    monkeypatch.setenv("GRADHELM_CONTROL", "off")
    run = gradhelm.attach(small(), max_norm=1.0, control=Control(min=0.1), server=server.url)
    assert "GRADHELM_CONTROL=off" in (server.hello.limits.why_not or "")
    run.close()
