"""Changes: one winner a version, limits told at once, a history that keeps everything."""

from __future__ import annotations

import concurrent.futures
import os
import secrets
from functools import partial

import pytest
from support import Running, eventually
from trainer import FakeTrainer, new_run, trainer

from gradhelm import wire

RACES = int(os.environ.get("CHAOS_RACES", "40"))
"""How often eight write at once; 1,000 for a long look."""


def control(server: Running, run: str) -> dict:
    return server.get(f"runs/{run}/control")


def fate(server: Running, run: str, version: int) -> str:
    history = server.get(f"runs/{run}/control/history")["versions"]
    return next(entry["status"] for entry in history if entry["version"] == version)


def test_before_any_change_the_document_is_what_the_script_says(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        answer = server.rest.get(f"/api/v1/runs/{fake.run}/control")
        assert answer.headers["ETag"] == '"0"'
        assert answer.json() == {
            "version": 0,
            "desired": {"max_norm": 1.0, "patterns": {}},
            "lr_factor": 1.0,
            "stop": False,
            "not_before_step": None,
            "ttl_steps": None,
            "revert_if": None,
            "status": "applied",
            "why": None,
            "step": None,
            "stream": None,
            "applied": answer.json()["applied"],
            "limits": {"max_norm": {"min": 0.01, "max": 100.0}},
            "factor": None,
            "every_steps": 0,
            "may": {"lr_factor": False, "stop": False},
            "read_only": False,
            "why_read_only": None,
            "threshold_name": "max_norm",
            "rules": [
                {
                    "match": None,
                    "stream": None,
                    "strategy": "GlobalNorm",
                    "threshold_name": "max_norm",
                    "coded": {"max_norm": 1.0},
                    "desired": {"max_norm": 1.0},
                    "applied": {"max_norm": 1.0},
                    "limits": {"max_norm": {"min": 0.01, "max": 100.0}},
                }
            ],
        }
        assert answer.json()["applied"]["values"] == {"max_norm": 1.0}


def test_the_life_of_a_change(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        answer = server.put_control(fake.run, 0, max_norm=0.5, reason="too loose")
        assert answer.status_code == 202
        assert answer.headers["ETag"] == '"1"'
        assert answer.json()["status"] == "pending"
        change = fake.hear(wire.Change)
        assert change == wire.Change(1, (wire.Rule({"max_norm": 0.5}),))
        fake.say(wire.Delivered(1))
        eventually(lambda: fate(server, fake.run, 1) == "delivered")
        fake.say(wire.Applied(1, 7, change.rules))
        eventually(lambda: fate(server, fake.run, 1) == "applied")
        document = control(server, fake.run)
        assert document["applied"] | {"at": ""} == {
            "version": 1,
            "step": 7,
            "at": "",
            "values": {"max_norm": 0.5},
            "lr_factor": 1.0,
            "stop": False,
            "until": None,
        }
        (entry,) = server.get(f"runs/{fake.run}/control/history")["versions"]
        assert (entry["author"], entry["reason"], entry["step"]) == ("local", "too loose", 7)
        assert (entry["from"], entry["to"]) == ({"max_norm": 1.0}, {"max_norm": 0.5})
        assert [e["status"] for e in entry["events"]] == ["pending", "delivered", "applied"]
        (event,) = server.get(f"runs/{fake.run}/events", kind="threshold")["events"]
        assert event["first_step"] == 7
        assert event["text"] == "max_norm 1 → 0.5, set by local: too loose"
        # Said again (after a reconnect), it changes nothing.
        fake.say(wire.Applied(1, 7, change.rules))
        fake.send(1, fake.rows([1.0]))
        assert len(server.get(f"runs/{fake.run}/events", kind="threshold")["events"]) == 1


def test_a_refused_change_says_why(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=0.5)
        fake.hear(wire.Change)
        fake.say(wire.Rejected(1, 3, "changed 2 steps ago, and every_steps is 100"))
        eventually(lambda: fate(server, fake.run, 1) == "rejected")
        assert "every_steps" in control(server, fake.run)["why"]
        assert control(server, fake.run)["applied"]["version"] == 0


def test_a_newer_change_supersedes_one_that_still_waits(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=0.5)
        server.put_control(fake.run, 1, max_norm=0.25)
        assert fate(server, fake.run, 1) == "superseded"
        assert fate(server, fake.run, 2) == "pending"


def test_a_change_made_while_the_trainer_is_away_waits_for_it(server: Running) -> None:
    segment = secrets.token_hex(8)
    with trainer(server.ws, server.token, segment=segment) as fake:
        fake.send(0, fake.rows([1.0]))
    assert server.put_control(fake.run, 0, max_norm=0.5).status_code == 202
    with trainer(server.ws, server.token, run=fake.run, segment=segment) as back:
        assert back.hear(wire.Change).version == 1
    with trainer(server.ws, server.token, run=fake.run, segment=segment, version=1) as knows:
        knows.send(1, knows.rows([1.0]))
        assert not any(isinstance(message, wire.Change) for message in knows.heard)


def test_what_was_never_applied_expires_with_the_run(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=0.5)
        fake.say(wire.Finish("finished", 3))
        fake.hear(wire.Finished)
        assert fate(server, fake.run, 1) == "expired"
        answer = server.put_control(fake.run, 1, max_norm=0.5)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "run_ended"


def test_a_stale_if_match_gets_the_current_document(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=0.5)
        answer = server.put_control(fake.run, 0, max_norm=0.7)
        assert answer.status_code == 412
        assert answer.json()["error"]["details"]["current"] == control(server, fake.run)


@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        (None, 428),
        ("", 422),
        ("*", 422),
        ('W/"0"', 422),
        ("0", 422),
        ('"0", "1"', 422),
        ('"-1"', 422),
    ],
)
def test_if_match_must_be_one_strong_tag(server: Running, if_match, status) -> None:
    with trainer(server.ws, server.token) as fake:
        headers = {} if if_match is None else {"If-Match": if_match}
        answer = server.rest.put(
            f"/api/v1/runs/{fake.run}/control", json={"max_norm": 0.5}, headers=headers
        )
        assert answer.status_code == status
        assert control(server, fake.run)["version"] == 0


