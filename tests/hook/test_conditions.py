"""Changes that wait, that are in force for a time, and what is gone back to; all by step counts."""

from __future__ import annotations

import msgspec
import pytest
import torch

import gradhelm
from gradhelm import Control, wire
from gradhelm.clip import GlobalNorm, Value, ZClip
from gradhelm.control import Lever, Steering, Verdict

from .models import one_step, small

OF_1 = (wire.Rule({"max_norm": 1.0}),)


class Desk:
    """A steering with one threshold, and its steps."""

    def __init__(self, control: Control | None = None) -> None:
        self.strategy = GlobalNorm(1.0)
        self.step = 0
        control = control or Control(lr=True, stop=True)
        lever = Lever(self.strategy, control.ranges("max_norm", 1.0), lambda: self.step)
        self.steering = Steering([lever], control.limits(lr=True))

    def at(self, step: int) -> Desk:
        """Every boundary up to that of ``step``."""
        while self.step < step:
            self.step += 1
            self.steering.take()
        if not step:
            self.steering.take()
        return self

    def receive(self, version: int, value: float, **more: object) -> Desk:
        change = wire.Change(version, (wire.Rule({"max_norm": value}),), **more)
        # As it comes over the wire: what the protocol does not allow never gets here.
        assert wire.decode_from_server(wire.encode(change)) == change
        self.steering.receive(change)
        return self

    @property
    def now(self) -> tuple[int, float]:
        return self.steering.version, self.strategy["max_norm"]

    @property
    def told(self) -> list[tuple[type, int, int]]:
        return [(type(a), a.version, a.step) for a in self.steering.answers()]


def test_a_change_waits_for_its_step_and_nobody_polls_meanwhile():
    desk = Desk().receive(1, 0.5, not_before=7).at(6)
    assert desk.now == (0, 1.0)
    assert not desk.steering.waiting
    assert not desk.told
    desk.step = 7
    assert desk.steering.waiting
    desk.steering.take()
    assert desk.now == (1, 0.5)
    assert desk.told == [(wire.Applied, 1, 7)]


def test_a_step_that_has_passed_already_is_no_hindrance():
    assert Desk().at(9).receive(1, 0.5, not_before=3).at(10).told == [(wire.Applied, 1, 10)]


def test_a_newer_change_replaces_one_that_waits_for_its_step():
    desk = Desk().receive(1, 0.5, not_before=7).receive(2, 0.25).at(20)
    assert desk.told == [(wire.Applied, 2, 1)]
    assert desk.now == (2, 0.25)


def test_for_a_time_is_for_exactly_so_many_steps():
    desk = Desk().receive(1, 0.5, ttl_steps=3, not_before=4)
    found = [desk.at(step).now for step in range(1, 10)]
    before, during = (0, 1.0), (1, 0.5)
    assert found == [before] * 3 + [during] * 3 + [before] * 3
    applied, reverted = desk.steering.answers()
    assert applied == wire.Applied(1, 4, (wire.Rule({"max_norm": 0.5}),), back=0)
    assert reverted == wire.Reverted(1, 7, "its time was over at step 7", OF_1)


def test_what_was_decided_is_never_applied_again():
    desk = Desk().receive(1, 0.5, ttl_steps=2).at(5)
    change = wire.Change(1, (wire.Rule({"max_norm": 0.5}),), ttl_steps=2)
    assert isinstance(desk.steering.receive(change), wire.Reverted)
    assert desk.at(9).now == (0, 1.0)


def test_a_new_connection_hears_both_that_it_was_applied_and_that_it_is_over():
    desk = Desk().receive(1, 0.5, ttl_steps=2).at(5)
    desk.steering.answers().clear()
    desk.steering.repeat()
    desk.steering.repeat()
    assert desk.told == [(wire.Applied, 1, 1), (wire.Reverted, 1, 3)]


def test_a_newer_change_that_stays_ends_the_time_of_the_one_before():
    desk = Desk().receive(1, 0.5, ttl_steps=10).at(3).receive(2, 0.25).at(40)
    assert desk.told == [(wire.Applied, 1, 1), (wire.Applied, 2, 4)]
    assert desk.now == (2, 0.25)


def test_of_two_temporary_ones_the_second_gives_way_to_what_was_before_the_first():
    desk = Desk().receive(1, 2.0).at(1).receive(2, 0.5, ttl_steps=10).at(3)
    desk.receive(3, 0.25, ttl_steps=4).at(40)
    assert [
        answer.back for answer in desk.steering.answers() if isinstance(answer, wire.Applied)
    ] == [
        None,
        1,
        1,
    ]
    assert desk.told[-1] == (wire.Reverted, 3, 8)
    assert desk.now == (1, 2.0)


