"""How bad input reaches a server: over REST, as raw bytes, over the trainer's and the viewer's socket.

An attack is made ``on`` a target and says what came of it: an answer over HTTP, a message that was
refused on a connection that lives, the end of the connection, or that it was taken.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import httpx
from trainer import FakeTrainer, new_run, trainer
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gradhelm import wire

PATIENCE = 20.0
"""Seconds for which an answer is waited for."""


class Http(NamedTuple):
    """An answer over HTTP; ``code`` is empty where it is not in the shape of our errors."""

    status: int
    code: str
    message: str
    headers: Any = None


class Refused(NamedTuple):
    """A message on a socket was refused, and the connection lives."""

    message: str
    seq: int | None = None


class Closed(NamedTuple):
    """The connection was ended. ``cut``: it may break off before its code is read, for what was
    still on its way."""

    code: int
    message: str
    cut: bool = False


class Taken(NamedTuple):
    """It was taken, and what is sent next is too."""

    message: str = ""


Outcome = Http | Refused | Closed | Taken


@dataclass
class Target:
    """What is attacked. ``run`` has steps and a trainer that is silent; ``ended`` has finished,
    ``read_only`` may not be steered. ``tokens`` are by their roles; ``cookie`` is of a session;
    ``names`` is what else a case may want filled in."""

    url: str
    rest: httpx.Client
    run: str
    ended: str
    read_only: str
    tokens: dict[str, str]
    cookie: str
    names: dict[str, str] = field(default_factory=dict)

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws")

    @property
    def at(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def filled(self, text: str) -> str:
        """``text`` with what is known of the target in it."""
        known = {
            "url": self.url,
            "host": "{}:{}".format(*self.at),
            "run": self.run,
            "ended": self.ended,
            "read_only": self.read_only,
            "admin": self.tokens["admin"],
            **self.names,
        }
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", value)
        if "{version}" in text:
            control = self.rest.get(f"/api/v1/runs/{self.run}/control").json()
            text = text.replace("{version}", str(control["version"]))
        return text

    def credentials(self, who: str) -> dict[str, str]:
        """``who`` is a role, "cookie" or "nobody"."""
        if who == "nobody":
            return {}
        if who == "cookie":
            return {"Cookie": self.cookie}
        return {"Authorization": f"Bearer {self.tokens[who]}"}


class Attack(Protocol):
    def on(self, target: Target) -> Outcome: ...


# -- over HTTP ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """One request. ``body`` is sent as JSON, or as it is when it is bytes; ``before`` are requests
    that come first and are to be accepted."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    who: str = "admin"
    before: tuple[Ask, ...] = ()

    def on(self, target: Target) -> Outcome:
        for earlier in self.before:
            done = earlier.on(target)
            assert isinstance(done, Http)
            assert done.status < 300, done
        return self.send(target)

    def send(self, target: Target) -> Http:
        headers = target.credentials(self.who)
        content = self.body() if callable(self.body) else self.body
        if content is not None:
            headers["Content-Type"] = "application/json"
        if content is not None and not isinstance(content, bytes):
            content = json.dumps(content).encode()
        headers |= {name: target.filled(value) for name, value in self.headers.items()}
        raw = [(k.encode(), v.encode("latin-1")) for k, v in headers.items() if v is not None]
        with httpx.Client(base_url=target.url, timeout=PATIENCE) as client:
            answer = client.request(
                self.method, target.filled(self.path), content=content, headers=raw
            )
        return heard(answer.status_code, answer.content, dict(answer.headers))


def heard(status: int, body: bytes, headers: dict[str, str]) -> Http:
    with suppress(ValueError, TypeError, KeyError):
        error = json.loads(body)["error"]
        assert error.keys() == {"code", "message", "details"}, error
        return Http(status, error["code"], error["message"], headers)
    return Http(status, "", body[:200].decode(errors="replace"), headers)


@dataclass(frozen=True)
class Raw:
    """Bytes as they are; ``{host}``, ``{admin}`` and the like are filled in. ``flood`` is sent after
    them until the server has enough of it. ``end``: nothing more comes."""

    text: str
    flood: Callable[[], Iterable[bytes]] = list
    end: bool = False

    def on(self, target: Target) -> Outcome:
        answer = b""
        with socket.create_connection(target.at, timeout=PATIENCE) as line:
            line.sendall(target.filled(self.text).encode("latin-1"))
            with suppress(ConnectionError):
                for some in self.flood():
                    line.sendall(some)
                if self.end:
                    line.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while not whole(answer) and (some := line.recv(65536)):
                    answer += some
        if not answer:
            return Closed(0, "without an answer")
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return heard(int(lines[0].split()[1]), body, headers)


