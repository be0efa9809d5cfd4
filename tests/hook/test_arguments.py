"""Arguments that cannot work are refused at attach, by name and with what is accepted."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradhelm
from gradhelm import Control, settings, wire
from gradhelm.arguments import uuid7
from gradhelm.clip import GlobalNorm, Strategy, TargetFraction, Value
from gradhelm.errors import SettingsError
from gradhelm.settings import is_loopback, local_token

from .models import small

MODEL = small()
OTHER = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
SGD, OTHER_SGD = (
    torch.optim.SGD(part.parameters(), lr=0.1) for part in (MODEL.lstm, MODEL.decoder)
)
FROZEN = nn.Linear(2, 2).requires_grad_(False)
FROZEN_SGD = torch.optim.SGD(FROZEN.parameters(), lr=0.1)
SHARED = GlobalNorm(1.0)
COMPLEX = nn.ParameterList([torch.zeros(2, dtype=torch.complex64)])

BAD = [
    ({"model": "model"}, TypeError, r"model must be a torch.nn.Module, not str"),
    ({"optimizer": MODEL}, TypeError, r"optimizer must be one torch.optim.Optimizer.*not _Small"),
    ({"optimizer": []}, ValueError, r"optimizer is empty; accepted: one torch.optim.Optimizer"),
    ({"optimizer": [MODEL]}, TypeError, r"optimizer\['0'\] must be a torch.optim.Optimizer"),
    ({"optimizer": [OTHER, OTHER]}, ValueError, r"optimizer: the same one is given twice"),
    ({"optimizer": {"a/b": OTHER}}, ValueError, r"optimizer is a dict with the name 'a/b'"),
    ({"optimizer": {"norm": OTHER}}, ValueError, r"optimizer is a dict with the name 'norm'"),
    ({"optimizer": {3: OTHER}}, ValueError, r"optimizer is a dict with the name 3"),
    ({"optimizer": OTHER}, ValueError, r"optimizer holds none of the model's parameters"),
    ({"model": FROZEN}, ValueError, r"model has no trainable parameters"),
    ({"model": FROZEN, "optimizer": FROZEN_SGD}, ValueError, r"optimizer holds no trainable"),
    ({"model": nn.Module()}, ValueError, r"model has no trainable parameters"),
    ({"model": nn.LazyLinear(3)}, ValueError, r"model is lazy: weight"),
    *(
        ({"max_norm": value}, ValueError, r"max_norm must be a finite number above 0")
        for value in (0, 0.0, -1, math.nan, math.inf, -math.inf)
    ),
    *(
        ({"max_norm": value}, TypeError, r"max_norm must be a finite number above 0, not")
        for value in (True, "1.0", [1.0], 1j)
    ),
    ({"max_norm": 1.0, "clip": GlobalNorm(1.0)}, ValueError, r"clip and max_norm are both given"),
    ({"clip": GlobalNorm}, TypeError, r"clip must be a gradhelm.clip strategy, such as GlobalNorm"),
    ({"clip": "max_norm"}, TypeError, r"clip must be a gradhelm.clip strategy.*not str"),
    ({"clip": {}}, ValueError, r"clip is empty; accepted: at least one pattern"),
    ({"clip": []}, ValueError, r"clip is empty"),
    ({"clip": {"*": 1.0}}, TypeError, r"clip\['\*'\] must be a gradhelm.clip strategy, not float"),
    ({"clip": {"": GlobalNorm(1.0)}}, ValueError, r"clip: '' is no pattern of parameter names"),
    ({"clip": {3: GlobalNorm(1.0)}}, ValueError, r"clip: 3 is no pattern of parameter names"),
    (
        {"clip": {"no.such.*": GlobalNorm(1.0)}},
        ValueError,
        r"clip: the pattern 'no.such.\*' matches no parameter; there are embedding.weight, lstm",
    ),
    (
        {"clip": {"*": GlobalNorm(1.0), "lstm.*": GlobalNorm(2.0)}},
        ValueError,
        r"clip: all that the pattern 'lstm.\*' matches falls under an earlier pattern",
    ),
    ({"clip": {"a": SHARED, "b": SHARED}}, ValueError, r"clip: the same strategy stands twice"),
    (
        {"optimizer": {"a": SGD, "b": OTHER_SGD}, "clip": {"a": SHARED, "b": SHARED}},
        ValueError,
        r"clip: the same strategy stands twice; each optimizer needs its own",
    ),
    ({"clip": [GlobalNorm(1.0)]}, ValueError, r"clip is a list of 1 strategies.*has 0 groups"),
    (
        {"model": COMPLEX, "clip": Value(1.0)},
        ValueError,
        r"Value cannot clip the complex gradients of 0",
    ),
    ({"name": ""}, ValueError, r"name must be 1 to 200 printable"),
    ({"name": "x" * 201}, ValueError, r"name must be 1 to 200 printable"),
    ({"name": "a\x1b[0m"}, ValueError, r"name must be 1 to 200 printable"),
    ({"name": "\ud800"}, ValueError, r"name must be 1 to 200 printable"),
    ({"name": 3}, TypeError, r"name must be text, not int"),
    ({"project": ""}, ValueError, r"project must be 1 to 200 printable"),
    ({"config": "lr=1"}, TypeError, r"config must be a dict, not str"),
    ({"config": {"a": "\ud800"}}, ValueError, r"config cannot be written as JSON"),
    ({"config": {"a": "x" * 70_000}}, ValueError, r"config is 700\d\d characters of JSON"),
    ({"tags": "one"}, TypeError, r"tags must be a list of str, not str"),
    ({"tags": 3}, TypeError, r"tags must be a list of str, not int"),
    ({"tags": [""]}, ValueError, r"tags must be 1 to 200"),
    ({"tags": ["t"] * 65}, ValueError, r"tags are 65; at most 64"),
    ({"server": "127.0.0.1:8642"}, ValueError, r"server is '127.0.0.1:8642'; accepted: an http"),
    ({"server": "ftp://x"}, ValueError, r"server is"),
    ({"server": "http://"}, ValueError, r"server is"),
    ({"server": "http://x:99999"}, ValueError, r"server is"),
    ({"server": 8642}, TypeError, r"server must be an http or https URL, not int"),
    ({"token": "a\nb"}, TypeError, r"token must be a str of printable"),
    ({"token": 3}, TypeError, r"token must be"),
    ({"control": {"min": 1}}, TypeError, r"control must be a gradhelm.Control or None, not dict"),
    ({"control": Control(min=1.0)}, ValueError, r"control without max_norm"),
    ({"max_norm": 1.0, "control": Control(min=2.0)}, ValueError, r"1.0 is outside 2.0..100.0"),
    ({"every": 0}, ValueError, r"every must be at least 1, not 0"),
    ({"every": 1.0}, TypeError, r"every must be an int, not float"),
    ({"every": True}, TypeError, r"every must be an int, not bool"),
    ({"start_step": -1}, ValueError, r"start_step must be at least 0"),
    ({"spool": "/tmp"}, TypeError, r"spool must be True, False or None, not str"),
    ({"spool": False, "mode": "offline"}, ValueError, r"spool=False leaves an offline run nowhere"),
    ({"mode": "away"}, ValueError, r"mode is 'away'; accepted: 'online', 'offline', 'disabled'"),
    ({"run_id": "abc"}, ValueError, r"run_id is 'abc'; accepted: a UUIDv7"),
    ({"run_id": 3}, TypeError, r"run_id must be a UUIDv7"),
    ({"run_id": "01912d68-783e-4a03-8467-5661c1243ad4"}, ValueError, r"run_id is"),
    ({"resume": True}, ValueError, r"resume=True needs run_id"),
    ({"resume": 1}, TypeError, r"resume must be True or False"),
]


@pytest.mark.parametrize(("options", "kind", "text"), BAD, ids=[str(o)[:60] for o, _, _ in BAD])
def test_a_bad_argument_is_refused_by_name(options, kind, text):
    arguments = {"model": MODEL, "mode": "disabled", **options}
    with pytest.raises(kind, match=text):
        gradhelm.attach(arguments.pop("model"), **arguments)


def test_ids_are_uuid7_in_the_order_of_time():
    ids = [uuid7() for _ in range(1000)]
    assert len(set(ids)) == 1000
    shape = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert all(re.fullmatch(shape, one) for one in ids)
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)


def test_the_default_name_is_the_script_and_the_date(monkeypatch):
    from gradhelm.arguments import default_name

    for argv, stem in (("a/train.py", "train"), ("-c", "python"), ("x/pkg/__main__.py", "pkg")):
        monkeypatch.setattr(sys, "argv", [argv])
        assert re.fullmatch(rf"{stem} \d{{4}}-\d\d-\d\d \d\d:\d\d", default_name())


def test_settings_come_from_the_environment_with_defaults():
    bare = settings.read({})
    assert (bare.server, bare.mode, bare.control) == ("http://127.0.0.1:8642", "online", True)
    assert bare.home == Path("~/.gradhelm").expanduser()
    assert set(settings.TABLE) == {
        "GRADHELM_SERVER",
        "GRADHELM_TOKEN",
        "GRADHELM_MODE",
        "GRADHELM_HOME",
        "GRADHELM_CONTROL",
        "GRADHELM_SPOOL",
        "GRADHELM_INSECURE",
    }
    assert bare.spool == Path("~/.gradhelm/spool").expanduser()
    told = settings.read({"GRADHELM_CONTROL": "OFF", "GRADHELM_HOME": "/x", "GRADHELM_MODE": ""})
    assert (told.control, told.home, told.mode) == (False, Path("/x"), "online")
    assert told.spool == Path("/x/spool")
    assert settings.read({"GRADHELM_SPOOL": "/y"}).spool == Path("/y")
    accepted = "accepted: online, offline, disabled"
    with pytest.raises(SettingsError, match=f"GRADHELM_MODE is 'loud'; {accepted}"):
        settings.read({"GRADHELM_MODE": "loud"})


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8642", True),
        ("http://127.8.0.1", True),
        ("http://localhost:1", True),
        ("http://[::1]:8642", True),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://helm.example", False),
        ("http://0.0.0.0:8642", False),
    ],
)
def test_the_local_token_never_leaves_this_machine(url, here, tmp_path):
    (tmp_path / "token").write_text("gh_local\nsecond line\n")
    assert is_loopback(url) is here
    assert local_token(url, tmp_path) == ("gh_local" if here else "")
    assert local_token(url, tmp_path / "nowhere") == ""


def test_the_local_token_is_used_when_none_is_given(server, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADHELM_HOME", str(tmp_path))
    (tmp_path / "token").write_text("gh_local\n")
    gradhelm.attach(small(), server=server.url).close()
    monkeypatch.setenv("GRADHELM_TOKEN", "gh_env")
    gradhelm.attach(small(), server=server.url).close()
    gradhelm.attach(small(), server=server.url, token="gh_given").close()
    assert server.headers == ["Bearer gh_local", "Bearer gh_env", "Bearer gh_given"]


class Halve(Strategy):
    """A user's own: multiplies by a half what is above the threshold."""

    threshold_name = "above"

    def __init__(self, above: float) -> None:
        super().__init__(above=above)

    def clip(self, grads):
        limit = self["above"]
        return grads.by_norm(limit, torch.tensor(0.5 if grads.global_norm > limit else 1.0))


def test_a_strategy_of_the_users_own_is_steered_like_ours(server):
    model = small()
    run = gradhelm.attach(model, clip=Halve(2.0), server=server.url)
    server.say(wire.Change(1, (wire.Rule({"above": 3.0}),)))
    server.wait(lambda: server.of(wire.Delivered))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    run.clip()
    run.close()
    (coded,) = server.hello.coded
    assert (coded.strategy, coded.threshold) == ("Halve", "above")
    assert server.table()[0]["threshold"] == 3.0
    assert model.decoder.bias.grad.eq(0.5).all()


class Forgetful(Strategy):
    """A user's own that forgets to say what it did."""

    def clip(self, grads):
        pass


def test_a_strategy_that_returns_no_outcome_is_told_so():
    model = small()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(TypeError, match=r"Forgetful\.clip must return an Outcome, not NoneType"):
        gradhelm.attach(model, clip=Forgetful(), mode="disabled").clip()


def test_the_coded_value_is_always_within_reach(server):
    model = small()
    with gradhelm.attach(model, clip=TargetFraction(0.995), server=server.url):
        server.wait(lambda: server.connections)
    (coded,) = server.hello.coded
    assert coded.limits["fraction"].max == 0.995