def test_a_change_that_is_refused_leaves_the_temporary_one_its_time():
    desk = Desk().receive(1, 0.5, ttl_steps=4).at(1).receive(2, 1000.0).at(9)
    assert desk.told == [(wire.Applied, 1, 1), (wire.Rejected, 2, 2), (wire.Reverted, 1, 5)]
    refused = wire.Change(2, (wire.Rule({"max_norm": 1000.0}),))
    assert isinstance(desk.steering.receive(refused), wire.Rejected)


def test_a_change_at_the_step_at_which_the_time_is_over_comes_after_it():
    desk = Desk().receive(1, 0.5, ttl_steps=3).at(3).receive(2, 0.25, ttl_steps=5).at(4)
    assert desk.told[-2:] == [(wire.Reverted, 1, 4), (wire.Applied, 2, 4)]
    assert desk.at(20).now == (0, 1.0)


def test_going_back_is_always_allowed_and_counts_as_a_change():
    desk = Desk(Control(every_steps=100, factor=2.0)).receive(1, 2.0, ttl_steps=3).at(4)
    assert desk.now == (0, 1.0)
    desk.receive(2, 2.0).at(103)
    assert desk.told[-1] == (wire.Rejected, 2, 5)
    desk.receive(3, 2.0).at(104)
    assert desk.told[-1] == (wire.Applied, 3, 104)


def restarted(desk: Desk, **more: object) -> Desk:
    back = wire.Document(2, (wire.Rule({"max_norm": 2.0}),))
    return desk.receive(3, 0.5, ttl_steps=10, until=60, back=back, **more)


def test_after_a_restart_the_time_goes_on_and_what_was_before_it_is_known():
    desk = Desk()
    desk.step = 54
    restarted(desk).at(55)
    assert desk.told == [(wire.Applied, 2, 55), (wire.Applied, 3, 55)]
    assert list(desk.steering.answers())[1].back == 2
    assert desk.now == (3, 0.5)
    assert desk.at(59).now == (3, 0.5)
    assert desk.at(60).now == (2, 2.0)
    assert desk.told[-1] == (wire.Reverted, 3, 60)


def test_a_time_that_ran_out_while_the_trainer_was_away_is_over_at_once():
    desk = Desk()
    desk.step = 59
    restarted(desk).at(60)
    assert desk.told == [(wire.Applied, 2, 60), (wire.Reverted, 3, 60)]
    assert desk.now == (2, 2.0)
    assert desk.steering.receive(wire.Change(3, OF_1)).why == "its time was over at step 60"


def test_a_script_that_does_not_allow_what_was_before_goes_back_to_what_it_says_itself():
    desk = Desk(Control(max=1.5))
    desk.step = 54
    restarted(desk).at(70)
    assert desk.told == [(wire.Rejected, 2, 55), (wire.Applied, 3, 55), (wire.Reverted, 3, 60)]
    assert desk.now == (0, 1.0)


def test_steps_are_those_of_the_stream_that_is_named():
    steps = {"gen": 100, "disc": 5}
    levers = [
        Lever(GlobalNorm(1.0), Control().ranges("max_norm", 1.0), lambda: steps["gen"]),
        Lever(
            Value(0.5),
            Control().ranges("clip_value", 0.5),
            lambda: steps["disc"],
            stream="disc",
        ),
    ]
    steering = Steering(levers, Control().limits())
    rule = wire.Rule({"clip_value": 0.25}, None, "disc")
    steering.receive(wire.Change(1, (rule,), stream="disc", not_before=6, ttl_steps=2))
    steering.take()
    assert not steering.answers()
    for step in (6, 7, 8):
        steps["gen"] += 10
        steps["disc"] = step
        steering.take("disc")
        steering.take()
        assert levers[1].strategy["clip_value"] == (0.5 if step == 8 else 0.25)
    found = [(type(a), a.step, a.stream) for a in steering.answers()]
    assert found == [(wire.Applied, 6, "disc"), (wire.Reverted, 8, "disc")]
    steering.receive(wire.Change(2, (rule,), stream="no such", ttl_steps=2))
    steering.take()
    assert "no such" in steering.answers()[-1].why
    # As after a restart: what was before it is told of in the same steps.
    steering.answers().clear()
    back = wire.Document(3, (wire.Rule({"clip_value": 0.4}, None, "disc"),))
    steering.receive(wire.Change(4, (rule,), stream="disc", ttl_steps=9, until=12, back=back))
    steering.take()
    found = [(type(a), a.version, a.step, a.stream) for a in steering.answers()]
    assert found == [(wire.Applied, 3, 8, "disc"), (wire.Applied, 4, 8, "disc")]


# -- trials -------------------------------------------------------------------------------------

TRIAL = wire.RevertIf(5, nonfinite=True)