def whole(answer: bytes) -> bool:
    """Whether nothing more is to come of it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        if name == b"content-length":
            return len(body) >= int(value)
    return False


@dataclass(frozen=True)
class Open:
    """The opening of a WebSocket, which is to be refused."""

    path: str = wire.INGEST_PATH
    who: str = "nobody"
    headers: dict[str, str] = field(default_factory=dict)

    def on(self, target: Target) -> Outcome:
        headers = target.credentials(self.who)
        headers |= {name: target.filled(value) for name, value in self.headers.items()}
        try:
            with connect(
                target.ws + target.filled(self.path),
                additional_headers=headers,
                proxy=None,
                open_timeout=PATIENCE,
            ):
                return Taken("the socket was opened")
        except InvalidStatus as refused:
            answer = refused.response
            return heard(answer.status_code, answer.body or b"", dict(answer.headers.raw_items()))
        except InvalidMessage as error:
            return Closed(0, str(error))


# -- over the trainer's socket --------------------------------------------------------------------

Said = wire.ToServer | bytes | str
Saying = Said | Callable[[FakeTrainer], Said]


@dataclass(frozen=True)
class Say:
    """Messages of a trainer that has said hello and declared its columns, or, with ``hello`` False,
    its very first ones. Whether the connection lives is seen by a good frame that follows."""

    said: tuple[Saying, ...]
    hello: bool = True

    def on(self, target: Target) -> Outcome:
        with trainer(
            target.ws, target.tokens["ingest"], hello=self.hello, project="bad inputs"
        ) as fake:
            return outcome(fake, self.said, self.hello)


def says(*said: Saying) -> Say:
    return Say(said)


def begins(*said: Saying) -> Say:
    return Say(said, hello=False)


@dataclass(frozen=True)
class Twice:
    """Two connections: the first is a good trainer's, the second says ``said``, knowing its run
    and its segment."""

    said: Callable[[FakeTrainer], Said]

    def on(self, target: Target) -> Outcome:
        with trainer(target.ws, target.tokens["ingest"], project="bad inputs") as good:
            good.send(0, good.rows([1.0]))
            with trainer(
                target.ws,
                target.tokens["ingest"],
                hello=False,
                run=good.run,
                segment=good.segment,
            ) as other:
                found = outcome(other, (self.said,), hello=False)
            good.send(1, good.rows([1.0]))
            return found


def outcome(fake: FakeTrainer, said: tuple[Saying, ...], hello: bool) -> Outcome:
    refused: list[wire.Refused] = []
    try:
        for one in said:
            fake.say(one(fake) if callable(one) else one)
        if not hello:
            fake.seq = fake.hear(wire.Welcome).high_water  # type: ignore[union-attr]
            fake.columns()
        probe = fake.frame(2**31, fake.rows([1.0]))
        fake.say(probe)
        while True:
            message = wire.decode_from_server(fake.socket.recv(timeout=PATIENCE))
            if isinstance(message, wire.Refused):
                refused.append(message)
            elif isinstance(message, wire.Ack) and message.seq >= probe.seq:
                break
    except ConnectionClosed as end:
        if end.rcvd is None:
            return Closed(1006, "without a word")
        return Closed(end.rcvd.code, end.rcvd.reason)
    if refused:
        return Refused(refused[0].reason, refused[0].seq)
    return Taken()


@dataclass(frozen=True)
class Frames:
    """WebSocket frames made by hand, after the opening of a trainer's socket."""

    raw: Callable[[], Iterable[bytes]]

    def on(self, target: Target) -> Outcome:
        with socket.create_connection(target.at, timeout=PATIENCE) as line:
            line.sendall(
                target.filled(
                    f"GET {wire.INGEST_PATH} HTTP/1.1\r\nHost: {{host}}\r\nConnection: Upgrade\r\n"
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    "Authorization: Bearer {admin}\r\n\r\n"
                ).encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += line.recv(65536)
            assert answer.startswith(b"HTTP/1.1 101"), answer
            answer = answer.partition(b"\r\n\r\n")[2]
            with suppress(ConnectionError):
                for some in self.raw():
                    line.sendall(some)
            with suppress(ConnectionError):
                while (end := closing(answer)) is None and (some := line.recv(65536)):
                    answer += some
        return end or Closed(1006, "without a word")


def closing(answer: bytes) -> Closed | None:
    """The close frame among a server's frames, which are not masked and short here."""
    while len(answer) >= 2 and len(answer) >= 2 + answer[1]:
        if answer[0] & 0x0F == 8:
            code, reason = answer[2:4], answer[4 : 2 + answer[1]]
            return Closed(int.from_bytes(code, "big"), reason.decode())
        answer = answer[2 + answer[1] :]
    return None


def masked(opcode: int, data: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's WebSocket frame; the mask is zeros."""
    first = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    if len(data) < 126:
        length = bytes([0x80 | len(data)])
    elif len(data) < 65536:
        length = bytes([0x80 | 126]) + len(data).to_bytes(2, "big")
    else:
        length = bytes([0x80 | 127]) + len(data).to_bytes(8, "big")
    return bytes([first]) + length + b"\0\0\0\0" + data


# -- over the viewer's socket ---------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What a viewer says, who has nothing to say. Whether the connection lives is seen by a change
    of the run that it is told of."""

    said: Callable[[ClientConnection], None]

    def on(self, target: Target) -> Outcome:
        with connect(
            f"{target.ws}/api/v1/runs/{target.run}/live",
            additional_headers=target.credentials("viewer"),
            proxy=None,
            compression=None,
        ) as viewer:
            note = secrets.token_hex(8)
            try:
                self.said(viewer)
                target.rest.patch(f"/api/v1/runs/{target.run}", json={"note": note})
                while True:
                    message = viewer.recv(timeout=PATIENCE)
                    if isinstance(message, str) and note in message:
                        return Taken()
            except ConnectionClosed as end:
                if end.rcvd is None:
                    return Closed(1006, "without a word")
                return Closed(end.rcvd.code, end.rcvd.reason)


def some_hello(**values: Any) -> wire.Hello:
    """A good hello of a run of its own, but for ``values``."""
    limits = {"max_norm": wire.Limit(0.01, 100.0)}
    usual: dict[str, Any] = {
        "run": new_run(),
        "segment": secrets.token_hex(8),
        "name": "bad",
        "project": "bad inputs",
        "coded": (wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", limits),),
        "limits": wire.Limits(),
    }
    return wire.Hello(**usual | values)
