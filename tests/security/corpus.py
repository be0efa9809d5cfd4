"""Bad inputs, and how each of them is to be answered.

A case is one line: what it is, how it comes, and the answer to it. ``test_corpus.py`` makes all of
them against one server beside a run and a viewer that must not notice. To add one, add a line to the
table of its kind; the answer that is expected says its code and a word of its message.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from trainer import SCALARS, FakeTrainer, new_run
from websockets.sync.client import ClientConnection

from gradhelm import wire

from .attacks import (
    Ask,
    Attack,
    Closed,
    Frames,
    Http,
    Look,
    Open,
    Outcome,
    Raw,
    Refused,
    Taken,
    Twice,
    begins,
    masked,
    says,
    some_hello,
)


class Case(NamedTuple):
    """``expected``: of its message only a part is given."""

    kind: str
    name: str
    attack: Attack
    expected: Outcome


pack = msgspec.msgpack.encode
TOO_LONG = Closed(1009, "", cut=True)
MiB = 1024 * 1024
RUN = "/api/v1/runs/{run}"


# -- REST: what is asked --------------------------------------------------------------------------


def question(path: str, status: int, code: str, word: str, name: str = "") -> Case:
    answer = Http(status, code, word)
    return Case("question", name or path[:70], Ask("GET", f"/api/v1/{path}"), answer)


bad_value = partial(question, status=422, code="bad_value")
not_found = partial(question, status=404, code="not_found")
SERIES = "runs/{run}/series?columns=global_norm"
QUESTIONS = [
    bad_value("runs?limit=-1", word="limit"),
    bad_value("runs?limit=1e9", word="limit"),
    bad_value("runs?limit=501", word="limit"),
    bad_value("runs?limit=" + "9" * 5000, word="limit", name="a limit of 5,000 digits"),
    bad_value("runs?status=alive", word="status"),
    bad_value("runs?sparkline=perhaps", word="sparkline"),
    bad_value("runs?q=" + "x" * 201, word="q", name="201 characters to look for"),
    bad_value("runs?project=" + "x" * 201, word="project", name="a project of 201 characters"),
    question("runs?cursor=nonsense", 422, "bad_cursor", "next_cursor"),
    question("runs?cursor=WzEsMl0", 422, "bad_cursor", "next_cursor", "a cursor of others"),
    question("runs?cursor=%ff%fe", 422, "bad_cursor", "next_cursor", "a cursor that is no text"),
    question("runs?cursor=W05hTiwgIngiXQ", 422, "bad_cursor", "next_cursor", "a cursor at NaN"),
    question("runs?cursor=WzFlOTk5LCJ4Il0", 422, "bad_cursor", "next_cursor", "a cursor at 1e999"),
    question("runs/{run}/events?cursor=zz", 422, "bad_cursor", "next_cursor"),
    question(
        "runs/{run}/events?cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwXQ",
        422,
        "bad_cursor",
        "next_cursor",
        "a cursor beyond 64 bits",
    ),
    question(
        "runs/{run}/events?cursor=W3RydWVd", 422, "bad_cursor", "next_cursor", "a cursor of true"
    ),
    bad_value("runs/{run}/events?kind=party", word="kind"),
    bad_value("runs/{run}/events?limit=0", word="limit"),
    bad_value("runs/{run}/events?first=-1", word="first"),
    bad_value("runs/{run}/series", word="columns"),
    bad_value("runs/{run}/series?columns=", word="columns"),
    question("runs/{run}/series?columns=nothing", 404, "no_such_column", "'nothing'"),
    question("runs/{run}/series?columns=__proto__", 404, "no_such_column", "__proto__"),
    question("runs/{run}/series?columns=%00", 404, "no_such_column", "columns"),
    question("runs/{run}/series?columns=" + "a," * 600, 404, "no_such_column", "'a'"),
    question(
        "runs/{run}/series?columns=" + ",".join(f"c{i}" for i in range(501)),
        422,
        "too_many",
        "at most 500",
        "501 columns",
    ),
    bad_value(SERIES + "&points=0", word="points"),
    bad_value(SERIES + "&points=1000000", word="points"),
    bad_value(SERIES + "&points=1.5", word="points"),
    question(SERIES + "&first=5&last=2", 422, "bad_range", "after"),
    bad_value(SERIES + "&last=-1", word="last"),
    bad_value(SERIES + "&first=9007199254740993", word="first"),
    bad_value(SERIES + "&first=NaN", word="first"),
    bad_value(SERIES + "&segment=..%2f..", word="segment"),
    question(SERIES + "&stream=other", 422, "unknown_stream", "'other'"),
    bad_value(SERIES + "&stream=" + "x" * 201, word="stream", name="a stream of 201 characters"),
    bad_value("runs/{run}/heatmap?points=-5", word="points"),
    bad_value("runs/{run}/heatmap?match=", word="match"),
    bad_value("runs/{run}/heatmap?match=" + "*a" * 101, word="match", name="a pattern too long"),
    bad_value("runs/{run}/times?points=1", word="points"),
    bad_value("runs/{run}/times?points=10001", word="points"),
    bad_value("runs/{run}/whatif", word="max_norm"),
    bad_value("runs/{run}/whatif?max_norm=0", word="above 0"),
    bad_value("runs/{run}/whatif?max_norm=-1", word="above 0"),
    bad_value("runs/{run}/whatif?max_norm=nan", word="finite"),
    bad_value("runs/{run}/whatif?max_norm=1e999", word="finite"),
    bad_value("runs/{run}/whatif?max_norm=1,,2", word="''"),
    question(
        "runs/{run}/whatif?max_norm=" + ",".join(["1"] * 201),
        422,
        "too_many",
        "at most 200",
        "201 thresholds",
    ),
    question("runs/{run}/whatif?max_norm=1&window=5&first=1", 422, "bad_range", "exclude"),
    question("runs/{run}/whatif?max_norm=1&match=no*", 422, "unknown_pattern", "'no*'"),
    bad_value("runs/{run}/advice?window=10", word="window"),
    bad_value("runs/{run}/advice?clip_fraction=1", word="clip_fraction"),
    bad_value("runs/{run}/advice?clip_fraction=nan", word="clip_fraction"),
    bad_value("runs/{run}/export", word="format"),
    bad_value("runs/{run}/export?format=xls", word="format"),
    bad_value("runs/{run}/export?format=csv&columns=", word="columns"),
    bad_value("runs/{run}/export?format=csv&last=-1", word="last"),
    question("runs/{run}/export?format=csv&first=9&last=3", 422, "bad_range", "after last"),
    question("runs/{run}/export?format=csv&stream=no", 422, "unknown_stream", "'no'"),
    not_found("runs/nothing/export?format=csv", word="'nothing'"),
    not_found("runs/nothing", word="'nothing'"),
    not_found("runs/%00", word="there is no run"),
    not_found("runs/%ff%fe", word="there is no run", name="a run id that is no text"),
    not_found("runs/" + "a" * 5000, word="there is no run", name="a run id of 5,000 characters"),
    not_found("runs/..%2f..%2fetc%2fpasswd", word="nothing here"),
    not_found("runs/%2e%2e/control", word="there is no run", name="a run id of two dots"),
    not_found("runs/{run}%00/control", word="there is no run", name="a run id and a NUL"),
    not_found("runs/{run}%2fcontrol%2fnothing", word="nothing here"),
    not_found("runs/nothing/columns", word="'nothing'"),
    not_found("runs/nothing/parameters", word="'nothing'"),
    not_found("runs/nothing/series?columns=global_norm", word="'nothing'"),
    not_found("runs/nothing/times", word="'nothing'"),
    not_found("runs/nothing/heatmap", word="'nothing'"),
    not_found("runs/nothing/events", word="'nothing'"),
    not_found("runs/nothing/advice", word="'nothing'"),
    not_found("runs/nothing/whatif?max_norm=1", word="'nothing'"),
    not_found("runs/nothing/control", word="'nothing'"),
    not_found("runs/nothing/control/history", word="'nothing'"),
    not_found("nothing", word="nothing here"),
    not_found("../../etc/passwd", word="nothing here"),
]

# -- REST: what is to be changed ------------------------------------------------------------------


def put(
    body: Any,
    code: str,
    word: str,
    name: str = "",
    status: int = 422,
    run: str = "{run}",
    **headers: str,
) -> Case:
    sent = {"If-Match": '"{version}"', **{k.replace("_", "-"): v for k, v in headers.items()}}
    shown = body if isinstance(body, str) else body[:60].decode(errors="replace")
    ask = Ask("PUT", f"/api/v1/runs/{run}/control", shown.encode(), sent)
    if isinstance(body, bytes):
        ask = Ask("PUT", f"/api/v1/runs/{run}/control", body, sent)
    return Case("control", name or shown[:70], ask, Http(status, code, word))


value = partial(put, code="bad_value")
HALF = '{"max_norm": 0.5'
TRIAL = HALF + ', "revert_if": '
CONTROL = [
    put('{"max_norm": 0}', "out_of_range", "0.01 to 100"),
    put('{"max_norm": -1}', "out_of_range", "0.01 to 100"),
    put('{"max_norm": -0.0}', "out_of_range", "0.01 to 100"),
    put('{"max_norm": 5e-324}', "out_of_range", "0.01 to 100"),
    value('{"max_norm": NaN}', word="finite number from 0.01 to 100"),
    value('{"max_norm": Infinity}', word="finite number from 0.01 to 100"),
    value('{"max_norm": 1e999}', word="finite number from 0.01 to 100"),
    value('{"max_norm": "1"}', word="a number from 0.01 to 100"),
    value('{"max_norm": true}', word="a number from 0.01 to 100"),
    value('{"max_norm": null}', word="a number from 0.01 to 100"),
    value('{"max_norm": []}', word="a number from 0.01 to 100"),
    value('{"max_norm": {}}', word="a number from 0.01 to 100"),
    put(b'{"max_norm": ' + b"9" * 5000 + b"}", "bad_json", "proper JSON", "5,000 digits"),
    put(b'{"max_norm": ' + b"9" * 4000 + b"}", "bad_value", "finite", "4,000 digits"),
    put('{"clip_value": 0.5}', "unknown_value", "'clip_value'"),
    put('{"__proto__": 1}', "unknown_value", "__proto__"),
    put(HALF + ', "role": 1}', "unknown_value", "'role'", "the role of a user as well"),
    put(HALF + ', "project_id": 1}', "unknown_value", "'project_id'"),
    put(b'{"' + b"x" * 100_000 + b'": 1}', "unknown_value", "xxx", "a name of 100,000 characters"),
    put(b'{"' + b"x" * 100_000 + b'": "1"}', "bad_value", "xxx", "the same, with a text"),
    put(HALF + ', "max_norm": 0.6}', "bad_json", "twice"),
    put("{}", "nothing_to_change", "max_norm"),
    put('{"reason": "only"}', "nothing_to_change", "max_norm"),
    value(HALF + ', "reason": 5}', word="reason"),
    value(HALF + ', "reason": "' + "x" * 1001 + '"}', word="1000", name="a reason too long"),
    value(HALF + ', "reason": "\\u0000"}', word="reason", name="a NUL in the reason"),
    put(HALF + ', "reason": "\\ud800"}', "bad_json", "surrogate", "half a surrogate"),
    put(b'{"\\udc80": 1}', "bad_json", "surrogate", "half a surrogate as a name"),
    put(b'{"max_norm": 0.5, "reason": "\xed\xa0\x80"}', "bad_json", "UTF-8", "the same in bytes"),
    put(b'{"max_norm": 0.5, "reason": "\xff"}', "bad_json", "UTF-8", "bytes that are no UTF-8"),
    put(HALF + ', "match": "no.*"}', "unknown_pattern", "'no.*'"),
    value(HALF + ', "match": 7}', word="match"),
    put(HALF + ', "stream": "other"}', "unknown_stream", "'other'"),
    value(HALF + ', "ttl_steps": 0}', word="from 1"),
    value(HALF + ', "ttl_steps": 5.0}', word="whole number"),
    value(HALF + ', "ttl_steps": true}', word="whole number"),
    value(HALF + ', "ttl_steps": 9007199254740992}', word="whole number"),
    value(HALF + ', "not_before_step": -1}', word="from 0"),
    value(HALF + ', "not_before_step": 1e300}', word="whole number"),
    value(TRIAL + "true}", word="revert_if"),
    value(TRIAL + '{"within": 5}}', word="nonfinite"),
    value(TRIAL + '{"within": 0, "nonfinite": true}}', word="within"),
    value(TRIAL + '{"within": 5, "nonfinite": 1}}', word="nonfinite"),
    value(TRIAL + '{"within": 5, "nonfinite": true, "x": 1}}', word="revert_if"),
    put(TRIAL + '{"within": 5, "clip_fraction": [0.5, 0.1]}}', "contradiction", "low <= high"),
    value(TRIAL + '{"within": 5, "clip_fraction": [0, 1e999]}}', word="finite"),
    put(TRIAL + '{"within": 5, "nonfinite": true}, "ttl_steps": 4}', "contradiction", "ttl_steps"),
    put('{"roll_back_to": 99}', "unknown_version", "99"),
    value('{"roll_back_to": true}', word="whole number"),
    put('{"roll_back_to": 0, "max_norm": 0.5}', "contradiction", "not with max_norm"),
    put(
        b'{"roll_back_to": 0, "' + b"x" * 100_000 + b'": 1}',
        "contradiction",
        "not with",
        "and much more",
    ),
    put('{"lr_factor": 0.5}', "not_allowed", "Control(lr=True)"),
    value('{"lr_factor": NaN}', word="finite"),
    put('{"stop": true}', "not_allowed", "Control(stop=True)"),
    value('{"stop": 1}', word="true or false"),
    put(HALF, "bad_json", "proper JSON", "a body that is cut off"),
    put("[0.5]", "bad_json", "not list"),
    put("0.5", "bad_json", "not float"),
    put(b"", "bad_json", "proper JSON", "an empty body"),
    put(b"\xef\xbb\xbf{}", "bad_json", "BOM", "a byte order mark"),
    put(HALF.encode("utf-16"), "bad_json", "UTF-8", "UTF-16"),
    put(b"[" * 100_000, "bad_json", "JSON", "100,000 brackets"),
    put(b'{"a":' * 100_000, "bad_json", "JSON", "100,000 braces"),
    put(HALF + "}", "not_json", "application/json", "text/plain", 415, Content_Type="text/plain"),
    put(HALF + "}", "not_json", "application/json", "a form", 415, Content_Type="a/json"),
    put(HALF + "}", "bad_if_match", "ETag", 'If-Match: "*"', If_Match="*"),
    put(HALF + "}", "bad_if_match", "ETag", "a weak If-Match", If_Match='W/"0"'),
    put(HALF + "}", "bad_if_match", "ETag", "two in If-Match", If_Match='"0", "1"'),
    put(HALF + "}", "bad_if_match", "ETag", "If-Match of minus one", If_Match='"-1"'),
    put(HALF + "}", "bad_if_match", "ETag", "If-Match in other digits", If_Match='"\xb2"'),
    put(HALF + "}", "bad_if_match", "size", "If-Match of 60 digits", If_Match=f'"{"9" * 60}"'),
    value(HALF + "}", word="if-match", name="If-Match of 101 characters", If_Match="x" * 101),
    put(HALF + "}", "stale", "version 0, not 7", "a stale If-Match", 412, If_Match='"7"'),
    value(HALF + "}", word="idempotency-key", name="a key too long", Idempotency_Key="x" * 201),
    put(HALF + "}", "read_only", "Control.none()", "a run that is read-only", run="{read_only}"),
    put(HALF + "}", "run_ended", "finished", "a run that is over", 409, run="{ended}"),
    put(HALF + "}", "not_found", "no run", "a run that there is not", 404, run="nothing"),
    Case(
        "control",
        "no If-Match",
        Ask("PUT", RUN + "/control", {"max_norm": 0.5}),
        Http(428, "if_match_needed", "If-Match"),
    ),
    Case(
        "control",
        "the same Idempotency-Key with another body",
        Ask(
            "PUT",
            "/api/v1/runs/{steered}/control",
            {"max_norm": 0.6},
            {"If-Match": '"1"', "Idempotency-Key": "k"},
            before=(
                Ask(
                    "PUT",
                    "/api/v1/runs/{steered}/control",
                    {"max_norm": 0.5},
                    {"If-Match": '"0"', "Idempotency-Key": "k"},
                ),
            ),
        ),
        Http(409, "key_reused", "Idempotency-Key"),
    ),
]


def change(body: Any, code: str, word: str, name: str = "") -> Case:
    shown = name or str(body)[:70]
    return Case("change", shown, Ask("PATCH", RUN, body), Http(422, code, word))


name = partial(change, code="bad_value", word="name")
tags = partial(change, code="bad_value", word="tags")
CHANGES = [
    name({"name": ""}),
    name({"name": "x" * 201}),
    name({"name": 5}),
    name({"name": None}),
    name({"name": "a\0b"}),
    change(b'{"name": "\\udfff"}', "bad_json", "surrogate", "a name of half a surrogate"),
    change({"name": "x" * (900 * 1024)}, "bad_value", "200", "a name of 900 KiB"),
    change({"note": "x" * 10_001}, "bad_value", "note"),
    tags({"tags": "a"}),
    tags({"tags": [1]}),
    tags({"tags": [""]}),
    tags({"tags": ["a"] * 65}),
    tags({"tags": ["\0"]}),
    change({"status": "finished"}, "unknown_field", "'status'"),
    change({"project_id": 1}, "unknown_field", "'project_id'"),
    change({"x" * 100_000: 1}, "unknown_field", "xxx", "a field of 100,000 characters"),
    Case(
        "change",
        "two MiB",
        Ask("PATCH", RUN, lambda: b" " * (2 * MiB)),
        Http(413, "too_large", "1 MiB"),
    ),
    Case(
        "change",
        "a run that there is not",
        Ask("DELETE", "/api/v1/runs/nothing"),
        Http(404, "not_found", "'nothing'"),
    ),
    Case(
        "change",
        "to take back what was not deleted",
        Ask("POST", RUN + "/restore"),
        Http(409, "not_deleted", "not deleted"),
    ),
]

# -- coming in, and what admins do ----------------------------------------------------------------


def access(
    name: str, ask: Ask | Open, status: int, code: str, word: str, kind: str = "access"
) -> Case:
    return Case(kind, name, ask, Http(status, code, word))


def token(body: Any, word: str, code: str = "bad_value", name: str = "") -> Case:
    ask = Ask("POST", "/api/v1/tokens", body)
    return access(name or f"a token of {str(body)[:50]}", ask, 422, code, word)


def prune(body: Any, word: str, code: str = "bad_value") -> Case:
    return access(f"prune {body}", Ask("POST", "/api/v1/prune", body), 422, code, word)


def login(body: Any, status: int, code: str, word: str, name: str = "", **headers: str) -> Case:
    sent = {k.replace("_", "-"): v for k, v in headers.items()}
    ask = Ask("POST", "/login", body, sent, who="nobody")
    return access(name or f"to log in with {str(body)[:40]}", ask, status, code, word, "login")


def bearer(name: str, header: str) -> Case:
    ask = Ask("GET", "/api/v1/runs", headers={"Authorization": header}, who="nobody")
    return access(name, ask, 401, "unauthorized", "token")


def host(name: str) -> Case:
    ask = Ask("GET", "/api/v1/runs", headers={"Host": name})
    return access(f"the host {name!r}", ask, 400, "bad_host", "GRADHELM_ALLOWED_HOSTS")


def origin(name: str, ask: Ask | Open) -> Case:
    return access(name, ask, 403, "bad_origin", "rigin")


ORIGINS = {
    "another origin": "http://evil.example",
    "the origin null": "null",
    "an empty origin": "",
    "an origin that begins alike": "{url}.evil.example",
    "an origin with a slash": "{url}/",
    "an origin with another port": "{url}0",
    "an origin in capitals": "HTTP://{host}",
}
LIVE = RUN + "/live"
ACCESS = [
    access("no credentials", Ask("GET", RUN, who="nobody"), 401, "unauthorized", "log in"),
    access(
        "a token in the address",
        Ask("GET", "/api/v1/runs?token={admin}", who="nobody"),
        401,
        "unauthorized",
        "log in",
    ),
    bearer("a token that there is not", "Bearer gh_wrong"),
    bearer("a token without its beginning", "Bearer wrong"),
    bearer("no token at all", "Bearer"),
    bearer("a token of 10,000 characters", "Bearer gh_" + "x" * 10_000),
    bearer("a token that is no ASCII", "Bearer gh_\xff\xfe"),
    bearer("a name and a password", "Basic Z2g6eA=="),
    bearer("a token twice", "Bearer {admin}, Bearer {admin}"),
    access("an expired token", Ask("GET", RUN, who="expired"), 401, "unauthorized", "token"),
    access("a revoked token", Ask("GET", RUN, who="revoked"), 401, "unauthorized", "token"),
    access(
        "a cookie of 300 characters",
        Ask("GET", RUN, headers={"Cookie": "x=" + "y" * 300}, who="nobody"),
        401,
        "unauthorized",
        "log in",
    ),
    access(
        "a session that was ended",
        Ask("GET", RUN, headers={"Cookie": "{ended_cookie}"}, who="nobody"),
        401,
        "unauthorized",
        "log in",
    ),
    access("a viewer who renames", Ask("PATCH", RUN, {}, who="viewer"), 403, "forbidden", "view"),
    access(
        "a viewer who steers",
        Ask("PUT", RUN + "/control", {"max_norm": 1}, {"If-Match": '"0"'}, who="viewer"),
        403,
        "forbidden",
        "control",
    ),
    access(
        "an operator who makes a token",
        Ask("POST", "/api/v1/tokens", {"role": "admin"}, who="operator"),
        403,
        "forbidden",
        "admin",
    ),
    access("a trainer who reads", Ask("GET", RUN, who="ingest"), 403, "forbidden", "view"),
    *(host(n) for n in ("evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example")),
    *(host(n) for n in ("localhost:x", "", "[::1", "a b", "127.0.0.1:999999", "127.0.0.1%00")),
    *(
        origin(name, Ask("PATCH", RUN, {"note": "x"}, {"Origin": o}, who="cookie"))
        for name, o in ORIGINS.items()
    ),
    origin("a cookie without an origin", Ask("PATCH", RUN, {"note": "x"}, who="cookie")),
    token({}, "role"),
    token({"role": "root"}, "role"),
    token({"role": None}, "role"),
    token({"role": ["admin"]}, "role"),
    token({"role": "viewer", "name": 7}, "name"),
    token({"role": "viewer", "name": "x" * 201}, "name"),
    token({"role": "viewer", "name": "a\0b"}, "name"),
    token(b'{"role": "viewer", "name": "\\ud800"}', "surrogate", "bad_json", "of half a surrogate"),
    token({"role": "viewer", "expires_in": 0}, "above 0"),
    token({"role": "viewer", "expires_in": -1}, "above 0"),
    token({"role": "viewer", "expires_in": "1"}, "number"),
    token(b'{"role": "viewer", "expires_in": 1e999}', "finite", name="a token for 1e999 s"),
    token({"role": "viewer", "expires_in": 1e300}, "expires_in"),
    access(
        "to revoke what there is not",
        Ask("DELETE", "/api/v1/tokens/nothing"),
        404,
        "not_found",
        "'nothing'",
    ),
    prune({"quota": -1}, "quota"),
    prune({"quota": "1GB"}, "quota"),
    prune({"keep_steps": 0}, "keep_steps"),
    prune({"keep_steps": True}, "keep_steps"),
    prune({"dry_run": 1}, "dry_run"),
    prune({"project_id": 1}, "project_id", "unknown_field"),
    login({}, 401, "bad_code", "gradhelm link"),
    login({"code": 1}, 401, "bad_code", "gradhelm link"),
    login({"code": None}, 401, "bad_code", "gradhelm link"),
    login({"code": ""}, 401, "bad_code", "gradhelm link"),
    login({"code": "x" * 100_000}, 401, "bad_code", "gradhelm link"),
    login(b'{"code": "\\ud800"}', 422, "bad_json", "surrogate", "half a surrogate for a code"),
    login([], 422, "bad_json", "not list"),
    login(b"", 422, "bad_json", "proper JSON"),
    login(b'{"code": "x", "code": "y"}', 422, "bad_json", "twice"),
    login(b"code=x", 415, "not_json", "application/json", Content_Type="text/plain"),
    login(lambda: b"[" * (2 * MiB), 413, "too_large", "1 MiB", "two MiB of brackets for a code"),
    login({"code": "x"}, 403, "bad_origin", "rigin", "from elsewhere", Origin="http://evil.test"),
]

# -- sockets that are not to be opened ------------------------------------------------------------

SOCKETS = [
    access("a trainer without a token", Open(), 401, "unauthorized", "Bearer", "socket"),
    access("a trainer with a cookie", Open(who="cookie"), 401, "unauthorized", "Bearer", "socket"),
    access("a trainer who is a viewer", Open(who="viewer"), 403, "forbidden", "ingest", "socket"),
    access(
        "a trainer with an expired token", Open(who="expired"), 401, "unauthorized", "", "socket"
    ),
    access(
        "a trainer from another page",
        Open(who="ingest", headers={"Origin": "http://evil.test"}),
        403,
        "bad_origin",
        "rigin",
        "socket",
    ),
    access("a viewer without a cookie", Open(LIVE), 401, "unauthorized", "log in", "socket"),
    access(
        "a viewer without an origin", Open(LIVE, "cookie"), 403, "bad_origin", "Origin", "socket"
    ),
    *(
        access(
            f"a viewer with {name}",
            Open(LIVE, "cookie", {"Origin": o}),
            403,
            "bad_origin",
            "rigin",
            "socket",
        )
        for name, o in ORIGINS.items()
    ),
    access(
        "a viewer of no run",
        Open("/api/v1/runs/nothing/live", "viewer"),
        404,
        "not_found",
        "'nothing'",
        "socket",
    ),
    access(
        "a viewer of a run id with a NUL",
        Open("/api/v1/runs/%00/live", "viewer"),
        404,
        "not_found",
        "there is no run",
        "socket",
    ),
    access(
        "a socket that there is not",
        Open("/api/v1/nothing", "admin"),
        404,
        "not_found",
        "nothing",
        "socket",
    ),
    access(
        "the socket that Dash brings",
        Open("/_dash-ws-callback", "admin", {"Origin": "{url}"}),
        404,
        "not_found",
        "nothing",
        "socket",
    ),
    access("another host", Open(headers={"Host": "evil.test"}), 400, "bad_host", "host", "socket"),
]

# -- bytes ----------------------------------------------------------------------------------------


def raw(name: str, text: str, status: int, code: str, word: str, **more: Any) -> Case:
    return Case("HTTP", name, Raw(text, **more), Http(status, code, word))


HEAD = "Host: {host}\r\nAuthorization: Bearer {admin}\r\n"
POST = f"POST /login HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
GET = f"GET /api/v1/runs HTTP/1.1\r\n{HEAD}"
unreadable = partial(raw, status=400, code="bad_request")
too_long = partial(raw, status=431, code="too_large", word="64 KiB")
UPGRADE = f"GET {wire.INGEST_PATH} HTTP/1.1\r\n{HEAD}Connection: Upgrade\r\nUpgrade: websocket\r\n"
BYTES = [
    raw("two hosts", GET + "Host: {host}\r\n\r\n", 400, "bad_host", "host name"),
    raw("no host", "GET /api/v1/runs HTTP/1.1\r\n\r\n", 400, "bad_host", "host name"),
    raw(
        "a good host, and an evil one before it",
        "GET /api/v1/runs HTTP/1.1\r\nHost: evil.test\r\n" + HEAD + "\r\n",
        400,
        "bad_host",
        "host name",
    ),
    raw("HTTP/0.9", "GET /\r\n\r\n", 400, "bad_host", "host name"),
    raw("HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", 400, "bad_host", "host name"),
    unreadable("HTTP/9.9", "GET / HTTP/9.9\r\nHost: {host}\r\n\r\n", word="version"),
    unreadable("HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", word="PRI"),
    unreadable("TLS", "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + "x" * 64, word="method"),
    unreadable("noughts", "\0" * 64 + "\r\n\r\n", word="method"),
    unreadable("an unknown method", f"FOO / HTTP/1.1\r\n{HEAD}\r\n", word="method"),
    unreadable("CONNECT", f"CONNECT evil.test:443 HTTP/1.1\r\n{HEAD}\r\n", word="url"),
    unreadable(
        "Content-Length and chunks",
        POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        word="Content-Length",
    ),
    unreadable(
        "chunks and Content-Length",
        POST + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        word="Content-Length",
    ),
    unreadable(
        "two lengths", POST + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", word="Length"
    ),
    unreadable("a negative length", POST + "Content-Length: -5\r\n\r\n", word="Content-Length"),
    unreadable("a length with a sign", POST + "Content-Length: +5\r\n\r\n", word="Length"),
    unreadable(
        "a length of 30 digits", POST + f"Content-Length: {'9' * 30}\r\n\r\n", word="Content-Length"
    ),
    unreadable("an encoding alike", POST + "Transfer-Encoding: xchunked\r\n\r\n", word="Encoding"),
    unreadable(
        "an encoding behind a blank",
        POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        word="header",
    ),
    unreadable(
        "chunked twice",
        POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        word="Encoding",
    ),
    unreadable(
        "a chunk without a size", POST + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n", word="chunk"
    ),
    unreadable(
        "a chunk of 2^68 bytes",
        POST + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        word="overflow",
    ),
    unreadable("lines without CR", GET.replace("\r", "") + "\n", word="CRLF"),
    unreadable("a header on two lines", GET + "X: a\r\n b\r\n\r\n", word="header"),
    unreadable("a NUL in a header", GET + "X: a\0b\r\n\r\n", word="header value"),
    unreadable("a CR in a header", GET + "X: a\rb\r\n\r\n", word=""),
    unreadable("a NUL in the address", "GET /\0 HTTP/1.1\r\n\r\n", word="url"),
    unreadable("a blank in the address", f"GET /a b HTTP/1.1\r\n{HEAD}\r\n", word="HTTP"),
    Case(
        "HTTP",
        "a body that ends too early",
        Raw(POST + "Content-Length: 9\r\n\r\n{", end=True),
        Closed(0, "without an answer"),
    ),
    raw(
        "an address of another server",
        "GET http://evil.test/api/v1/runs HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        400,
        "bad_host",
        "host name",
    ),
    raw("OPTIONS of all", f"OPTIONS * HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", "nothing here"),
    raw("TRACE", f"TRACE / HTTP/1.1\r\n{HEAD}\r\n", 405, "method_not_allowed", "GET, HEAD"),
    raw("two slashes", f"GET //api/v1/runs HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", "nothing"),
    raw("dots", f"GET /api/v1/../v1/runs HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", "nothing"),
    raw("%00", f"GET /api/v1/runs%00 HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", "nothing"),
    raw("a slash behind", f"GET /api/v1/runs/ HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", ""),
    raw("a semicolon", f"GET /api/v1/runs;x=1 HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", ""),
    raw(
        "another case of letters", f"GET /API/v1/runs HTTP/1.1\r\n{HEAD}\r\n", 404, "not_found", ""
    ),
    too_long("an address of 70,000 characters", f"GET /?{'a' * 70_000} HTTP/1.1\r\n{HEAD}\r\n"),
    too_long("a header of 70,000 characters", GET + f"X: {'a' * 70_000}\r\n\r\n"),
    too_long("20,000 headers", GET + "a: b\r\n" * 20_000 + "\r\n"),
    too_long("a header without an end", GET + "X: ", flood=lambda: itertools.repeat(b"a" * MiB)),
    too_long("a name without an end", GET, flood=lambda: itertools.repeat(b"a" * MiB)),
    too_long("headers without an end", GET, flood=lambda: itertools.repeat(b"a: b\r\n" * 10_000)),
    too_long("an address without an end", "GET /", flood=lambda: itertools.repeat(b"a" * MiB)),
    too_long(
        "a chunk's extension without an end",
        POST + "Transfer-Encoding: chunked\r\n\r\n5;",
        flood=lambda: itertools.repeat(b"a" * MiB),
    ),
    raw(
        "a body without an end",
        POST + "Transfer-Encoding: chunked\r\n\r\n",
        413,
        "too_large",
        "1 MiB",
        flood=lambda: itertools.repeat(b"10000\r\n" + b" " * 65536 + b"\r\n", 500),
    ),
    raw("a socket without a key", UPGRADE + "\r\n", 400, "", "Sec-WebSocket-Key"),
    raw(
        "a socket of an old version",
        UPGRADE + "Sec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 7\r\n\r\n",
        400,
        "",
        "WebSocket",
    ),
    raw("a socket by POST", UPGRADE.replace("GET", "POST") + "\r\n", 405, "", "method"),
    raw(
        "a socket where there is none",
        UPGRADE.replace(wire.INGEST_PATH, "/api/v1/runs")
        + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        404,
        "not_found",
        "nothing here",
    ),
]

# -- the trainer's socket: messages ---------------------------------------------------------------


def refused(name: str, word: str, *said: Any) -> Case:
    return Case("trainer", name, says(*said), Refused(word))


def told(name: str, word: str, said: Any) -> Case:
    """A record that is refused by its number."""
    return Case("trainer", name, says(said), Refused(word, 1))


def taken(name: str, *said: Any) -> Case:
    return Case("trainer", name, says(*said), Taken())


def ended(name: str, code: int, word: str, *said: Any) -> Case:
    return Case("trainer", name, says(*said), Closed(code, word))


def opening(name: str, word: str, said: Any, code: int = wire.CloseCode.BAD_MESSAGE) -> Case:
    return Case("hello", name, begins(said), Closed(code, word))


def gap(**values: Any) -> bytes:
    usual = {"type": "gap", "seq": 1, "first": 0, "last": 0, "count": 1, "reason": "x"}
    return pack(usual | values)


def frame(
    f: FakeTrainer, make: Callable[[wire.Frame], wire.Frame], steps: tuple[int, ...] = (0, 1)
) -> wire.Frame:
    made = f.frame(0, f.rows([1.0] * len(steps)))
    return make(made)


def spoiled(**values: Any) -> Callable[[FakeTrainer], wire.Frame]:
    """A good frame but for ``values``, which are functions of what was there."""

    def make(f: FakeTrainer) -> wire.Frame:
        made = f.frame(0, f.rows([1.0, 1.0]))
        changed = {n: v(getattr(made, n)) if callable(v) else v for n, v in values.items()}
        return msgspec.structs.replace(made, **changed)

    return make


def unpackable(**values: Any) -> Callable[[FakeTrainer], bytes]:
    """A good frame but for ``values``, which its type would not take."""

    def make(f: FakeTrainer) -> bytes:
        made = f.frame(0, f.rows([1.0, 1.0]))
        f.seq -= 1  # no number was taken
        return pack(msgspec.to_builtins(made, builtin_types=(bytes,)) | values)

    return make


def numbered(f: FakeTrainer, message: bytes) -> bytes:
    """``message`` takes the next number."""
    f.seq += 1
    return message


def of(
    steps: Iterable[int],
    times: Iterable[float] | None = None,
    values: float = 1.0,
) -> Callable[[FakeTrainer], wire.Frame]:
    """A frame of these steps and times, with one value everywhere."""

    def make(f: FakeTrainer) -> wire.Frame:
        f.seq += 1
        at = np.array(list(steps), np.uint64)
        when = np.array(list(times) if times is not None else [1e6 + i for i in range(len(at))])
        rows = np.full((len(at), len(SCALARS) + len(f.layers)), values, np.float32)
        return wire.pack_frame(f.seq, 0, 0, at, when, rows)

    return make


def backwards(f: FakeTrainer) -> wire.Frame:
    """A number that was stored before, with another payload."""
    f.send(0, f.rows([1.0, 1.0]))
    return wire.pack_frame(
        1, 0, 0, np.array([5, 6], "u8"), np.zeros(2), f.rows([9.0, 9.0]).astype(np.float32)
    )


def columns(*names: str, group: int = 1, first: int = 0, kind: str = "log") -> wire.Columns:
    return wire.Columns(group, first, tuple(wire.Column(n, kind) for n in names))


def groups_of_many() -> Iterator[wire.Columns]:
    """The same columns in ever more groups: nothing new for the run, and ever more to remember."""
    names = tuple(wire.Column(f"c{i}", "log") for i in range(6000))
    for group in range(1, 60):
        yield wire.Columns(group, 0, names)


MESSAGES = [
    refused("an empty message", "unreadable", b""),
    refused("what is no msgpack", "unreadable", b"\xc1"),
    refused("a list", "unreadable", b"\x93\x01\x02\x03"),
    refused("a number", "unreadable", b"\x01"),
    refused("text", "binary", '{"type": "heartbeat"}'),
    refused("2^32-1 entries", "unreadable", b"\xdf\xff\xff\xff\xff"),
    refused("a list of 2^32-1", "unreadable", b"\xdd\xff\xff\xff\xff"),
    refused("bytes of 2^32-1", "unreadable", b"\x81\xa4type\xc6\xff\xff\xff\xff"),
    refused("10,000 lists in one another", "unreadable", b"\x91" * 10_000),
    refused("200,000 lists in one another", "unreadable", b"\x91" * 200_000),
    refused("an extension type", "unreadable", pack({"type": msgspec.msgpack.Ext(1, b"x")})),
    refused("a text that is no UTF-8", "unreadable", b"\x81\xa4type\xa2\xff\xfe"),
    refused("a message that is cut off", "unreadable", gap()[:-3]),
    refused("a message and more", "unreadable", gap() + b"\x00"),
    refused("no type", "type", pack({"seq": 1})),
    refused("an unknown type", "explode", pack({"type": "explode"})),
    refused("a type of the server", "ack", pack({"type": "ack", "seq": 1})),
    refused("a missing field", "count", pack({"type": "gap", "seq": 1, "first": 0, "last": 0})),
    refused("seq of minus one", "seq", gap(seq=-1)),
    refused("seq of nought", "seq", gap(seq=0)),
    refused("seq of 2^53", "seq", gap(seq=2**53)),
    refused("seq as a fraction", "seq", gap(seq=1.5)),
    refused("seq as a bool", "seq", gap(seq=True)),
    refused("seq as text", "seq", gap(seq="1")),
    refused("steps of 2^63", "first", gap(first=2**63)),
    refused("a gap of minus one", "count", gap(count=-1)),
    told(
        "a gap that ends before it begins",
        "before it begins",
        lambda f: numbered(f, gap(first=9, last=2)),
    ),
    refused("a reason with a NUL", "reason", gap(reason="a\0b")),
    refused("a reason without words", "reason", gap(reason="")),
    refused("a reason of 201 characters", "reason", gap(reason="x" * 201)),
    refused("half a surrogate", "unreadable", gap(reason="???").replace(b"???", b"\xed\xa0\x80")),
    refused("a second hello", "before", lambda f: some_hello()),
    refused("a replay behind a hello", "before", lambda f: wire.Replay(some_hello())),
    ended("17 that are unreadable", wire.CloseCode.BAD_MESSAGE, "too many", *[b"\xc1"] * 17),
    ended("17 hellos more", wire.CloseCode.BAD_MESSAGE, "too many", *[lambda f: some_hello()] * 17),
    Case("trainer", "300 KiB", says(b"\0" * (300 * 1024)), TOO_LONG),
    taken("a field that nobody knows", pack({"type": "heartbeat", "step": 1, "stats": {}, "x": 1})),
    refused(
        "statistics that are NaN",
        "stats",
        pack({"type": "heartbeat", "step": 1, "stats": {"x": float("nan")}}),
    ),
    refused("65 statistics", "stats", wire.Heartbeat(1, {f"x{i}": 1.0 for i in range(65)})),
    taken("what nobody asked for was applied", wire.Applied(99, 1, ())),
    taken("what nobody asked for was refused", wire.Rejected(99, 1, "no")),
    taken("what nobody asked for was taken back", wire.Reverted(99, 1, "no", ())),
    taken("what nobody sent was delivered", wire.Delivered(99)),
    refused(
        "a finish of another kind", "status", pack({"type": "finish", "status": "x", "step": 1})
    ),
    taken("numbers that come too early", gap(seq=7), gap(seq=9)),
]

# -- the trainer's socket: frames -----------------------------------------------------------------

FRAMES = [
    told("values too short", "expected 2 steps x 8 columns", spoiled(values=lambda v: v[:-4])),
    told("values too long", "expected 2 steps x 8 columns", spoiled(values=lambda v: v + v)),
    told("values of 3 bytes", "expected 2 steps", spoiled(values=b"abc")),
    told("times too short", "expected 16", spoiled(times=lambda t: t[:-8])),
    told("steps of 3 bytes", "multiple of 8", spoiled(steps=b"abc")),
    told("no steps", "multiple of 8", spoiled(steps=b"", times=b"", values=b"")),
    told("a wrong CRC", "CRC", spoiled(crc=lambda c: c ^ 1)),
    told("a group that was not declared", "group 7", spoiled(group=7)),
    told("a step twice", "increase", of([3, 3])),
    told("steps that go back", "increase", of([5, 4])),
    told("a step of 2^53", "2^53", of([1, 2**53])),
    told("a step of 2^63", "2^53", of([1, 2**63])),
    told("times that are NaN", "times", of([1, 2], [np.nan, 1.0])),
    told("times that are infinite", "times", of([1, 2], [1.0, np.inf])),
    told("a time of 1e308", "times", of([1, 2], [1.0, 1e308])),
    told("a time before 1970", "times", of([1, 2], [-1.0, 1.0])),
    Case(
        "trainer",
        "a step that came before",
        says(of([5, 6]), of([6, 7])),
        Refused("comes after step 6", 2),
    ),
    taken("a number again with another payload", backwards),
    taken("all NaN", of([1, 2], values=np.nan)),
    taken("minus nought", of([1, 2], values=-0.0)),
    taken("the smallest number there is", of([1, 2], values=1e-45)),
    taken("infinity", of([1, 2], values=np.inf)),
    taken("minus infinity", of([1, 2], values=-np.inf)),
    taken("the largest number there is", of([1, 2], values=3.4e38)),
    taken("times that stand still", of([1, 2], [5.0, 5.0])),
    taken("times that run back", of([1, 2], [1e6, 0.0])),
    taken("times that are all but the same", of([1, 2], [0.0, 5e-324])),
    taken("a step very far away", of([1, 2**30])),
    refused("group of minus one", "group", unpackable(group=-1)),
    refused("a crc of 2^32", "crc", unpackable(crc=2**32)),
    refused("values as text", "values", unpackable(values=5)),
]

# -- the trainer's socket: columns ----------------------------------------------------------------

COLUMNS = [
    refused("columns with a hole before them", "declared so far", columns("x", first=5)),
    refused("other columns than before", "other columns", columns("x", group=0)),
    refused("a column twice", "stands twice", columns("x", "x")),
    refused("columns behind frames", "another group", of([1]), columns("x", group=0, first=8)),
    refused(
        "a column without a name",
        "name",
        pack({"type": "columns", "group": 1, "first": 0, "columns": [{"name": "", "kind": "log"}]}),
    ),
    refused("a name too long", "name", columns("x" * 441)),
    refused("a name with a NUL", "name", columns("a\0b")),
    refused("a column of another kind", "kind", columns("x", kind="party")),
    refused(
        "a stream that was not named",
        "not named",
        wire.Columns(1, 0, (wire.Column("x", "log"),), "other"),
    ),
    refused("a shape of 17", "shape", wire.Columns(1, 0, (wire.Column("x", "norm", (1,) * 17),))),
    refused(
        "a shape below nought",
        "shape",
        pack(
            {
                "type": "columns",
                "group": 1,
                "first": 0,
                "columns": [{"name": "x", "kind": "norm", "shape": [-1]}],
            }
        ),
    ),
    refused(
        "a group of 2^31",
        "group",
        pack({"type": "columns", "group": 2**31, "first": 0, "columns": []}),
    ),
    refused(
        "more columns than a group has",
        "more than 32768",
        *(
            wire.Columns(
                1, first, tuple(wire.Column(f"c{i}", "log") for i in range(first, first + 6000))
            )
            for first in range(0, 36_000, 6000)
        ),
    ),
    refused(
        "more columns than a run has",
        "more than 65536",
        *(
            wire.Columns(1 + i, 0, tuple(wire.Column(f"c{i}.{j}", "log") for j in range(6000)))
            for i in range(11)
        ),
    ),
    refused("the same columns in ever more groups", "groups", *groups_of_many()),
    taken("no columns", wire.Columns(1, 0, ())),
    taken(
        "a shape that is larger than anything",
        wire.Columns(1, 0, (wire.Column("norm/x", "norm", (wire.MAX_STEP,) * 16),)),
    ),
    taken(
        "hostile names",
        columns(
            "<img src=x onerror=alert(1)>",
            "__proto__",
            "constructor",
            "=1+1",
            "\x1b[2J",
            "\u202egpj",
            "../../etc/passwd",
            "a,b",
            "a" * 440,
            "%00",
            "{{7*7}}",
            "'; DROP TABLE runs; --",
            "\r\nX: y",
        ),
    ),
]

# -- the trainer's socket: the first message ------------------------------------------------------


def built(**values: Any) -> bytes:
    """A hello with values that its type would not take."""
    return pack(msgspec.to_builtins(some_hello()) | values)


CODED = [{"strategy": "GlobalNorm", "values": {"max_norm": 1.0}}]
HELLOS = [
    opening("data before the hello", "hello", wire.Heartbeat(0, {})),
    opening("bytes that are no message", "unreadable", b"\xc1"),
    opening("nothing", "unreadable", b""),
    opening("text", "binary", "hello"),
    opening("another protocol", "version", some_hello(protocol=99), wire.CloseCode.SPEAK_NEWER),
    opening("a protocol that is text", "protocol", built(protocol="1")),
    opening("a run id with a path", "run", built(run="../../etc/passwd")),
    opening("a run id in capitals", "run", built(run=new_run().upper())),
    opening("a run id and a line feed", "run", built(run=new_run() + "\n")),
    opening("a segment too short", "segment", built(segment="0")),
    opening("no name", "name", built(name="")),
    opening("a name of 201 characters", "name", built(name="x" * 201)),
    opening("a name with a NUL", "name", built(name="a\0b")),
    opening("a name that is a number", "name", built(name=7)),
    opening("no strategies", "coded", built(coded=[])),
    opening("257 strategies", "coded", built(coded=CODED * 257)),
    opening(
        "a threshold that is NaN",
        "values",
        built(coded=[{"strategy": "s", "values": {"max_norm": float("nan")}}]),
    ),
    opening(
        "a limit that is infinite",
        "limits",
        built(
            coded=[
                {
                    "strategy": "s",
                    "values": {"m": 1.0},
                    "limits": {"m": {"min": 0, "max": float("inf")}},
                }
            ]
        ),
    ),
    opening("a stream twice", "stream", some_hello(streams=("a", "b", "b"))),
    opening("257 streams", "streams", built(streams=[f"s{i}" for i in range(257)])),
    opening("a configuration too long", "config", built(config="x" * 65_537)),
    opening("65 tags", "tags", built(tags=["t"] * 65)),
    opening("a start that is NaN", "started", built(started=float("nan"))),
    opening("a start in the year 10^300", "started", some_hello(started=1e300)),
    Case("hello", "300 KiB", begins(b"\0" * (300 * 1024)), TOO_LONG),
    Case("hello", "a configuration that is no JSON", begins(some_hello(config="{")), Taken()),
    Case("hello", "one that is a list", begins(some_hello(config="[1]")), Taken()),
    Case("hello", "one with 1e999", begins(some_hello(config='{"lr": 1e999}')), Taken()),
    Case("hello", "one with NaN", begins(some_hello(config='{"lr": NaN}')), Taken()),
    Case(
        "hello",
        "one with half a surrogate",
        begins(some_hello(config='{"a": "\\ud800"}')),
        Taken(),
    ),
    Case(
        "hello",
        "one with 30,000 brackets",
        begins(some_hello(config='{"a": ' + "[" * 30_000 + "]" * 30_000 + "}")),
        Taken(),
    ),
    Case(
        "hello",
        "one with a number of 5,000 digits",
        begins(some_hello(config='{"total_steps": ' + "9" * 5000 + "}")),
        Taken(),
    ),
    Case(
        "hello",
        "limits the wrong way round",
        begins(
            some_hello(
                coded=(
                    wire.Coded("GlobalNorm", {"m": 1.0}, "m", {"m": wire.Limit(5.0, -5.0)}),
                    wire.Coded("GlobalNorm", {"m": 1.0}, "m", {"m": wire.Limit(5.0, -5.0)}),
                )
            )
        ),
        Taken(),
    ),
    Case(
        "hello",
        "the run of somebody else",
        Twice(lambda f: some_hello(run=f.run)),
        Closed(wire.CloseCode.RUN_IS_TAKEN, "resume=True"),
    ),
    Case(
        "hello",
        "a replay of a segment that is being sent",
        Twice(lambda f: wire.Replay(some_hello(run=f.run, segment=f.segment))),
        Closed(wire.CloseCode.RUN_IS_TAKEN, "trainer is connected"),
    ),
]

# -- the trainer's socket: WebSocket frames -------------------------------------------------------


def by_hand(name: str, code: int, word: str, frames: Callable[[], Iterable[bytes]]) -> Case:
    return Case("WebSocket", name, Frames(frames), Closed(code, word))


def fragments(count: int) -> Iterator[bytes]:
    yield masked(2, b"\0", fin=False)
    yield masked(0, b"\0", fin=False) * (count - 2)
    yield masked(0, b"\0")


WEBSOCKET = [
    by_hand("no hello", wire.CloseCode.BAD_MESSAGE, "no hello came", list),
    by_hand(
        "100,000 fragments of one byte",
        wire.CloseCode.BAD_MESSAGE,
        "unreadable",
        lambda: fragments(100_000),
    ),
    Case("WebSocket", "fragments without an end", Frames(lambda: fragments(300_000)), TOO_LONG),
    by_hand(
        "a deflate bomb",
        1002,
        "reserved",
        lambda: [masked(2, b"\xec\xc1\x01\x01" + b"\0" * 200, rsv1=True)],
    ),
    by_hand("a frame without a mask", 1002, "mask", lambda: [b"\x82\x01x"]),
    by_hand("an opcode that there is not", 1002, "opcode", lambda: [masked(3, b"x")]),
    by_hand("a continuation of nothing", 1002, "continuation", lambda: [masked(0, b"x")]),
    by_hand(
        "a frame of 2^63 bytes",
        1009,
        "",
        lambda: [bytes([0x82, 0xFF]) + (2**63 - 1).to_bytes(8, "big") + b"\0\0\0\0"],
    ),
    by_hand("a ping of 126 bytes", 1002, "control frame", lambda: [masked(9, b"x" * 126)]),
    by_hand("a ping in pieces", 1002, "control frame", lambda: [masked(9, b"x", fin=False)]),
    by_hand("text that is no UTF-8", 1007, "", lambda: [masked(1, b"\xff\xfe")]),
    by_hand("a close code that there is not", 1002, "status code", lambda: [masked(8, b"\0\0")]),
    by_hand("a close of one byte", 1002, "close", lambda: [masked(8, b"\x03")]),
]

# -- the viewer's socket --------------------------------------------------------------------------


def looks(name: str, said: Callable[[ClientConnection], None], expected: Outcome) -> Case:
    return Case("viewer", name, Look(said), expected)


def many(viewer: ClientConnection) -> None:
    for _ in range(2000):
        viewer.send("x" * 100)


VIEWER = [
    looks("text", lambda v: v.send("hello"), Taken()),
    looks("bytes", lambda v: v.send(b"\0" * 1000), Taken()),
    looks("JSON", lambda v: v.send('{"type": "control", "max_norm": 0}'), Taken()),
    looks("a trainer's hello", lambda v: v.send(wire.encode(some_hello())), Taken()),
    looks("2,000 messages", many, Taken()),
    looks("300 KiB", lambda v: v.send(b"\0" * (300 * 1024)), TOO_LONG),
    looks("300 KiB of text", lambda v: v.send("x" * (300 * 1024)), TOO_LONG),
]

# -- the page's own traffic -----------------------------------------------------------------------

CALLBACK = {
    "output": "page.children",
    "outputs": {"id": "page", "property": "children"},
    "inputs": [{"id": "url", "property": "pathname", "value": "/"}],
    "state": [{"id": "url", "property": "search", "value": ""}],
    "changedPropIds": ["url.pathname"],
}


def forged(
    name: str, word: str, code: str = "bad_callback", status: int = 422, **values: Any
) -> Case:
    body = {k: v for k, v in (CALLBACK | values).items() if v is not ...}
    ask = Ask("POST", "/_dash-update-component", body, who="viewer")
    return Case("page", name, ask, Http(status, code, word))


def sent(name: str, body: Any, status: int, code: str, word: str, **headers: str) -> Case:
    more = {k.replace("_", "-"): v for k, v in headers.items()}
    ask = Ask("POST", "/_dash-update-component", body, more, who="viewer")
    return Case("page", name, ask, Http(status, code, word))


def fetched(name: str, path: str, status: int = 404, code: str = "not_found") -> Case:
    return Case("page", name, Ask("GET", path, who="viewer"), Http(status, code, ""))


PAGE = [
    forged("no output", "output", output=...),
    forged("an output that there is not", "no such callback", output="evil.children"),
    forged("an output that is a list", "output", output=["page.children"]),
    forged("several outputs", "no such callback", output="..page.children...x.y.."),
    forged("a callback of a script", "output", output="clientside.value"),
    forged("no inputs", "inputs", inputs=[]),
    forged("inputs that are a number", "inputs", inputs=5),
    forged("inputs that are lists", "inputs", inputs=[[1, 2]]),
    forged("an input of another part", "inputs", inputs=[{"id": "x", "property": "y", "value": 1}]),
    forged(
        "an address that is a number",
        "inputs",
        inputs=[{"id": "url", "property": "pathname", "value": 5}],
    ),
    forged(
        "an address that is an object",
        "inputs",
        inputs=[{"id": "url", "property": "pathname", "value": {"a": 1}}],
    ),
    forged("two states", "state", state=CALLBACK["state"] * 2),
    forged("outputs of another", "outputs", outputs={"id": "x", "property": "children"}),
    forged("what changed is a number", "changedPropIds", changedPropIds=7),
    forged("what changed is null", "changedPropIds", changedPropIds=[None]),
    sent("null", b"null", 422, "bad_callback", "object"),
    sent("a list", b"[]", 422, "bad_callback", "object"),
    sent("no JSON", b"{", 422, "bad_json", "JSON"),
    sent("30,000 brackets", b"[" * 30_000, 422, "bad_json", "JSON"),
    sent("bytes that are no text", b"\xff\xfe\x00", 422, "bad_json", "JSON"),
    sent("no type", b"{}", 415, "not_json", "application/json", Content_Type="text/plain"),
    sent("two MiB", lambda: b" " * (2 * MiB), 413, "too_large", "64 KiB"),
    Case(
        "page",
        "a callback from elsewhere",
        Ask(
            "POST",
            "/_dash-update-component",
            CALLBACK,
            {"Origin": "http://evil.test"},
            who="cookie",
        ),
        Http(403, "bad_origin", "rigin"),
    ),
    Case(
        "page",
        "a callback of a stranger",
        Ask("POST", "/_dash-update-component", CALLBACK, who="nobody"),
        Http(401, "unauthorized", "log in"),
    ),
    fetched("a script of nobody", "/_dash-component-suites/evil/x.js"),
    fetched("a module that is no package", "/_dash-component-suites/os/x.js"),
    fetched("a file beside the scripts", "/_dash-component-suites/dash/../dash.py"),
    fetched("a script with a NUL", "/_dash-component-suites/dash/%00.js"),
    fetched(
        "a source map that is not there", "/_dash-component-suites/dash/dcc/async-mathjax.js.map"
    ),
    fetched("a file that is not there", "/assets/nothing.js"),
    fetched("a file above", "/assets/..%2f..%2f..%2fetc/passwd"),
    fetched("a file with a NUL", "/assets/%00"),
    fetched("a name of 5,000 characters", "/assets/" + "a" * 5000),
    fetched("the folder itself", "/assets/vendor"),
    fetched("a file of the login above", "/login-assets/%2e%2e"),
    Case(
        "page",
        "Dash's own list of what to reload",
        Ask("POST", "/_reload-hash", {}, who="viewer"),
        Http(405, "method_not_allowed", "GET"),
    ),
]

CORPUS: tuple[Case, ...] = (
    *QUESTIONS,
    *CONTROL,
    *CHANGES,
    *ACCESS,
    *SOCKETS,
    *BYTES,
    *MESSAGES,
    *FRAMES,
    *COLUMNS,
    *HELLOS,
    *WEBSOCKET,
    *VIEWER,
    *PAGE,
)