BAD_BODIES = [
    '{"max_norm": 0}',
    '{"max_norm": -1}',
    '{"max_norm": NaN}',
    '{"max_norm": Infinity}',
    '{"max_norm": 1e999}',
    '{"max_norm": "1"}',
    '{"max_norm": true}',
    '{"max_norm": null}',
    '{"max_norm": []}',
    '{"max_norm": {}}',
    '{"max_norm": 100.1}',
    '{"max_norm": 0.009}',
    '{"max_norm": ' + "9" * 5000 + "}",
    '{"max_norm": 0.5, "max_norm": 0.6}',
    '{"clip_value": 0.5}',
    '{"max_norm": 0.5, "role": 1}',
    '{"__proto__": 1}',
    "{}",
    '{"reason": "only"}',
    '{"max_norm": 0.5, "reason": 5}',
    '{"max_norm": 0.5, "reason": "' + "x" * 1001 + '"}',
    '{"max_norm": 0.5, "match": "encoder.*"}',
    '{"max_norm": 0.5, "match": 7}',
    '{"max_norm": 0.5, "ttl_steps": 0}',
    '{"max_norm": 0.5, "ttl_steps": -1}',
    '{"max_norm": 0.5, "ttl_steps": 5.0}',
    '{"max_norm": 0.5, "ttl_steps": "5"}',
    '{"max_norm": 0.5, "ttl_steps": true}',
    '{"max_norm": 0.5, "ttl_steps": NaN}',
    '{"max_norm": 0.5, "ttl_steps": 9007199254740992}',
    '{"max_norm": 0.5, "ttl_steps": [5]}',
    '{"max_norm": 0.5, "not_before_step": -1}',
    '{"max_norm": 0.5, "not_before_step": 0.5}',
    '{"max_norm": 0.5, "not_before_step": "0"}',
    '{"max_norm": 0.5, "not_before_step": false}',
    '{"max_norm": 0.5, "not_before_step": 1e300}',
    '{"ttl_steps": 5}',
    '{"ttl_steps": 5, "not_before_step": 5, "reason": "nothing to change"}',
    '{"max_norm": 0.5, "revert_if": true}',
    '{"max_norm": 0.5, "revert_if": {}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5}}',
    '{"max_norm": 0.5, "revert_if": {"nonfinite": true}}',
    '{"max_norm": 0.5, "revert_if": {"within": 0, "nonfinite": true}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5.5, "nonfinite": true}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "nonfinite": 1}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "nonfinite": false}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "nonfinite": true, "loss": 1}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": 0.5}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": [0.5]}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": [0.5, 0.1]}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": [0, 1.1]}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": [NaN, 1]}}',
    '{"max_norm": 0.5, "revert_if": {"within": 5, "clip_fraction": ["0", "1"]}}',
    '{"max_norm": 0.5, "ttl_steps": 4, "revert_if": {"within": 5, "nonfinite": true}}',
    '{"roll_back_to": -1}',
    '{"roll_back_to": 1}',
    '{"roll_back_to": 0.0}',
    '{"roll_back_to": "0"}',
    '{"roll_back_to": true}',
    '{"roll_back_to": 0, "max_norm": 0.5}',
    '{"roll_back_to": 0, "lr_factor": 0.5}',
    '{"roll_back_to": 0, "stop": true}',
    '{"lr_factor": 0.5}',
    '{"max_norm": 0.5, "lr_factor": true}',
    '{"max_norm": 0.5, "lr_factor": "1"}',
    '{"max_norm": 0.5, "lr_factor": NaN}',
    '{"stop": true}',
    '{"stop": 1}',
    '{"stop": "true"}',
    '{"max_norm": 0.5, "stop": []}',
    '{"max_norm": 0.5',
    "[0.5]",
    "0.5",
    "",
    "\ufeff{}",
    "[" * 100_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:40])
