"""The browsers' socket: what is stored is shown, and a slow page slows nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from support import Running
from trainer import new_run, trainer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gradhelm import wire
from gradhelm_server.hub import MAILBOX_BYTES, Viewer, browser_frame


@contextmanager
def page(server: Running, run: str) -> Iterator[ClientConnection]:
    with connect(
        f"{server.ws}/api/v1/runs/{run}/live",
        additional_headers={"Authorization": f"Bearer {server.token}"},
        proxy=None,
    ) as socket:
        yield socket


def until(socket: ClientConnection, kind: str) -> dict:
    """The next text message of a kind."""
    while True:
        data = socket.recv(timeout=10)
        if isinstance(data, str) and json.loads(data)["type"] == kind:
            return json.loads(data)


def unpack(data: bytes, width: int) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    length = int.from_bytes(data[:4], "little")
    header, at = json.loads(data[4 : 4 + length]), 4 + length
    assert at % 8 == 0
    n = header["n"]
    steps, times = np.frombuffer(data, "<f8", 2 * n, at).reshape(2, n)
    return header, steps, times, np.frombuffer(data, "<f4", offset=at + 16 * n).reshape(n, width)


def test_a_page_sees_the_run_its_columns_and_then_each_frame(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        with page(server, fake.run) as socket:
            assert until(socket, "run")["run"]["id"] == fake.run
            names = [c["name"] for c in until(socket, "columns")["columns"]]
            assert names[0] == "global_norm"
            assert until(socket, "control")["control"]["version"] == 0
            rows = fake.rows([2.0, 3.0])
            fake.send(1, rows)
            told: dict[str, dict] = {}
            data = b""
            while not (data and {"layout", "event"} <= told.keys()):
                message = socket.recv(timeout=10)
                if isinstance(message, bytes):
                    data = message
                else:
                    told[json.loads(message)["type"]] = json.loads(message)
            layout = told["layout"]
            header, steps, times, values = unpack(data, len(layout["columns"]))
            assert header["layout"] == layout["layout"]
            assert layout["columns"] == list(range(len(names)))
            assert steps.tolist() == [1, 2]
            assert times.tolist() == [1_000_001.0, 1_000_002.0]
            np.testing.assert_array_equal(values, rows)
            assert told["event"]["event"]["kind"] == "clip_burst"
            while until(socket, "run")["run"]["steps"] < 3:
                pass


def test_a_change_and_its_fate_are_pushed(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        with page(server, fake.run) as socket:
            until(socket, "control")
            server.put_control(fake.run, 0, max_norm=0.5)
            assert until(socket, "control")["control"]["status"] == "pending"
            fake.say(wire.Applied(1, 4, (wire.Rule({"max_norm": 0.5}),)))
            assert until(socket, "control")["control"]["status"] == "applied"


def test_new_columns_are_pushed(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0]))
        with page(server, fake.run) as socket:
            until(socket, "columns")
            fake.say(wire.Columns(1, 0, (wire.Column("loss", "log"),)))
            assert [c["name"] for c in until(socket, "columns")["columns"]] == ["loss"]


def test_a_run_that_is_not_there_is_refused_before_the_upgrade(server: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, page(server, new_run()):
        pass
    assert refused.value.response.status_code == 404


def test_a_slow_page_keeps_the_newest_frames_and_is_told_what_it_missed() -> None:
    viewer = Viewer()
    values = np.zeros((64, 900), np.float32)
    for number in range(100):
        steps = np.arange(64 * number, 64 * (number + 1), dtype=np.uint64)
        frame = wire.pack_frame(number + 1, 0, 0, steps, steps.astype(float), values)
        span = range(int(steps[0]), int(steps[-1]) + 1)
        viewer.put_frame(browser_frame(frame, 0, 0.0), 0, list(range(900)), span)
    for version in range(50):
        viewer.put("control", {"control": {"version": version}})
    # In a thread of its own: the browser tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(lambda: asyncio.run(viewer.take(1.0))).result()
    frames = [m for m in taken if isinstance(m, bytes)]
    texts = [json.loads(m) for m in taken if isinstance(m, str)]
    assert sum(map(len, frames)) <= MAILBOX_BYTES
    (lost,) = [m for m in texts if m["type"] == "lost"]
    first_kept = int(unpack(frames[0], 900)[1][0])
    assert (lost["first"], lost["last"]) == (0, first_kept - 1)
    assert int(unpack(frames[-1], 900)[1][-1]) == 6399
    assert [m["control"]["version"] for m in texts if m["type"] == "control"] == [49]
