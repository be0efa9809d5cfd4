"""Versions that wait, are temporary, on trial or rolled back: what the server keeps and sends."""

from __future__ import annotations

import secrets

import pytest
from sqlalchemy import select
from support import Running, eventually
from trainer import FakeTrainer, trainer

from gradhelm import wire
from gradhelm_server.tables import control_versions

OPEN = wire.Limits(lr=True, stop=True)


def rule(value: float) -> tuple[wire.Rule, ...]:
    return (wire.Rule({"max_norm": value}),)


def control(server: Running, run: str) -> dict:
    return server.get(f"runs/{run}/control")


def versions(server: Running, run: str) -> list[dict]:
    """The history, oldest first."""
    return server.get(f"runs/{run}/control/history")["versions"][::-1]


def fates(server: Running, run: str) -> list[str]:
    return [entry["status"] for entry in versions(server, run)]


def put(server: Running, fake: FakeTrainer, version: int, **body: object) -> dict:
    answer = server.put_control(fake.run, version, **body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def refused(server: Running, fake: FakeTrainer, version: int, **body: object) -> str:
    answer = server.put_control(fake.run, version, **body)
    assert answer.status_code == 422, answer.text
    assert control(server, fake.run)["version"] == version
    return answer.json()["error"]["message"]


def apply(server: Running, fake: FakeTrainer, step: int, back: int | None = None) -> wire.Change:
    """What the trainer is told next, which it then has in force from ``step`` on."""
    change = fake.hear(wire.Change)
    assert isinstance(change, wire.Change)
    fake.say(wire.Applied(change.version, step, change.rules, back=back))
    eventually(lambda: control(server, fake.run)["applied"]["version"] == change.version)
    return change


def revert(server: Running, fake: FakeTrainer, version: int, step: int, value: float) -> None:
    fake.say(wire.Reverted(version, step, "its time was over", rule(value)))
    eventually(lambda: fates(server, fake.run)[version - 1] == "reverted")


# -- a time -------------------------------------------------------------------------------------


def test_conditions_are_sent_and_shown_and_kept(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        trial = {"within": 5, "nonfinite": True, "clip_fraction": [0, 0.5]}
        conditions = {"not_before_step": 7, "ttl_steps": 10, "revert_if": trial}
        document = put(server, fake, 0, max_norm=0.5, **conditions)
        assert conditions.items() <= document.items()
        change = apply(server, fake, 7, back=0)
        assert change == wire.Change(
            1,
            rule(0.5),
            not_before=7,
            ttl_steps=10,
            revert_if=wire.RevertIf(5, True, (0.0, 0.5)),
        )
        assert control(server, fake.run)["applied"]["until"] == 17
        (entry,) = versions(server, fake.run)
        assert conditions.items() <= entry.items()
        (event,) = server.get(f"runs/{fake.run}/events", kind="threshold")["events"]
        assert event["text"] == "max_norm 1 → 0.5 for 10 steps, set by local"


def test_what_is_over_is_reverted_and_the_document_before_in_force(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=2.0)
        apply(server, fake, 3)
        put(server, fake, 1, max_norm=0.5, ttl_steps=10)
        apply(server, fake, 7, back=1)
        for _ in range(2):  # said again (after a reconnect), it changes nothing
            revert(server, fake, 2, 17, 2.0)
        document = control(server, fake.run)
        assert (document["version"], document["status"]) == (2, "reverted")
        assert (document["why"], document["step"]) == ("its time was over", 17)
        assert document["applied"] | {"at": ""} == {
            "version": 1,
            "step": 17,
            "at": "",
            "values": {"max_norm": 2.0},
            "lr_factor": 1.0,
            "stop": False,
            "until": None,
        }
        entry = versions(server, fake.run)[-1]
        assert [e["status"] for e in entry["events"]] == ["pending", "applied", "reverted"]
        assert (entry["step"], entry["why"]) == (17, "its time was over")
        newest, *_ = server.get(f"runs/{fake.run}/events", kind="threshold")["events"]
        assert newest["first_step"] == 17
        assert newest["threshold"] == 2.0
        assert newest["text"] == "max_norm 0.5 → 2, version 2 was taken back: its time was over"
        assert len(server.get(f"runs/{fake.run}/events", kind="threshold")["events"]) == 3


def test_the_next_change_is_based_on_what_was_gone_back_to(server: Running) -> None:
    with trainer(server.ws, server.token, limits=wire.Limits(factor=2.5)) as fake:
        put(server, fake, 0, max_norm=2.0)
        apply(server, fake, 3)
        put(server, fake, 1, max_norm=5.0, ttl_steps=10)
        apply(server, fake, 7, back=1)
        revert(server, fake, 2, 17, 2.0)
        assert "factor" in refused(server, fake, 2, max_norm=6.0)
        put(server, fake, 2, max_norm=4.0)
        assert versions(server, fake.run)[-1]["from"] == {"max_norm": 2.0}


def test_what_waits_to_be_temporary_is_no_base_for_what_stays(server: Running) -> None:
    coded = (
        wire.Coded(
            "GlobalNorm", {"max_norm": 1.0}, "max_norm", {"max_norm": wire.Limit(0.1, 9)}, "a"
        ),
        wire.Coded(
            "GlobalNorm", {"max_norm": 2.0}, "max_norm", {"max_norm": wire.Limit(0.1, 9)}, "b"
        ),
    )
    with trainer(server.ws, server.token, coded=coded) as fake:
        put(server, fake, 0, max_norm=0.5, match="a", ttl_steps=10)
        put(server, fake, 1, max_norm=3.0, match="b")
        fake.hear(wire.Change)
        change = fake.hear(wire.Change)
        assert isinstance(change, wire.Change)
        assert {r.match: r.values["max_norm"] for r in change.rules} == {"a": 1.0, "b": 3.0}
        assert change.ttl_steps is None
        assert fates(server, fake.run) == ["superseded", "pending"]


def restarted(server: Running, fake: FakeTrainer, **values: object):
    return trainer(server.ws, server.token, run=fake.run, resume=True, **values)


def test_after_a_restart_the_time_goes_on_from_the_first_step(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=2.0)
        apply(server, fake, 3)
        put(server, fake, 1, max_norm=0.5, ttl_steps=10, not_before_step=7)
        apply(server, fake, 7, back=1)
    for step in (9, 12):  # twice: it is always the first step that counts
        with restarted(server, fake) as again:
            change = apply(server, again, step, back=1)
            assert change == wire.Change(
                2, rule(0.5), ttl_steps=10, until=17, back=wire.Document(1, rule(2.0))
            )
    with restarted(server, fake) as late:
        late.hear(wire.Change)
        late.say(wire.Applied(1, 20, rule(2.0)))
        revert(server, late, 2, 20, 2.0)
        assert control(server, fake.run)["applied"]["version"] == 1
    with restarted(server, fake) as after:
        assert after.hear(wire.Change) == wire.Change(1, rule(2.0))


def test_what_was_coded_needs_no_sending_when_that_is_what_was_before(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=0.5, ttl_steps=10)
        apply(server, fake, 7, back=0)
    with restarted(server, fake) as again:
        change = again.hear(wire.Change)
        assert change == wire.Change(1, rule(0.5), ttl_steps=10, until=17)
        revert(server, again, 1, 18, 1.0)
        document = control(server, fake.run)["applied"]
        assert (document["version"], document["values"]) == (0, {"max_norm": 1.0})
    with restarted(server, fake) as after:
        after.send(0, after.rows([1.0]))
        assert not any(isinstance(message, wire.Change) for message in after.heard)


def test_a_temporary_version_that_another_replaced_is_nothing_to_go_back_to(server) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=2.0)
        apply(server, fake, 3)
        put(server, fake, 1, max_norm=0.5, ttl_steps=10)
        apply(server, fake, 7, back=1)
        put(server, fake, 2, max_norm=0.25, ttl_steps=10)
        apply(server, fake, 9, back=1)
        assert fates(server, fake.run) == ["applied", "superseded", "applied"]
        assert versions(server, fake.run)[1]["why"] == "version 3 replaced it"
        revert(server, fake, 3, 19, 2.0)
        assert control(server, fake.run)["applied"]["version"] == 1
    with restarted(server, fake) as again:
        assert again.hear(wire.Change) == wire.Change(1, rule(2.0))


def test_what_was_never_applied_before_the_end_expires_whatever_it_waited_for(server) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=0.5, not_before_step=10**9, ttl_steps=5)
        fake.say(wire.Finish("finished", 3))
        fake.hear(wire.Finished)
        assert fates(server, fake.run) == ["expired"]


