"""What is read of a request before it is known who asks: so much, and for so long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import Running, running
from trainer import trainer
from websockets.sync.client import connect

from gradhelm_server import heads

BRIEF = 1.0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that waits for requests for a second."""
    home: Path = tmp_path_factory.mktemp("hasty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "WITHIN", BRIEF)
        with running(home) as found:
            yield found


def dial(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        b"Content-Length: 9\r\n\r\n{",
    ],
)
def test_who_says_nothing_is_not_waited_for(hasty: Running, said: bytes) -> None:
    with dial(hasty) as line:
        began = time.monotonic()
        line.sendall(said.replace(b"{host}", hasty.url.removeprefix("http://").encode()))
        while line.recv(65536):
            pass
        assert time.monotonic() - began > BRIEF / 2


def test_who_says_a_little_now_and_then_is_not_waited_for_either(hasty: Running) -> None:
    with dial(hasty) as line, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        line.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(100):
            line.sendall(f"X-{number}: y\r\n".encode())
            time.sleep(BRIEF / 10)


def test_a_request_that_is_answered_late_and_a_socket_are_not_cut_off(hasty: Running) -> None:
    with trainer(hasty.ws, hasty.token) as fake, httpx.Client(base_url=hasty.url) as client:
        headers = {"Authorization": f"Bearer {hasty.token}"}
        url = f"{hasty.ws}/api/v1/runs/{fake.run}/live"
        with connect(url, additional_headers=headers, proxy=None) as viewer:
            assert '"run"' in viewer.recv(timeout=10)
            assert client.get("/api/v1/runs", headers=headers).status_code == 200
            over = time.monotonic() + 2 * BRIEF
            step = 0
            while time.monotonic() < over:
                fake.send(step, fake.rows([1.0]))
                step += 1
                assert client.get("/livez").status_code == 200
            while isinstance(viewer.recv(timeout=10), str):
                pass
        assert hasty.get(f"runs/{fake.run}")["steps"] == step


def head(size: int) -> dict[str, str]:
    return {"X": "a" * size}


def test_the_longest_head_that_is_read(hasty: Running) -> None:
    assert httpx.get(f"{hasty.url}/livez", headers=head(60_000)).status_code == 200
    answer = httpx.get(f"{hasty.url}/livez", headers=head(70_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "too_large")


def test_requests_one_behind_the_other_are_each_measured_by_themselves(hasty: Running) -> None:
    host = hasty.url.removeprefix("http://")
    one = f"GET /livez HTTP/1.1\r\nHost: {host}\r\nX: {'a' * 40_000}\r\n\r\n".encode()
    with dial(hasty) as line:
        line.sendall(one * 4)
        answer = b""
        while answer.count(b'{"status":"ok"}') < 4:
            some = line.recv(65536)
            assert some, answer
            answer += some
        assert answer.count(b"HTTP/1.1 200") == 4
