"""Changes of a threshold, on both sides: bodies that a server is sent, and what a trainer is sent.

Whatever a body is: it is refused by ApiError in a sentence, or makes exactly one version, which can
be shown, is the same after the wire, and which the trainer takes as well. Whatever a trainer is told:
its values are those of the script or within the limits that the script sets, and it answers for every
version that it decides.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from . import fuzz
from .draw import Draw
from .fuzz_wire import NOW, RUN, WHO, database

with fuzz.instrumented():
    from gradhelm import wire
    from gradhelm.control import Lever, Steering, Verdict
    from gradhelm.errors import WireError
    from gradhelm_server import control, runs
    from gradhelm_server.api.ask import json_object
    from gradhelm_server.api.control import asked
    from gradhelm_server.errors import ApiError

FOUND = [
    # A change to version 0, which is what the script says: nothing to decide, nothing to answer.
    b"\1\0\0\0\0\0\xff" + wire.encode(wire.Change(0, (), lr_factor=2.0)),
]
BODIES = [
    '{"max_norm": 0.5, "reason": "x"}',
    '{"max_norm": 0.25, "ttl_steps": 5, "not_before_step": 7}',
    '{"max_norm": 2, "revert_if": {"within": 9, "nonfinite": true, "clip_fraction": [0, 0.5]}}',
    '{"lr_factor": 0.5, "stop": false}',
    '{"stop": true}',
    '{"roll_back_to": 0}',
    '{"max_norm": 1, "match": "lstm.*", "stream": null}',
    '{"max_norm": 1e999, "max_norm": NaN}',
    '{"a": "\\ud800"}',
]


ALLOWED = b"\0\1\1\0"
"""What ``Script`` draws for any factor, learning rates and a stop."""


def seeds() -> list[bytes]:
    told = [bytes([len(body)]) + body.encode() for body in BODIES]
    bodies = [b"\0" + ALLOWED + body for body in [*told, b"".join(told)]]
    messages = [b"\0" + bytes([len(m)]) + m for m in fuzz.golden("change*.hex")]
    changes = [b"\1" + ALLOWED + message + b"\1" for message in messages]
    return bodies + changes + [b"\1\1\1" + bytes(range(80)) * 3]


def one(data: bytes) -> None:
    draw = Draw(data[1:])
    if data[:1] == b"\0":
        connection = database()
        with connection.begin() as transaction:
            try:
                a_server(draw, connection)
            finally:
                transaction.rollback()
    else:
        a_trainer(draw)


# -- the script, as both sides know it ------------------------------------------------------------


class Clip:
    """A strategy, seen from the steering: it takes what is above 0."""

    def __init__(self, **values: float) -> None:
        self.parameters: dict[str, float] = values

    def reset(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and above 0, not {value!r}")
        self.parameters = self.parameters | dict(values)


class Script:
    """Two strategies, one of them of a pattern, and what may be changed of them."""

    def __init__(self, draw: Draw) -> None:
        factor = draw.pick((None, None, 2.0, 10.0, 3.0, 1.0000001))
        self.limits = wire.Limits(factor, lr=draw.flag(), stop=draw.flag())
        whole = draw.rarely()
        self.step = 0
        ranges: list[dict[str, wire.Limit]] = [
            {"max_norm": wire.Limit(0.01, 100.0, whole)},
            {"max_norm": wire.Limit(0.1, 10.0), "beta": wire.Limit(0.5, 0.999)},
        ]
        values: list[dict[str, float]] = [{"max_norm": 1.0}, {"max_norm": 3.0, "beta": 0.9}]
        matches = (None, "lstm.*")
        self.levers = [
            Lever(Clip(**v), r, lambda: self.step, m)
            for v, r, m in zip(values, ranges, matches, strict=True)
        ]
        self.steering = Steering(self.levers, self.limits)
        self.coded = tuple(
            wire.Coded("GlobalNorm", v, "max_norm", r, m)
            for v, r, m in zip(values, ranges, matches, strict=True)
        )

    def check(self) -> None:
        """Nothing is outside of what the script allows."""
        for lever, coded in zip(self.levers, self.coded, strict=True):
            for name, value in lever.strategy.parameters.items():
                limit = coded.limits[name]
                assert value == coded.values[name] or limit.min <= value <= limit.max, (name, value)
        factor = self.steering.lr_factor
        assert factor == 1.0 or self.limits.lr
        assert 1 / wire.MAX_LR_FACTOR <= factor <= wire.MAX_LR_FACTOR
        assert not self.steering.stopped or self.limits.stop


# -- the server -----------------------------------------------------------------------------------


def a_server(draw: Draw, connection: Connection) -> None:
    script = Script(draw)
    runs.begin(
        connection,
        wire.Hello(RUN, "00ff00ff00ff00ff", "n", "p", script.coded, script.limits),
        WHO,
        NOW,
    )
    shown(connection)
    version = 0
    while draw:
        raw = draw.take(draw.below(256))
        written = changes(connection)
        try:
            version = put(connection, raw, version)
        except ApiError as refused:
            assert 400 <= refused.status < 500
            assert refused.code
            assert 0 < len(refused.message) <= 1000
            json.dumps(refused.body(), allow_nan=False).encode()
            assert changes(connection) == written, "of what is refused something is stored"
            continue
        shown(connection)
        agreed(connection, script, version)
        shown(connection)


def changes(connection: Connection) -> int:
    """Rows that were ever written."""
    driver: Any = connection.connection.dbapi_connection
    return int(driver.total_changes)


def shown(connection: Connection) -> None:
    for answer in (control.document(connection, RUN), control.history(connection, RUN)):
        json.dumps(answer, allow_nan=False).encode()


def put(connection: Connection, raw: bytes, version: int) -> int:
    row = runs.find(connection, RUN)
    request = asked(json_object(raw), row, f'"{version}"', None, "somebody")
    made = control.put(connection, row, request, NOW)
    assert made == version + 1
    return made


def agreed(connection: Connection, script: Script, version: int) -> None:
    """The trainer takes what the server took, at the first step that may have it."""
    change = control.desired(connection, RUN)
    assert change.version == version
    assert wire.decode_from_server(wire.encode(change)) == change
    steering = script.steering
    steering.receive(change)
    script.step += 1
    if change.not_before is not None:
        script.step = max(script.step, change.not_before)
    if script.step >= wire.MAX_STEP:
        return
    steering.take()
    script.check()
    answers = list(steering.answers())
    steering.answers().clear()
    assert answers[-1].version == version
    assert isinstance(answers[-1], wire.Applied), answers[-1]
    for answer in answers:
        read = wire.decode_from_trainer(wire.encode(answer))
        control.report(connection, RUN, "00ff00ff00ff00ff", read, NOW)  # type: ignore[arg-type]


# -- the trainer ----------------------------------------------------------------------------------


def a_trainer(draw: Draw) -> None:
    script = Script(draw)
    steering = script.steering
    decided = 0
    for _ in range(40):
        if not draw:
            break
        change = a_change(draw)
        if change is not None:
            answer = steering.receive(change)
            if answer is None:  # decided before, and another one since; 0 is what the script says
                assert change.version < decided or change.version == 0
            else:
                assert answer.version == change.version
                assert wire.decode_from_trainer(wire.encode(answer)) == answer
        if draw.rarely() and steering.trial is not None:
            steering.judged(Verdict(steering.trial.version, draw.pick((None, "no"))))
        script.step += draw.pick((0, 1, 1, 5, 1000))
        steering.take()
        script.check()
        with steering.settled():
            script.check()
        json.dumps(steering.in_force(), allow_nan=False)
        for answer in steering.answers():
            assert wire.decode_from_trainer(wire.encode(answer)) == answer
        assert steering._decided >= decided
        decided = steering._decided
        told = [answer.version for answer in steering.answers()]
        assert 0 not in told
        if change is not None and change.version == decided > 0:
            assert decided in told
    assert len(steering.answers()) <= 200


def a_change(draw: Draw) -> wire.Change | None:
    """As it comes over the wire."""
    try:
        if draw.below(4) == 0:
            found = wire.decode_from_server(draw.bytes(255))
        else:
            found = wire.decode_from_server(wire.encode(some_change(draw)))
    except (WireError, UnicodeEncodeError, OverflowError):
        return None
    return found if isinstance(found, wire.Change) else None


def some_change(draw: Draw) -> wire.Change:
    return wire.Change(
        1 + draw.below(20) if not draw.rarely() else draw.whole(),
        some_rules(draw),
        stream=draw.pick((None, None, None, "x")),
        not_before=draw.below(30) if draw.rarely() else None,
        ttl_steps=1 + draw.below(10) if draw.flag() else None,
        until=draw.below(40) if draw.rarely() else None,
        revert_if=wire.RevertIf(1 + draw.below(9), draw.flag()) if draw.rarely() else None,
        back=wire.Document(draw.below(20), some_rules(draw), some_factor(draw))
        if draw.rarely()
        else None,
        lr_factor=some_factor(draw),
        stop=draw.rarely(),
    )


def some_rules(draw: Draw) -> tuple[wire.Rule, ...]:
    names = ("max_norm", "max_norm", "beta", "clip_value")
    return tuple(
        wire.Rule(
            {
                draw.pick(names): draw.number()
                if draw.rarely()
                else 0.005 + draw.below(12_000) / 100
            },
            draw.pick((None, "lstm.*", "lstm.*", "x")),
        )
        for _ in range(draw.below(3))
    )


def some_factor(draw: Draw) -> float:
    return draw.pick((1.0, 1.0, 0.5, 2.0, 100.0, 0.01))


if __name__ == "__main__":
    sys.exit(fuzz.main(["control"]))