def test_a_bad_body_is_told_so_and_changes_nothing(server: Running, body: str) -> None:
    with trainer(server.ws, server.token) as fake:
        answer = server.rest.put(
            f"/api/v1/runs/{fake.run}/control",
            content=body.encode(),
            headers={"If-Match": '"0"', "Content-Type": "application/json"},
        )
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["message"]
        assert control(server, fake.run)["version"] == 0


@pytest.mark.parametrize("body", BAD_BODIES[:12], ids=lambda body: body[:40])
def test_a_bad_threshold_is_answered_with_the_accepted_range(server: Running, body: str) -> None:
    with trainer(server.ws, server.token) as fake:
        answer = server.rest.put(
            f"/api/v1/runs/{fake.run}/control",
            content=body.encode(),
            headers={"If-Match": '"0"', "Content-Type": "application/json"},
        )
        error = answer.json()["error"]
        assert "max_norm" in error["message"]
        assert "0.01 to 100" in error["message"]
        assert error["details"]["limits"] == {"max_norm": {"min": 0.01, "max": 100.0}}


def test_a_body_must_be_json(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        answer = server.rest.put(
            f"/api/v1/runs/{fake.run}/control", content=b"max_norm=1", headers={"If-Match": '"0"'}
        )
        assert answer.status_code == 415


def test_a_run_that_is_not_there_is_not_found(server: Running) -> None:
    for run in (new_run(), "x", "..%2f..", "%00", "a" * 5000):
        assert server.put_control(run, 0, max_norm=1.0).status_code == 404
        assert server.rest.get(f"/api/v1/runs/{run}/control").status_code == 404


def test_a_read_only_run_says_why(server: Running) -> None:
    limits = wire.Limits(why_not="the script says Control.none()")
    with trainer(server.ws, server.token, limits=limits) as fake:
        assert control(server, fake.run)["why_read_only"] == "the script says Control.none()"
        answer = server.put_control(fake.run, 0, max_norm=0.5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "read_only")


def test_a_change_may_not_go_too_far_at_once(server: Running) -> None:
    limits = wire.Limits(factor=4.0)
    with trainer(server.ws, server.token, limits=limits) as fake:
        assert server.put_control(fake.run, 0, max_norm=0.2).json()["error"]["code"] == "too_far"
        assert server.put_control(fake.run, 0, max_norm=0.25).status_code == 202


def put_with_key(server: Running, fake: FakeTrainer, key: str, value: float, version: int = 0):
    return server.rest.put(
        f"/api/v1/runs/{fake.run}/control",
        json={"max_norm": value},
        headers={"If-Match": f'"{version}"', "Idempotency-Key": key},
    )


def test_an_idempotency_key_makes_one_version_however_often_it_comes(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        answers = [put_with_key(server, fake, "k1", 0.5) for _ in range(3)]
        assert [a.status_code for a in answers] == [202] * 3
        assert {a.headers["ETag"] for a in answers} == {'"1"'}
        assert put_with_key(server, fake, "k1", 0.6, 1).json()["error"]["code"] == "key_reused"


def test_of_many_at_once_exactly_one_wins(server: Running) -> None:
    with (
        trainer(server.ws, server.token) as fake,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        for version in range(RACES):
            put = partial(server.put_control, fake.run, version)
            racing = [pool.submit(put, max_norm=1 + i / 100) for i in range(8)]
            answers = [future.result().status_code for future in racing]
            assert sorted(answers) == [202] + [412] * 7
        assert len(server.get(f"runs/{fake.run}/control/history")["versions"]) == RACES


def test_after_a_resume_the_change_is_applied_anew_and_says_so(server: Running) -> None:
    rule = (wire.Rule({"max_norm": 0.5}),)
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=0.5)
        fake.say(wire.Applied(1, 7, rule))
        fake.send(0, fake.rows([1.0] * 10))
    with trainer(server.ws, server.token, run=fake.run, resume=True) as back:
        assert back.hear(wire.Change).version == 1
        back.say(wire.Applied(1, 12, rule))
        back.send(12, back.rows([1.0]))
        events = server.get(f"runs/{fake.run}/events", kind="threshold")["events"]
        assert [e["first_step"] for e in events] == [12, 7]
        assert "again" in events[0]["text"]


def test_a_refused_change_is_no_base_for_the_next_and_never_sent_again(server: Running) -> None:
    limits = wire.Limits(factor=3.0)
    with trainer(server.ws, server.token, limits=limits) as fake:
        server.put_control(fake.run, 0, max_norm=2.0)
        fake.say(wire.Applied(1, 5, (wire.Rule({"max_norm": 2.0}),)))
        eventually(lambda: fate(server, fake.run, 1) == "applied")
        server.put_control(fake.run, 1, max_norm=6.0)
        fake.say(wire.Rejected(2, 6, "too soon"))
        eventually(lambda: fate(server, fake.run, 2) == "rejected")
        document = control(server, fake.run)
        assert (document["version"], document["status"]) == (2, "rejected")
        assert document["applied"]["values"] == {"max_norm": 2.0}
        assert server.put_control(fake.run, 2, max_norm=7.0).json()["error"]["code"] == "too_far"
        fake.send(0, fake.rows([1.0] * 10))
    with trainer(server.ws, server.token, run=fake.run, resume=True, limits=limits) as again:
        assert again.hear(wire.Change) == wire.Change(1, (wire.Rule({"max_norm": 2.0}),))
        again.say(wire.Applied(1, 10, (wire.Rule({"max_norm": 2.0}),)))
        eventually(lambda: control(server, fake.run)["applied"]["step"] == 10)
        assert server.put_control(fake.run, 2, max_norm=1.5).status_code == 202
        (newest, *_) = server.get(f"runs/{fake.run}/control/history")["versions"]
        assert (newest["version"], newest["from"]) == (3, {"max_norm": 2.0})


def test_a_trainer_started_again_is_in_force_as_its_script_says_until_it_applies(server) -> None:
    with trainer(server.ws, server.token) as fake:
        server.put_control(fake.run, 0, max_norm=4.0)
        fake.say(wire.Applied(1, 5, (wire.Rule({"max_norm": 4.0}),)))
        fake.send(0, fake.rows([1.0] * 10))
    coded = (wire.Coded("GlobalNorm", {"max_norm": 0.7}, "max_norm"),)
    with trainer(server.ws, server.token, run=fake.run, resume=True, coded=coded) as again:
        document = control(server, fake.run)
        assert document["applied"]["version"] == 0
        assert document["applied"]["values"] == {"max_norm": 0.7}
        again.hear(wire.Change)
        again.say(wire.Rejected(1, 10, "more than the factor"))
        eventually(lambda: fate(server, fake.run, 1) == "rejected")
        assert control(server, fake.run)["applied"]["values"] == {"max_norm": 0.7}
