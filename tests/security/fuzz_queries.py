"""What is asked of a server: patterns, cursors, times, sizes, ranges, and whole requests.

Whatever is asked: it is answered in the one shape, below 500, in a second; a parser gives what it
promises or refuses as it says; and a pattern means what ``fnmatch`` means, in time that is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import tempfile
import time
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np

from . import fuzz
from .draw import Draw
from .fuzz_wire import RUN, SEGMENT, WHO

with fuzz.instrumented():
    from gradhelm import wire
    from gradhelm_server import runs, tokens
    from gradhelm_server.api.ask import json_object
    from gradhelm_server.api.control import _expected
    from gradhelm_server.api.matrix import _thresholds
    from gradhelm_server.app import Service
    from gradhelm_server.auth import RULES, _host_name, rule_for
    from gradhelm_server.clock import rfc3339
    from gradhelm_server.errors import ApiError
    from gradhelm_server.matrix import stride_for
    from gradhelm_server.patterns import matching
    from gradhelm_server.recorder import Recorder
    from gradhelm_server.settings import LOOPBACK, ServerSettings, duration, size
    from gradhelm_server.store import Commit, Store

FOUND = [
    # Series of columns, asked for with bytes behind them that are no UTF-8.
    b"\xdc\x85\0\xfb" + bytes(11) + b"\1\0\0\0\0\xfb\0\0\0\xff\1\xff" + bytes(13),
]
SECOND = 1.0


def seeds() -> list[bytes]:
    texts = [
        b"blocks.*.attn.*\0blocks.3.attn.qkv",
        b"*a*a*a*a*b\0" + b"a" * 40,
        b"WzEuNSwieCJd",
        b"30d",
        b"10GB",
        b"1,0.5,2e3",
        b'"3"',
        b"127.0.0.1:8642",
        b"/api/v1/runs/x/series",
        b'{"a": [1, 2.5, null], "b": "\\ud83d\\ude00"}',
    ]
    parsers = [bytes([number]) + text for number, text in enumerate(texts)]
    asked = [b"\xff" + bytes([n]) + bytes(range(30, 90)) * 2 for n in range(0, 48, 3)]
    return parsers + asked


def one(data: bytes) -> None:
    if data[:1] >= b"\x80":
        a_request(Draw(data[1:]))
        return
    text = data[1:].decode("latin-1")
    PARSERS[data[0] % len(PARSERS) if data else 0](text)


# -- parsers --------------------------------------------------------------------------------------


def a_pattern(text: str) -> None:
    pattern, _, name = text.partition("\0")
    pattern, name = pattern[: wire.MAX_NAME], name[: wire.MAX_COLUMN]
    began = time.perf_counter()
    found = matching(pattern, name)
    assert time.perf_counter() - began < SECOND
    assert found == by_table(pattern, name)


def by_table(pattern: str, name: str) -> bool:
    """The same by dynamic programming: which beginnings of the name are matched so far."""
    reached = np.zeros(len(name) + 1, bool)
    reached[0] = True
    letters = np.array([ord(letter) for letter in name], np.int64)
    for one in pattern:
        if one == "*":
            reached = np.logical_or.accumulate(reached)
        else:
            fits = reached[:-1] & ((letters == ord(one)) | (one == "?"))
            reached = np.concatenate(([False], fits))
    return bool(reached[-1])


def a_cursor(text: str) -> None:
    for kinds in ((float, str), (int,)):
        try:
            parts = runs.read_cursor(text[:200], *kinds)
        except ApiError as error:
            assert (error.status, error.code) == (422, "bad_cursor")
            continue
        assert [type(part) for part in parts] == list(kinds)
        assert all(abs(part) < 2**63 for part in parts if not isinstance(part, str))
        assert runs.read_cursor(runs.make_cursor(*parts), *kinds) == parts


def a_duration(text: str) -> None:
    try:
        found = duration(text)
    except ValueError as error:
        assert "expected a time" in str(error)
        return
    assert 0 < found < 1e12
    assert text[-1] in "dhms"


def a_size(text: str) -> None:
    try:
        found = size(text)
    except ValueError as error:
        assert "expected a size" in str(error)
        return
    assert 0 < found < 10**19


def thresholds(text: str) -> None:
    try:
        found = _thresholds(text[:10_000])
    except ApiError as error:
        assert error.status == 422
        assert len(error.message) < 300
        return
    assert 0 < len(found) <= 200
    assert all(0 < value < math.inf for value in found)


def an_if_match(text: str) -> None:
    try:
        found = _expected(text[:100])
    except ApiError as error:
        assert error.code == "bad_if_match"
        return
    assert 0 <= found < 10**16
    assert text[:100].strip() == f'"{text[:100].strip()[1:-1]}"'


def a_host(text: str) -> None:
    name = _host_name(text)
    if name in LOOPBACK:
        rest = text.lower().replace(f"[{name}]", "", 1).replace(name, "", 1)
        assert rest == "" or (rest[0] == ":" and rest[1:].isdigit()), text


PUBLIC = ("/livez", "/readyz", "/login", "/favicon.ico")


def a_path(text: str) -> None:
    for method in ("GET", "POST", "DELETE", "WEBSOCKET"):
        rule = rule_for(method, text)
        assert rule is None or rule in RULES
        if rule is not None and rule.action is None:
            assert text in PUBLIC or text.startswith("/login-assets/")


def a_body(text: str) -> None:
    raw = text.encode("latin-1")
    try:
        found = json_object(raw)
    except ApiError as error:
        assert (error.status, error.code) == (422, "bad_json")
        assert len(error.message) <= 300
        return
    json.dumps(found, ensure_ascii=False).encode()


def a_time(text: str) -> None:
    draw = Draw(text.encode("latin-1"))
    seconds = draw.number()
    if not math.isnan(seconds):
        shown = rfc3339(seconds)
        assert shown is not None
        datetime.fromisoformat(shown)
    first, length, points = draw.whole(), draw.whole(), 1 + draw.below(2000)
    first, last = max(0, first), max(0, first) + max(0, length)
    stride = stride_for(first, last, points)
    assert last // stride - first // stride + 1 <= points
    if stride > 1:
        half = stride // 2
        assert last // half - first // half + 1 > points


PARSERS = (
    a_pattern,
    a_pattern,
    a_cursor,
    a_duration,
    a_size,
    thresholds,
    an_if_match,
    a_host,
    a_path,
    a_body,
    a_time,
)

# -- whole requests -------------------------------------------------------------------------------

PATHS = (
    "/api/v1/runs",
    "/api/v1/runs/{run}",
    "/api/v1/runs/{run}/columns",
    "/api/v1/runs/{run}/parameters",
    "/api/v1/runs/{run}/series",
    "/api/v1/runs/{run}/series",
    "/api/v1/runs/{run}/times",
    "/api/v1/runs/{run}/heatmap",
    "/api/v1/runs/{run}/heatmap",
    "/api/v1/runs/{run}/events",
    "/api/v1/runs/{run}/whatif",
    "/api/v1/runs/{run}/advice",
    "/api/v1/runs/{run}/control",
    "/api/v1/runs/{run}/control/history",
    "/api/v1/server",
    "/api/v1/tokens",
)
NAMES: dict[str, tuple[str, ...]] = {
    "columns": ("global_norm", "norm/a.weight,global_norm", "loss", "nothing"),
    "first": ("0", "-1", "-1000", "5", "9007199254740991"),
    "last": ("0", "99", "5", "9007199254740991"),
    "points": ("1", "2", "100", "10000"),
    "stream": ("", "x"),
    "segment": (SEGMENT, "0" * 16),
    "match": ("*", "a.*", "norm*"),
    "max_norm": ("1", "0.5,2", "1e300", "5e-324"),
    "window": ("50", "1", "100000", "9007199254740991"),
    "clip_fraction": ("0.1", "5e-324", "0.999"),
    "limit": ("1", "50", "500"),
    "cursor": ("WzEuNSwieCJd", "WzVd"),
    "kind": ("gap", "spike", "clip_burst"),
    "status": ("live", "failed"),
    "q": ("run", "%", "_", "\\"),
    "project": ("p",),
    "sparkline": ("true", "false"),
}


ENDING = contextlib.ExitStack()


@cache
def service() -> tuple[asyncio.AbstractEventLoop, Service, str]:
    """One server over one database, with a run that has steps; requests reach it without a socket."""
    home = Path(ENDING.enter_context(tempfile.TemporaryDirectory(prefix="gradhelm-fuzz-")))
    url = f"sqlite:///{home / 'x.db'}"
    from gradhelm_server import tables

    store = Store(url)
    ENDING.callback(store.close)
    store.submit(tables.metadata.create_all).result()
    token = store.submit(lambda c: tokens.local(c, home, time.time())).result()
    hello = wire.Hello(
        RUN,
        SEGMENT,
        "run",
        "p",
        (wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm"),),
        wire.Limits(),
    )

    def fill(commit: Commit) -> None:
        connection = commit.connection
        runs.begin(connection, hello, WHO, time.time())
        recorder = Recorder.load(connection, RUN, SEGMENT)
        names = ("global_norm", "threshold", "clipped", "nonfinite", "skipped")
        columns = [wire.Column(name, "scalar") for name in names]
        columns += [wire.Column(f"norm/{n}.weight", "norm", (2,)) for n in "ab"]
        recorder.declare(connection, wire.Columns(0, 0, tuple(columns)))
        steps = np.arange(0, 300, dtype=np.uint64)
        values = np.abs(np.sin(np.arange(2100.0))).reshape(300, 7).astype(np.float32)
        values[50, 0] = np.nan
        values[60, 5] = np.inf
        frame = wire.pack_frame(1, 0, 0, steps, 1e9 + steps.astype(float), values)
        recorder.append(commit, [frame], time.time())

    store.share(fill).result()
    made = Service(ServerSettings(home=home, database_url=url), store)
    loop = asyncio.new_event_loop()
    ENDING.callback(loop.close)
    return loop, made, token


def end() -> None:
    """A store's writer thread goes on until it is told, also when nothing could be served."""
    service.cache_clear()
    ENDING.close()