def test_a_version_is_taken_back_by_a_verdict_at_the_next_boundary():
    desk = Desk().receive(1, 0.5, revert_if=TRIAL).at(3)
    desk.steering.judged(Verdict(1, "the loss was nan at step 2"))
    assert desk.now == (1, 0.5)
    assert desk.steering.waiting
    assert desk.at(4).now == (0, 1.0)
    assert not desk.steering.waiting
    assert desk.steering.answers()[-1] == wire.Reverted(1, 4, "the loss was nan at step 2", OF_1)


def test_a_version_that_stood_its_trial_is_what_a_later_one_gives_way_to():
    desk = Desk().receive(1, 0.5, revert_if=TRIAL).at(3)
    desk.steering.judged(Verdict(1))
    desk.at(4).receive(2, 2.0, ttl_steps=3).at(20)
    assert desk.now == (1, 0.5)


def test_a_verdict_on_what_is_no_longer_in_force_changes_nothing():
    desk = Desk().receive(1, 0.5, revert_if=TRIAL).at(3).receive(2, 0.25).at(4)
    desk.steering.judged(Verdict(1, "late"))
    assert desk.at(9).now == (2, 0.25)
    assert not desk.steering.waiting


def test_a_trial_that_is_stood_leaves_the_time_that_was_given():
    desk = Desk().receive(1, 0.5, ttl_steps=10, revert_if=TRIAL).at(6)
    desk.steering.judged(Verdict(1))
    desk.at(7)
    assert not desk.steering.waiting
    assert desk.at(20).told == [(wire.Applied, 1, 1), (wire.Reverted, 1, 11)]


def test_what_a_boundary_acts_upon_can_be_told_to_other_processes():
    for order in (wire.Change(1, OF_1, ttl_steps=5), Verdict(1, "why"), Verdict(2)):
        data = msgspec.msgpack.encode(order)
        assert msgspec.msgpack.decode(data, type=wire.Change | Verdict) == order


# -- stop and learning rates --------------------------------------------------------------------


def test_a_stop_is_for_good():
    desk = Desk().receive(1, 1.0, stop=True)
    assert not desk.steering.stopped
    assert desk.at(1).steering.stopped
    assert desk.receive(2, 1.0).at(2).steering.stopped


@pytest.mark.parametrize(
    ("more", "control", "why"),
    [
        ({"stop": True}, Control(), "may not be stopped"),
        ({"stop": True, "ttl_steps": 5}, Control(stop=True), "cannot be temporary"),
        ({"lr_factor": 0.5}, Control(), "learning rate may not be changed"),
        ({"lr_factor": 0.25}, Control(lr=True, factor=2.0), "more than a factor"),
    ],
)
def test_what_the_script_does_not_allow_is_refused_whole(more, control, why):
    desk = Desk(control).receive(1, 0.5, **more).at(1)
    assert why in desk.steering.answers()[-1].why
    assert desk.now == (0, 1.0)
    assert (desk.steering.stopped, desk.steering.lr_factor) == (False, 1.0)


def test_a_learning_rate_factor_goes_with_its_document():
    desk = Desk().receive(1, 1.0, lr_factor=0.5, ttl_steps=3)
    found = [desk.at(step).steering.lr_factor for step in range(1, 6)]
    assert found == [0.5, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("value", [0.0099, 100.1, -1.0, float("nan"), float("inf")])
def test_a_factor_out_of_range_does_not_get_through_the_wire(value):
    with pytest.raises(gradhelm.errors.WireError):
        wire.decode_from_server(wire.encode(wire.Change(1, OF_1, lr_factor=value)))


@pytest.mark.parametrize("name", ["stop", "lr", "strategies", "read_only"])
def test_a_permission_is_true_or_false(name):
    with pytest.raises(TypeError, match=name):
        Control(**{name: 1})


def test_learning_rates_are_scaled_for_the_step_alone(server):
    """The weights, and what is seen between the steps, against a loop that has other rates."""
    models = small(), small()
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9) for m in models)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (ours, theirs)]
    run = gradhelm.attach(
        models[0], ours, max_norm=1.0, control=Control(lr=True), server=server.url
    )
    assert server.hello.limits.lr
    inside = []
    ours.register_step_pre_hook(lambda o, a, k: inside.append(o.param_groups[0]["lr"]))
    for step in range(6):
        if step == 3:
            server.say(wire.Change(1, OF_1, lr_factor=0.25, ttl_steps=2))
            server.wait(lambda: wire.Delivered(1) in server.heard)
        for model in models:
            one_step(model)
        plain = theirs.param_groups[0]["lr"]
        assert ours.param_groups[0]["lr"] == plain
        torch.nn.utils.clip_grad_norm_(models[1].parameters(), 1.0)
        theirs.param_groups[0]["lr"] = plain * (0.25 if step in (3, 4) else 1.0)
        ours.step()
        theirs.step()
        theirs.param_groups[0]["lr"] = plain
        assert ours.param_groups[0]["lr"] == plain
        assert ours.state_dict()["param_groups"][0]["lr"] == plain
        for scheduler in schedulers:
            scheduler.step()
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, other)
    run.close()
    plain = [0.5 * 0.9**step for step in range(6)]
    used = [lr * (0.25 if step in (3, 4) else 1) for step, lr in enumerate(plain)]
    assert inside == pytest.approx(used)
    assert [row["lr"] for _, _, row in server.rows()] == pytest.approx(used)


