"""The trainers' socket: stored once, acknowledged after, and nothing bad ends a good connection."""

from __future__ import annotations

import secrets
import sqlite3

import msgspec
import numpy as np
import pytest
from support import Running, eventually
from trainer import FakeTrainer, new_run, trainer
from websockets.exceptions import ConnectionClosed

from gradhelm import wire
from gradhelm_server.ingest import sorted_out


def count(server: Running, run: str) -> int:
    with sqlite3.connect(server.home / "gradhelm.db") as database:
        (steps,) = database.execute(
            "SELECT coalesce(sum(steps), 0) FROM frames WHERE run_id = ?", (run,)
        ).fetchone()
    return steps


def test_an_acknowledged_frame_is_in_the_database(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0, 2.0]))
        assert count(server, fake.run) == 2


def test_a_frame_sent_twice_is_stored_once_and_acknowledged_again(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        frame = fake.frame(0, fake.rows([1.0, 2.0]))
        for _ in range(3):
            fake.say(frame)
            assert fake.hear(wire.Ack) == wire.Ack(1)
        assert count(server, fake.run) == 2
        assert server.get(f"runs/{fake.run}")["steps"] == 2


def test_a_skipped_number_is_asked_for_once_and_then_all_is_stored(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        frames = [fake.frame(10 * i, fake.rows([1.0] * 10)) for i in range(4)]
        fake.say(frames[0])
        fake.hear(wire.Ack)
        fake.say(frames[2])
        fake.say(frames[3])
        assert fake.hear(wire.Resend) == wire.Resend(2)
        for frame in frames[1:]:
            fake.say(frame)
        while fake.hear(wire.Ack).seq < 4:
            pass
        assert sum(isinstance(m, wire.Resend) for m in fake.heard) == 1
        assert count(server, fake.run) == 40


@pytest.mark.parametrize(
    ("numbers", "known", "fresh", "early"),
    [
        ((3, 4), False, [3, 4], False),
        ((1, 2, 3), True, [3], False),
        ((4, 5), False, [], True),
        ((3, 5), False, [3], True),
        ((5, 3, 4, 5), False, [3, 4, 5], False),  # what was asked for, behind what came too early
        ((2, 5, 3), True, [3], True),
        ((3, 3, 4, 4), False, [3, 4], False),
        ((), False, [], False),
    ],
)
def test_a_record_takes_its_turn_whatever_came_before_it(
    numbers: tuple[int, ...], known: bool, fresh: list[int], early: bool
) -> None:
    records = [wire.Gap(number, 0, 0, 1, "lost") for number in numbers]
    found = sorted_out(records, 2)
    assert (found[0], [record.seq for record in found[1]], found[2]) == (known, fresh, early)


def test_who_comes_back_is_told_where_to_go_on(server: Running) -> None:
    segment = secrets.token_hex(8)
    with trainer(server.ws, server.token, segment=segment) as fake:
        fake.send(0, fake.rows([1.0] * 5))
        fake.send(5, fake.rows([1.0] * 5))
    with trainer(server.ws, server.token, run=fake.run, segment=segment) as again:
        assert again.seq == 2
        again.send(10, again.rows([1.0]))
    assert count(server, fake.run) == 11


BAD_FRAMES = {
    "values of the wrong length": lambda f: msgspec.structs.replace(f, values=f.values[:-4]),
    "times of the wrong length": lambda f: msgspec.structs.replace(f, times=f.times[:-8]),
    "no steps at all": lambda f: msgspec.structs.replace(f, steps=b"", times=b"", values=b""),
    "wrong CRC": lambda f: msgspec.structs.replace(f, crc=f.crc ^ 1),
    "not declared": lambda f: msgspec.structs.replace(f, group=7),
    "steps must increase": lambda f: wire.pack_frame(
        f.seq, 0, 0, np.array([3, 3], "u8"), np.zeros(2), np.zeros((2, 8), np.float32)
    ),
    "below 2^53": lambda f: wire.pack_frame(
        f.seq, 0, 0, np.array([2, 2**53], "u8"), np.zeros(2), np.zeros((2, 8), np.float32)
    ),
    "times must be finite": lambda f: wire.pack_frame(
        f.seq, 0, 0, np.array([2, 3], "u8"), np.full(2, np.nan), np.zeros((2, 8), np.float32)
    ),
    "comes after step": lambda f: wire.pack_frame(
        f.seq, 0, 0, np.array([0, 1], "u8"), np.zeros(2), np.zeros((2, 8), np.float32)
    ),
}


@pytest.mark.parametrize("reason", BAD_FRAMES)
def test_a_bad_frame_is_refused_with_its_reason_and_declared_missing(server, reason) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0, 1.0]))
        bad = BAD_FRAMES[reason](fake.frame(2, fake.rows([1.0, 1.0])))
        fake.say(bad)
        refused = fake.hear(wire.Refused)
        assert refused.seq == 2
        words = {
            "values of the wrong length": "expected 2 steps x 8 columns",
            "times of the wrong length": "expected 16",
            "no steps at all": "expected a positive multiple of 8",
        }
        assert words.get(reason, reason) in refused.reason
        assert fake.hear(wire.Ack).seq == 2
        fake.send(4, fake.rows([1.0]))  # the connection lives
        gaps = server.get(f"runs/{fake.run}/events", kind="gap")["events"]
        assert [refused.reason in gap["text"] for gap in gaps] == [True]
        assert server.get(f"runs/{fake.run}")["steps"] == 3