def test_a_step_number_that_would_be_too_large_is_cut(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=0.5, ttl_steps=wire.MAX_STEP)
        apply(server, fake, 7, back=0)
    with restarted(server, fake) as again:
        assert again.hear(wire.Change).until == wire.MAX_STEP


# -- a trial ------------------------------------------------------------------------------------

TRIAL = {"within": 5, "nonfinite": True}


def test_a_trial_that_was_cut_short_by_a_restart_begins_anew(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=0.5, revert_if=TRIAL)
        apply(server, fake, 1, back=0)
        fake.send(0, fake.rows([1.0] * 3))
    with restarted(server, fake) as again:
        change = again.hear(wire.Change)
        assert change == wire.Change(1, rule(0.5), revert_if=wire.RevertIf(5, True))


def test_a_version_that_stood_its_trial_is_sent_as_one_that_stays(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=0.5, revert_if=TRIAL)
        apply(server, fake, 1, back=0)
        fake.send(0, fake.rows([1.0] * 7))
    with restarted(server, fake) as again:
        assert again.hear(wire.Change) == wire.Change(1, rule(0.5))


# -- roll-back ----------------------------------------------------------------------------------


def test_a_roll_back_is_a_new_version_with_an_old_document(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        put(server, fake, 0, max_norm=2.0, lr_factor=0.5)
        apply(server, fake, 3)
        put(server, fake, 1, max_norm=4.0, lr_factor=0.25)
        apply(server, fake, 5)
        put(server, fake, 2, roll_back_to=1, reason="it was better")
        assert apply(server, fake, 9) == wire.Change(3, rule(2.0), lr_factor=0.5)
        entry = versions(server, fake.run)[-1]
        assert entry["rolled_back_to"] == 1
        assert entry["from"] == {"max_norm": 4.0, "lr_factor": 0.25}
        assert entry["to"] == {"max_norm": 2.0, "lr_factor": 0.5}
        newest, *_ = server.get(f"runs/{fake.run}/events", kind="threshold")["events"]
        assert newest["text"] == (
            "back to version 1: max_norm 4 → 2, lr_factor 0.25 → 0.5, set by local: it was better"
        )
        put(server, fake, 3, roll_back_to=0)
        assert apply(server, fake, 12) == wire.Change(4, rule(1.0))
        assert control(server, fake.run)["applied"]["values"] == {"max_norm": 1.0}


def test_a_roll_back_covers_every_rule_and_is_held_to_the_limits(server: Running) -> None:
    limit = {"max_norm": wire.Limit(0.1, 9)}
    coded = tuple(
        wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limit, match) for match in "ab"
    )
    with trainer(server.ws, server.token, coded=coded, limits=wire.Limits(factor=2.0)) as fake:
        for version, match in enumerate("aab"):
            put(server, fake, version, max_norm=2.0 * (1 + (version == 1)), match=match)
            apply(server, fake, version)
        assert "factor of at most 2" in refused(server, fake, 3, roll_back_to=0)
        put(server, fake, 3, roll_back_to=1)
        change = apply(server, fake, 9)
        assert {r.match: r.values["max_norm"] for r in change.rules} == {"a": 2.0, "b": 1.0}