def a_request(draw: Draw) -> None:
    path = draw.pick(PATHS).replace("{run}", RUN)
    if draw.rarely():
        path = path.replace(RUN, draw.text().encode("utf-8", "replace").decode())
    asked = []
    for _ in range(draw.below(6)):
        name = draw.pick(list(NAMES))
        value = draw.text() if draw.rarely() else draw.pick(NAMES[name])
        if draw.rarely():
            value = str(draw.pick((draw.whole(), draw.number())))
        asked.append(f"{name}={quote_from_bytes(value.encode('utf-8', 'replace'))}")
    query = "&".join(asked).encode()
    if draw.rarely():
        query += draw.bytes(60)
    headers = [(b"accept", b"application/octet-stream")] if draw.rarely() else []
    if draw.rarely():
        headers.append((b"if-none-match", draw.bytes(40)))
    began = time.perf_counter()
    status, kind, body = ask(path, query, headers)
    assert time.perf_counter() - began < 10 * SECOND
    assert status < 500, (path, query, body)
    if kind == b"application/json":
        found = json.loads(body, parse_constant=no_constant)
        if status >= 400:
            error = found["error"]
            assert error.keys() == {"code", "message", "details"}
            assert 0 < len(error["message"]) <= 1000


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def ask(path: str, query: bytes, more: list[tuple[bytes, bytes]]) -> tuple[int, bytes, bytes]:
    loop, server, token = service()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": query,
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"authorization", f"Bearer {token}".encode()),
            *more,
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8642),
        "state": {},
    }
    start: dict[str, Any] = {}
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        start.update(message if message["type"] == "http.response.start" else {})
        body.extend(message.get("body", b""))

    loop.run_until_complete(server.asgi(scope, receive, send))  # type: ignore[arg-type]
    kinds = dict(start["headers"])
    return start["status"], kinds.get(b"content-type", b""), bytes(body)


if __name__ == "__main__":
    sys.exit(fuzz.main(["queries"]))