def test_lbfgs_reads_the_scaled_rate_before_its_closure(server):
    model, step = torch.nn.Linear(2, 1, bias=False), 0
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=1)
    run = gradhelm.attach(
        model, optimizer, max_norm=1e6, control=Control(lr=True, max=1e7), server=server.url
    )
    server.say(wire.Change(1, (wire.Rule({"max_norm": 1e6}),), lr_factor=0.01))
    server.wait(lambda: wire.Delivered(1) in server.heard)
    before = model.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = (model.weight * torch.tensor([[1.0, 2.0]])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    # Its first step is min(1, 1 / |g|_1) * lr along -g.
    expected = before - torch.tensor([[1.0, 2.0]]) / 3.0 * 0.01
    assert torch.allclose(model.weight, expected)
    assert (optimizer.param_groups[0]["lr"], step) == (1.0, 0)
    run.close()


def test_a_learning_rate_can_only_be_scaled_where_an_optimizer_has_one(server):
    run = gradhelm.attach(small(), max_norm=1.0, control=Control(lr=True), server=server.url)
    assert not server.hello.limits.lr
    run.close()


def test_a_run_that_only_watches_can_be_stopped(server):
    run = gradhelm.attach(small(), control=Control(stop=True), server=server.url)
    assert server.hello.limits == wire.Limits(stop=True)
    assert not run.should_stop
    server.say(wire.Change(1, (wire.Rule({}),), stop=True))
    server.wait(lambda: server.of(wire.Delivered))
    assert not run.should_stop
    run.clip()
    assert run.should_stop
    run.close()


def test_a_checkpoint_has_nothing_that_is_temporary(server):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.say(wire.Change(1, (wire.Rule({"max_norm": 0.5}),), ttl_steps=100))
    server.wait(lambda: server.of(wire.Delivered))
    one_step(model)
    run.clip()
    assert run.threshold == 0.5
    state = run.state_dict()
    assert run.threshold == 0.5
    run.close()
    again = gradhelm.attach(small(), max_norm=1.0, server=server.url)
    again.load_state_dict(state)
    assert again.threshold == 1.0
    again.close()


# -- the strategies' other values ---------------------------------------------------------------


def test_other_values_of_a_strategy_may_be_changed_within_what_it_takes(server):
    strategy = ZClip(z_threshold=2.5, alpha=0.97, warmup=25, clip_factor=0.8)
    run = gradhelm.attach(
        small(), clip=strategy, control=Control(strategies=True), server=server.url
    )
    (coded,) = server.hello.coded
    assert coded.limits["z_threshold"] == wire.Limit(0.025, 250.0)
    assert coded.limits["clip_factor"] == wire.Limit(0.008, 1.0)
    assert coded.limits["warmup"].whole
    assert coded.limits["warmup"].max == 2500
    assert 0.97 < coded.limits["alpha"].max < 1
    assert "max_norm" not in coded.limits  # 0 is no ceiling: nothing to measure a range by
    for limit_of, limit in coded.limits.items():
        for end in (limit.min, limit.max):
            assert strategy.validate(limit_of, end) == end
    values = strategy.parameters | {"clip_factor": 0.5, "warmup": 10.0}
    server.say(wire.Change(1, (wire.Rule(values),)))
    server.wait(lambda: server.of(wire.Delivered))
    run.clip()
    assert (strategy["clip_factor"], strategy["warmup"]) == (0.5, 10.0)
    for version, (name, value) in enumerate((("warmup", 10.5), ("clip_factor", 1.5)), 2):
        server.say(wire.Change(version, (wire.Rule(values | {name: value}),)))
        server.wait(lambda version=version: wire.Delivered(version) in server.heard)
        run.clip()
    server.wait(lambda: len(server.of(wire.Rejected)) == 2)
    assert ["warmup" in r.why for r in server.of(wire.Rejected)] == [True, False]
    assert "clip_factor 1.5 is outside" in server.of(wire.Rejected)[1].why
    assert strategy.parameters == values
    run.close()


def test_without_being_asked_only_the_threshold_may_be_changed(server):
    run = gradhelm.attach(small(), clip=ZClip(), server=server.url)
    assert set(server.hello.coded[0].limits) == {"z_threshold"}
    run.close()
