"""The link: what was produced is delivered or declared, whatever the network does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
import torch
from support import eventually

import gradhelm
from gradhelm import dial, link, wire
from gradhelm.cargo import declared
from gradhelm.outbox import Outbox

from .fake_server import LIMIT, FakeServer, free_port
from .models import one_step, small


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    """Reconnects at once, so that no test waits for a back-off."""
    monkeypatch.setattr(link, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(link, "LAST_DELAY", 0.05)
    monkeypatch.setattr(link, "REFUSED_DELAY", 0.05)


def steps(run: gradhelm.Run, model, count: int) -> None:
    for _ in range(count):
        one_step(model)
        run.clip()


def until(true: Callable[[], object]) -> None:
    """Waits for what only the hook itself knows."""
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, "never came"
        threading.Event().wait(0.002)


def told(server: FakeServer) -> list[int]:
    """Steps delivered or declared, each as often as it was."""
    delivered = [step for step, _, _ in server.rows()]
    declared = [step for gap in server.gaps() for step in range(gap.first, gap.last + 1)]
    return sorted(delivered + declared)


def test_hello_says_who_is_here_and_columns_what_comes(server):
    model = small()
    run = gradhelm.attach(
        model,
        max_norm=2.0,
        server=server.url,
        token="secret",
        name="a name",
        project="p",
        config={"lr": 0.1, "nan": float("nan"), "path": object},
        tags=["a", "b"],
        start_step=7,
    )
    steps(run, model, 3)
    run.log(loss=1.5)
    run.close()
    hello = server.hello
    assert (hello.run, hello.name, hello.project) == (run.id, "a name", "p")
    assert hello.tags == ("a", "b")
    assert hello.config.startswith('{"lr":0.1,"nan":null,"path":"<class')
    limits = {"max_norm": wire.Limit(0.02, 200.0)}
    assert hello.coded == (wire.Coded("GlobalNorm", {"max_norm": 2.0}, "max_norm", limits),)
    assert hello.limits == wire.Limits()
    assert not hello.resume
    assert server.headers == ["Bearer secret"]
    weight = next(c for c in server.columns[0] if c.name == "norm/decoder.weight")
    assert weight == wire.Column("norm/decoder.weight", "norm", (20, 12), "float32")
    assert server.columns[1] == [wire.Column("loss", "log")]
    assert sorted(server.table()) == [7, 8, 9]
    assert run.url == f"{server.url}/runs/{run.id}"
    assert server.of(wire.Heartbeat)[-1].step == 9
    assert set(server.of(wire.Heartbeat)[-1].stats) == set(run.stats())
    assert server.of(wire.Finish) == [wire.Finish("finished", 9)]


def test_observing_says_that_there_is_no_threshold(server):
    run = gradhelm.attach(small(), server=server.url)
    assert server.hello.coded == (wire.Coded("Observe", {}),)
    assert "only observes" in (server.hello.limits.why_not or "")
    run.close()


def test_wide_runs_travel_in_several_groups_and_small_messages(server, monkeypatch):
    monkeypatch.setattr("gradhelm.run.MAX_GROUP", 50)
    model = torch.nn.ParameterList([torch.zeros(2) for _ in range(120)])
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    for step in range(3):
        for i, p in enumerate(model):
            p.grad = torch.full((2,), float(i * step))
        run.clip()
    run.log(loss=1.0)
    run.close()
    assert [len(server.columns[group]) for group in range(4)] == [50, 50, 28, 1]
    assert server.table(2)[2]["norm/119"] == pytest.approx(119 * 2 * 2**0.5)
    assert server.table(1)[2]["norm/60"] == pytest.approx(60 * 2 * 2**0.5)


def test_columns_of_a_wide_group_are_cut_into_messages_that_fit():
    columns = tuple(
        wire.Column("norm/" + f"{i:05d}" * 40, "norm", (1, 2, 3), "float32") for i in range(3000)
    )
    pieces = list(declared(7, columns, "gen"))
    assert [column for piece in pieces for column in piece.columns] == list(columns)
    assert [piece.first for piece in pieces] == [
        sum(len(piece.columns) for piece in pieces[:i]) for i in range(len(pieces))
    ]
    assert {(piece.group, piece.stream) for piece in pieces} == {(7, "gen")}
    assert max(len(wire.encode(piece)) for piece in pieces) < wire.MAX_MESSAGE


def test_a_lost_connection_costs_nothing_and_one_warning(server, caplog):
    caplog.set_level("INFO", "gradhelm")
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    for round_ in range(4):
        steps(run, model, 25)
        # A connection counts as good once something was acknowledged over it.
        server.wait(lambda round_=round_: len(told(server)) == 25 * (round_ + 1))
        eventually(lambda: run.stats()["unsent"] == 0)
        server.hang_up()
    steps(run, model, 25)
    run.close()
    assert told(server) == list(range(125))
    assert server.gaps() == []
    segments = {hello.segment for hello in server.of(wire.Hello)}
    assert len(segments) == 1
    assert caplog.text.count("is back") == caplog.text.count("cannot reach") == 4


def test_a_server_that_stores_nothing_is_tried_ever_less_often_and_named_once(
    server, caplog, monkeypatch
):
    """Such as one whose disk is full: it welcomes, fails, and hangs up with its reason."""
    caplog.set_level("INFO", "gradhelm")
    delays, rest = [], link.Link._rest

    def short_rest(self, seconds):
        delays.append(seconds)
        rest(self, seconds / 100)

    monkeypatch.setattr(link, "FIRST_DELAY", 0.25)
    monkeypatch.setattr(link, "LAST_DELAY", 15.0)
    monkeypatch.setattr(link.Link, "_rest", short_rest)
    server.acks = False
    server.on_hello = lambda fake, _: fake.hang_up(wire.CloseCode.TRY_LATER)
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 5)
    server.wait(lambda: server.connections >= 6)
    server.on_hello = None
    server.acks = True
    server.wait(lambda: told(server) == list(range(5)))
    run.close()
    assert delays[4] > 4 * delays[0]  # doubled four times, whatever the jitter
    assert caplog.text.count("cannot reach") == 1
    assert wire.CLOSE_REASONS[wire.CloseCode.TRY_LATER] in caplog.text
    assert caplog.text.count("is back") == 1


def test_what_was_not_acknowledged_is_sent_again_with_the_same_numbers(server):
    server.acks = False
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 10)
    server.wait(lambda: server.of(wire.Frame))
    unacknowledged = server.of(wire.Frame)[0]
    server.acks = True
    server.hang_up()
    steps(run, model, 10)
    run.close()
    assert server.of(wire.Frame).count(unacknowledged) == 2
    assert told(server) == list(range(20))


def test_resend_sends_again_from_the_number_asked_for(server):
    server.acks = False
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 3)
    server.wait(lambda: server.of(wire.Frame))
    server.acks = True
    server.say(wire.Resend(1))
    run.close()
    assert told(server) == [0, 1, 2]


def test_a_server_that_was_set_back_gets_a_new_segment(server):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 5)
    until(lambda: run._link.outbox.acked)
    server.high.clear()
    server.hang_up()
    steps(run, model, 5)
    run.close()
    first, *_, last = server.of(wire.Hello)
    assert first.segment != last.segment
    assert set(told(server)) == set(range(10))


def test_a_small_window_still_delivers_everything(server):
    server.window = 1
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 50)
    run.log(loss=1.0)
    run.close()
    assert told(server) == list(range(50))
    assert server.logged() == {49: {"loss": 1.0}}


def test_an_outage_longer_than_the_outbox_is_declared(server, monkeypatch):
    server.status = 503
    model = small()
    monkeypatch.setattr(link, "Outbox", lambda: Outbox(budget=4000))
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    monkeypatch.setattr(run._link, "_pace", 0.01)
    outbox = run._link.outbox
    done = 0
    while not outbox.rows_shed:
        steps(run, model, 1)
        done += 1
    server.status = None
    server.wait(lambda: server.connections)
    run.close()
    assert told(server) == list(range(done))
    assert {gap.reason for gap in server.gaps()} == {"outbox full"}
    assert run.stats()["dropped"] == sum(gap.count for gap in server.gaps())


def test_a_full_ring_is_declared(server):
    server.status = 503
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.wait(lambda: server.headers)
    (stream,) = run.streams.values()
    ring = stream.recorder
    real, ring.batches = ring.batches, lambda *_: iter(())
    one_step(model)
    for _ in range(ring.capacity + 10):
        stream.count(None)
    ring.batches = real
    until(lambda: not len(ring))
    steps(run, model, 1)
    server.status = None
    server.wait(lambda: server.connections)
    run.close()
    (gap,) = server.gaps()
    assert gap.reason == "ring full"
    assert (gap.first, gap.last, gap.count) == (ring.capacity, ring.capacity + 9, 10)
    assert told(server) == list(range(ring.capacity + 11))


@pytest.mark.parametrize("code", sorted(wire.FINAL_CLOSES))
def test_a_final_goodbye_is_not_argued_with(server, code, caplog):
    model = small()
    server.on_hello = lambda server, _: server.hang_up(code)
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    run._link._thread.join(10)
    assert not run._link._thread.is_alive()
    steps(run, model, 3)
    run.close()
    assert server.connections == 1
    assert wire.CLOSE_REASONS[wire.CloseCode(code)] in caplog.text
    assert model.decoder.bias.grad.max() < 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_said_once_and_tried_again(server, status, caplog):
    server.status = status
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url, token="wrong")
    steps(run, model, 3)
    server.wait(lambda: len(server.headers) > 2)
    server.status = None
    run.close()
    assert caplog.text.count("refused the token") == 1
    assert told(server) == [0, 1, 2]


def test_refusals_and_unknown_messages_do_not_end_the_connection(server, caplog):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.say(wire.Refused("too wide", 1))
    server.say(wire.Heartbeat(1, {}))
    server.wait(lambda: server._live is not None)
    server._live.send("text")
    steps(run, model, 3)
    run.close()
    assert "too wide" in caplog.text
    assert "passed over" in caplog.text
    assert server.connections == 1
    assert told(server) == [0, 1, 2]


def test_pace_is_what_the_server_says(server):
    server.pace_ms = 3_600_000
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.wait(lambda: server.of(wire.Heartbeat))
    steps(run, model, 1)
    server.say(wire.Pace(100))
    server.wait(lambda: server.of(wire.Frame))
    run.close()


def test_without_a_server_the_end_is_not_held_up(caplog):
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=f"http://127.0.0.1:{free_port()}")
    steps(run, model, 10)
    started = time.monotonic()
    run.close()
    assert time.monotonic() - started < 2.0
    assert caplog.text.count("cannot reach") == 1
    assert "was not told" in caplog.text


def test_a_server_that_never_answers_holds_the_end_up_no_longer_than_the_limit(caplog):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        run = gradhelm.attach(
            small(), max_norm=1.0, server=f"http://127.0.0.1:{deaf.getsockname()[1]}"
        )
        started = time.monotonic()
        run._link.finish(wire.Finish("finished", None), limit=0.2)
        assert time.monotonic() - started < 2.0
        run._closed = True
        gradhelm.run.atexit.unregister(run._at_exit)


def test_a_server_that_stops_acknowledging_is_told_what_did_not_come(server, monkeypatch):
    monkeypatch.setattr("gradhelm.run.DRAIN", 1.5)
    server.window = 1
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.wait(lambda: server.connections)
    server.acks = False
    steps(run, model, 5)
    server.wait(lambda: server.of(wire.Frame))
    steps(run, model, 5)
    run.close()
    frames, gaps = server.of(wire.Frame), server.of(wire.Gap)
    steps_sent = {int(s) for f in frames for s in wire.unpack_frame(f, len(server.columns[0]))[0]}
    assert len(gaps) == 1
    assert gaps[0].reason == "the process ended"
    assert steps_sent | set(range(gaps[0].first, gaps[0].last + 1)) == set(range(10))
    assert server.of(wire.Finish)


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("http://127.0.0.1:8642", "ws://127.0.0.1:8642/api/v1/ingest"),
        ("https://a.example/helm/", "wss://a.example/helm/api/v1/ingest"),
        ("http://[::1]:1", "ws://[::1]:1/api/v1/ingest"),
    ],
)
def test_the_socket_is_where_the_server_is(server, url):
    assert dial.ingest_url(server) == url


def test_an_end_that_comes_while_the_sender_is_busy_loses_no_row(server, monkeypatch):
    """The row and the end come between the emptying of the ring and the look at the end."""
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    server.wait(lambda: server.of(wire.Heartbeat))
    send, closing = run._link._send, threading.Thread(target=run.close)

    def late(*given):
        if run.step == 0:
            steps(run, model, 1)
            closing.start()
            until(lambda: run._link._finish is not None)
        return send(*given)

    monkeypatch.setattr(run._link, "_send", late)
    server.wait(lambda: server.of(wire.Finish))
    closing.join()
    assert told(server) == [0]


def test_what_nobody_answers_is_sent_again(server, monkeypatch):
    """An answer, or what it answers, may be lost without the end of the connection."""
    monkeypatch.setattr(dial, "SILENCE_LIMIT", 0.5)
    server.acks = False
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, server=server.url)
    steps(run, model, 3)
    server.wait(lambda: len(server.of(wire.Frame)) >= 1)
    server.acks = True
    server.wait(lambda: told(server) == [0, 1, 2])
    assert server.connections == 1
    sent = run.stats()["sent_frames"]
    steps(run, model, 1)
    server.wait(lambda: told(server) == [0, 1, 2, 3])
    assert run.stats()["sent_frames"] == sent + 1
    run.close()
