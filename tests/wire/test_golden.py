"""Every message has the bytes it had when it was defined, and those bytes still mean it."""

from __future__ import annotations

import typing

import msgspec
import pytest

from gradhelm import wire

from .examples import FROM_SERVER, FROM_TRAINER, GOLDEN, page, unpage

ALL = {**FROM_TRAINER, **FROM_SERVER}


@pytest.mark.parametrize("name", ALL)
def test_a_message_has_its_golden_bytes(name):
    assert page(wire.encode(ALL[name])) == (GOLDEN / f"{name}.hex").read_text()


@pytest.mark.parametrize("name", FROM_TRAINER)
def test_golden_bytes_from_a_trainer_mean_the_message(name):
    data = unpage((GOLDEN / f"{name}.hex").read_text())
    assert wire.decode_from_trainer(data) == FROM_TRAINER[name]


@pytest.mark.parametrize("name", FROM_SERVER)
def test_golden_bytes_from_a_server_mean_the_message(name):
    data = unpage((GOLDEN / f"{name}.hex").read_text())
    assert wire.decode_from_server(data) == FROM_SERVER[name]


@pytest.mark.parametrize(
    ("union", "examples"), [(wire.ToServer, FROM_TRAINER), (wire.ToTrainer, FROM_SERVER)]
)
def test_every_kind_of_message_has_an_example(union, examples):
    assert set(typing.get_args(union)) == {type(message) for message in examples.values()}


def test_there_is_no_golden_file_without_a_message():
    assert {path.stem for path in GOLDEN.iterdir()} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_fields_that_a_reader_does_not_know_are_ignored(name):
    known = msgspec.msgpack.decode(wire.encode(ALL[name]))
    data = msgspec.msgpack.encode({**known, "from_the_future": [1, {"a": None}]})
    decode = wire.decode_from_trainer if name in FROM_TRAINER else wire.decode_from_server
    assert decode(data) == ALL[name]


def test_each_close_code_has_its_words():
    assert set(wire.CLOSE_REASONS) == set(wire.CloseCode)
    assert set(wire.CloseCode) >= wire.FINAL_CLOSES
    assert all(4000 <= code < 5000 for code in wire.CloseCode)