BAD_MESSAGES = {
    "empty": b"",
    "not msgpack": b"\xc1",
    "an array": b"\x93\x01\x02\x03",
    "four thousand million items": b"\xdf\xff\xff\xff\xff",
    "deeply nested": b"\x91" * 10_000,
    "text": '{"type": "heartbeat"}',
    "unknown type": msgspec.msgpack.encode({"type": "explode"}),
    "negative seq": msgspec.msgpack.encode(
        {"type": "gap", "seq": -1, "first": 0, "last": 0, "count": 1, "reason": "x"}
    ),
    "seq of 2^53": msgspec.msgpack.encode(
        {"type": "gap", "seq": 2**53, "first": 0, "last": 0, "count": 1, "reason": "x"}
    ),
    "seq as float": msgspec.msgpack.encode(
        {"type": "gap", "seq": 1.5, "first": 0, "last": 0, "count": 1, "reason": "x"}
    ),
    "seq as bool": msgspec.msgpack.encode(
        {"type": "gap", "seq": True, "first": 0, "last": 0, "count": 1, "reason": "x"}
    ),
    "an extension type": msgspec.msgpack.encode(
        {"type": "gap", "seq": msgspec.msgpack.Ext(1, b"x")}
    ),
    "invalid UTF-8": b"\x81\xa4type\xa2\xff\xfe",
    "a second hello": wire.encode(
        wire.Hello(new_run(), "0" * 16, "n", "p", (wire.Coded("s", {}),), wire.Limits())
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_an_unreadable_message_is_refused_and_the_connection_lives(server, name) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.say(BAD_MESSAGES[name])
        refused = fake.hear(wire.Refused)
        assert refused.seq is None
        assert refused.reason
        fake.send(0, fake.rows([1.0]))


def test_too_much_garbage_ends_the_connection(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(100):
                fake.say(b"\xc1")
                fake.hear(wire.Refused)
        assert closed.value.rcvd.code == wire.CloseCode.BAD_MESSAGE


def test_an_oversize_message_ends_only_its_own_connection(server: Running) -> None:
    with trainer(server.ws, server.token) as good, trainer(server.ws, server.token) as fake:
        with pytest.raises(ConnectionClosed) as closed:
            fake.say(b"\x00" * (wire.MAX_MESSAGE + 1))
            fake.hear(wire.Ack)
        assert closed.value.rcvd.code == 1009
        good.send(0, good.rows([1.0]))


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (wire.Heartbeat(0, {}), wire.CloseCode.BAD_MESSAGE),
        (b"\xc1", wire.CloseCode.BAD_MESSAGE),
        (
            wire.Hello(
                new_run(), "0" * 16, "n", "p", (wire.Coded("s", {}),), wire.Limits(), protocol=99
            ),
            wire.CloseCode.SPEAK_NEWER,
        ),
    ],
)
def test_the_first_message_must_be_a_hello_of_this_protocol(server, first, code) -> None:
    with trainer(server.ws, server.token, hello=False) as fake:
        fake.say(first)
        with pytest.raises(ConnectionClosed) as closed:
            fake.hear(wire.Welcome)
        assert closed.value.rcvd.code == code


def test_a_run_id_that_exists_is_not_taken_over_by_accident(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
    with trainer(server.ws, server.token, hello=False, run=fake.run) as other:
        with pytest.raises(ConnectionClosed) as closed:
            other.hello()
        assert closed.value.rcvd.code == wire.CloseCode.RUN_IS_TAKEN


def test_of_two_writers_the_newer_wins(server: Running) -> None:
    with trainer(server.ws, server.token) as old:
        old.send(0, old.rows([1.0]))
        with trainer(server.ws, server.token, run=old.run, resume=True) as new:
            new.send(1, new.rows([1.0]))
            with pytest.raises(ConnectionClosed) as closed:
                old.hear(wire.Change)
            assert closed.value.rcvd.code == wire.CloseCode.REPLACED
            new.send(2, new.rows([1.0]))


BAD_COLUMNS = {
    "a hole": (wire.Columns(1, 5, (wire.Column("x", "log"),)), "declared so far"),
    "others than before": (wire.Columns(0, 0, (wire.Column("x", "log"),)), "other columns"),
    "twice": (
        wire.Columns(1, 0, (wire.Column("x", "log"), wire.Column("x", "log"))),
        "stands twice",
    ),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_columns_that_contradict_are_refused(server, name) -> None:
    message, words = BAD_COLUMNS[name]
    with trainer(server.ws, server.token) as fake:
        fake.say(message)
        assert words in fake.hear(wire.Refused).reason
        fake.send(0, fake.rows([1.0]))


def test_columns_may_be_added_in_a_group_of_their_own(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0] * 3))
        fake.say(wire.Columns(1, 0, (wire.Column("loss", "log"),)))
        fake.seq += 1
        fake.say(
            wire.pack_frame(
                fake.seq,
                1,
                0,
                np.array([1, 2], "u8"),
                np.zeros(2),
                np.array([[0.5], [0.25]], np.float32),
            )
        )
        fake.hear(wire.Ack)
        found = server.get(f"runs/{fake.run}/series", columns="loss,global_norm")["columns"]
        assert found["loss"]["step"] == [1, 2]
        assert found["loss"]["mean"] == [0.5, 0.25]
        assert found["global_norm"]["step"] == [0, 1, 2]


def test_names_are_stored_as_they_are_however_hostile(server: Running) -> None:
    names = ["<img src=x onerror=alert(1)>", "__proto__", "a,b", "=1+1", "\x1b[2J", "אב\u202egpj"]
    with trainer(server.ws, server.token, layers=names, name=names[0]) as fake:
        fake.send(0, fake.rows([1.0]))
        shown = server.get(f"runs/{fake.run}/parameters")["parameters"]
        assert [parameter["name"] for parameter in shown] == names
        found = server.get(f"runs/{fake.run}/series", columns="norm/a,b")["columns"]
        assert list(found) == ["norm/a,b"]


def test_declared_gaps_are_told(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        fake.seq += 1
        fake.say(wire.Gap(fake.seq, 1, 9, 9, "ring full"))
        assert fake.hear(wire.Ack).seq == fake.seq
        (gap,) = server.get(f"runs/{fake.run}/events", kind="gap")["events"]
        assert (gap["first_step"], gap["last_step"], gap["count"]) == (1, 9, 9)
        assert gap["text"] == "ring full"


def test_the_trainer_is_told_to_hurry_while_somebody_watches(server: Running) -> None:
    from websockets.sync.client import connect

    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        with connect(
            f"{server.ws}/api/v1/runs/{fake.run}/live",
            additional_headers={"Authorization": f"Bearer {server.token}"},
            proxy=None,
        ):
            assert fake.hear(wire.Pace) == wire.Pace(100)
        assert fake.hear(wire.Pace) == wire.Pace(1000)


def test_counters_and_events_follow_the_frames(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        norms = [0.5] * 40 + [3.0, 0.5, 4.0] + [0.5] * 30 + [float("nan")]
        fake.send(0, fake.rows(norms[:41]))
        fake.send(41, fake.rows(norms[41:]))
        run = server.get(f"runs/{fake.run}")
        assert (run["steps"], run["nonfinite"]) == (len(norms), 1)
        assert run["clip_fraction"] == pytest.approx(2 / len(norms))
        assert run["global_norm"] is None
        (burst,) = server.get(f"runs/{fake.run}/events", kind="clip_burst")["events"]
        assert (burst["first_step"], burst["last_step"], burst["count"]) == (40, 42, 2)
        assert (burst["peak_step"], burst["peak_norm"]) == (42, 4.0)
        (spike,) = server.get(f"runs/{fake.run}/events", kind="spike")["events"]
        assert spike["first_step"] == 40
        (bad,) = server.get(f"runs/{fake.run}/events", kind="nonfinite")["events"]
        assert bad["parameter"] == "a.weight"


def test_a_finish_is_confirmed_and_ends_the_run(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        fake.say(wire.Finish("failed", 0, "ValueError: boom"))
        fake.hear(wire.Finished)
        run = server.get(f"runs/{fake.run}")
        assert (run["status"], run["status_reason"]) == ("failed", "ValueError: boom")


def test_nothing_is_acknowledged_that_could_not_be_stored(server: Running, monkeypatch) -> None:
    """The disk fails under one frame: the trainer is sent away, comes back, and loses nothing."""
    from gradhelm_server import recorder

    segment = secrets.token_hex(8)
    with trainer(server.ws, server.token, segment=segment) as fake:
        fake.send(0, fake.rows([1.0] * 20))
        with monkeypatch.context() as patch:

            def full(*_: object) -> bytes:
                raise OSError("No space left on device")

            patch.setattr(recorder, "pack_payload", full)
            fake.say(fake.frame(20, fake.rows([1.0] * 20)))
            with pytest.raises(ConnectionClosed) as closed:
                fake.hear(wire.Ack)
            assert closed.value.rcvd.code == wire.CloseCode.TRY_LATER
    with trainer(server.ws, server.token, run=fake.run, segment=segment) as again:
        assert again.seq == 1
        again.send(20, again.rows([1.0] * 20))
    assert count(server, fake.run) == 40
    assert server.get(f"runs/{fake.run}")["steps"] == 40


def test_a_commit_that_fails_takes_nothing_for_stored(server: Running, monkeypatch) -> None:
    """Frames queued behind a failed commit must not slip past the one that was lost."""
    from sqlalchemy import event

    segment = secrets.token_hex(8)
    failing = []

    def fail_once(_connection: object) -> None:
        if failing:
            failing.clear()
            raise OSError("disk I/O error")

    event.listen(server.store._writer, "commit", fail_once)
    try:
        with trainer(server.ws, server.token, segment=segment) as fake:
            fake.send(0, fake.rows([1.0]))
            frames = [fake.frame(1 + i, fake.rows([1.0])) for i in range(10)]
            failing.append(True)
            with pytest.raises(ConnectionClosed):
                for frame in frames:
                    fake.say(frame)
                while True:
                    fake.hear(wire.Ack)
    finally:
        event.remove(server.store._writer, "commit", fail_once)

    def resend() -> FakeTrainer | None:
        with trainer(server.ws, server.token, run=fake.run, segment=segment) as again:
            for frame in frames[again.seq - 1 :]:
                again.say(frame)
            while again.hear(wire.Ack).seq < 11:
                pass
            return again

    eventually(resend)
    assert count(server, fake.run) == 11
    found = server.get(f"runs/{fake.run}/series", columns="global_norm")["columns"]
    assert found["global_norm"]["step"] == list(range(11))


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "Expected `float`"), (float("inf"), "Expected `float`")],
)
def test_a_hello_with_numbers_that_are_none_is_not_welcomed(server, value, words) -> None:
    with trainer(server.ws, server.token, hello=False) as fake:
        with pytest.raises(ConnectionClosed) as closed:
            limits = {"max_norm": wire.Limit(0.1, value)}
            fake.hello(coded=(wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limits),))
        assert closed.value.rcvd.code == wire.CloseCode.BAD_MESSAGE
        assert words in closed.value.rcvd.reason