def test_there_is_no_rolling_back_to_what_is_not_there(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        put(server, fake, 0, max_norm=2.0)
        assert "expected 0 (as coded) to 1" in refused(server, fake, 1, roll_back_to=2)


# -- stop and learning rates --------------------------------------------------------------------


def test_a_stop_is_sent_once_shown_and_not_taken_back(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        assert control(server, fake.run)["may"] == {"lr_factor": True, "stop": True}
        assert put(server, fake, 0, stop=True, reason="it diverges")["stop"]
        assert not control(server, fake.run)["applied"]["stop"]
        assert apply(server, fake, 4) == wire.Change(1, rule(1.0), stop=True)
        assert control(server, fake.run)["applied"]["stop"]
        assert "cannot be taken back" in refused(server, fake, 1, stop=False, max_norm=0.5)
        put(server, fake, 1, max_norm=0.5)
        assert not apply(server, fake, 6).stop
        assert control(server, fake.run)["stop"]
        assert [entry["stop"] for entry in versions(server, fake.run)] == [True, False]
        event = server.get(f"runs/{fake.run}/events", kind="threshold")["events"][-1]
        assert event["text"] == "the run is asked to stop, set by local: it diverges"


def test_a_stop_that_still_waits_stays_asked_for_or_is_taken_back(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        put(server, fake, 0, stop=True)
        put(server, fake, 1, max_norm=0.5)
        fake.hear(wire.Change)
        assert fake.hear(wire.Change).stop
        assert not put(server, fake, 2, max_norm=0.5, stop=False)["stop"]
        assert not fake.hear(wire.Change).stop


def test_a_run_that_was_stopped_can_be_taken_up_again(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        put(server, fake, 0, stop=True)
        apply(server, fake, 4)
    with restarted(server, fake, limits=OPEN) as again:
        assert again.hear(wire.Change) == wire.Change(1, rule(1.0))
        assert not control(server, fake.run)["applied"]["stop"]


def test_a_stop_is_never_temporary(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        assert "ttl_steps" in refused(server, fake, 0, stop=True, ttl_steps=5)
        assert "revert_if" in refused(server, fake, 0, stop=True, revert_if=TRIAL)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"stop": True}, "Control(stop=True)"),
        ({"lr_factor": 0.5}, "Control(lr=True)"),
        ({"max_norm": 0.5, "lr_factor": 0.5}, "Control(lr=True)"),
    ],
)
def test_what_the_script_does_not_allow_is_refused_with_how_it_could(server, body, words) -> None:
    with trainer(server.ws, server.token) as fake:
        assert words in refused(server, fake, 0, **body)


@pytest.mark.parametrize("value", [0, -1, 0.0099, 100.1, 1e308, "0.5", True, [], {}])
def test_a_learning_rate_factor_has_a_range(server: Running, value) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        assert "0.01 to 100" in refused(server, fake, 0, lr_factor=value)


def test_a_learning_rate_factor_goes_on_with_later_versions(server: Running) -> None:
    limits = wire.Limits(lr=True, factor=2.0)
    with trainer(server.ws, server.token, limits=limits) as fake:
        assert "factor of at most 2" in refused(server, fake, 0, lr_factor=0.25)
        put(server, fake, 0, lr_factor=0.5)
        assert apply(server, fake, 3) == wire.Change(1, rule(1.0), lr_factor=0.5)
        put(server, fake, 1, max_norm=2.0)
        assert apply(server, fake, 5) == wire.Change(2, rule(2.0), lr_factor=0.5)
        assert control(server, fake.run)["applied"]["lr_factor"] == 0.5
        first, second = versions(server, fake.run)
        assert (first["from"], first["to"]) == ({"lr_factor": 1.0}, {"lr_factor": 0.5})
        assert second["to"] == {"max_norm": 2.0}


def test_a_value_that_is_whole_is_asked_for_whole(server: Running) -> None:
    values = {"sigma": 6.0, "window": 128.0}
    limits = {"sigma": wire.Limit(0.06, 600.0), "window": wire.Limit(20, 12800, whole=True)}
    coded = (wire.Coded("SkipOutliers", values, "sigma", limits),)
    with trainer(server.ws, server.token, coded=coded) as fake:
        assert "a whole number from 20 to 12800" in refused(server, fake, 0, window=64.5)
        put(server, fake, 0, window=64)
        assert apply(server, fake, 3).rules[0].values == {"sigma": 6.0, "window": 64.0}


# -- the same request ---------------------------------------------------------------------------


def test_the_same_key_with_other_conditions_is_another_request(server: Running) -> None:
    def ask(**body: object):
        return server.rest.put(
            f"/api/v1/runs/{fake.run}/control",
            json=body,
            headers={"If-Match": '"0"', "Idempotency-Key": key},
        )

    asked = [
        {"max_norm": 0.5, "ttl_steps": 5, "revert_if": TRIAL, "not_before_step": 3},
        {"lr_factor": 0.5},
        {"stop": True},
        {"roll_back_to": 0},
    ]
    others = [
        {"max_norm": 0.5, "ttl_steps": 6, "revert_if": TRIAL, "not_before_step": 3},
        {"max_norm": 0.5, "ttl_steps": 5, "not_before_step": 3},
        {"max_norm": 0.5, "ttl_steps": 5, "revert_if": TRIAL},
        {"lr_factor": 0.25},
        {"roll_back_to": 0, "ttl_steps": 3},
    ]
    for number, body in enumerate(asked):
        with trainer(server.ws, server.token, limits=OPEN) as fake:
            key = secrets.token_hex(4)
            assert [ask(**body).headers["ETag"] for _ in range(3)] == ['"1"'] * 3
            different = others + [other for at, other in enumerate(asked) if at != number]
            for other in different:
                assert ask(**other).json()["error"]["code"] == "key_reused", (body, other)


def test_a_version_is_inserted_complete(server: Running) -> None:
    with trainer(server.ws, server.token, limits=OPEN) as fake:
        put(server, fake, 0, max_norm=0.5, lr_factor=0.5, ttl_steps=9, not_before_step=2)
        stored = select(control_versions)
        before = server.store.submit(lambda c: c.execute(stored).all()).result()
        apply(server, fake, 7, back=0)
        revert(server, fake, 1, 16, 1.0)
        assert server.store.submit(lambda c: c.execute(stored).all()).result() == before
