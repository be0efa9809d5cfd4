"""The one language between the hook and everyone else: messages, limits, close codes.

A run is a growing matrix of steps x columns in float32. A :class:`Frame` is a slice of it: some
steps of one *group* of columns, with the version of the control document that was in force. Frames
and gaps of a segment (one life of the trainer) are numbered by ``seq`` without holes; whoever
receives number n has received, or was told the loss of, everything before it.

Everything here is pure: no sockets, no clocks, no torch. ``docs/protocol.md`` shows each message
with its bytes, and golden files under ``tests/wire/golden`` hold them still.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import Annotated, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from .errors import WireError

PROTOCOL: Final = 1
SUBPROTOCOL: Final = "gradhelm.v1"
INGEST_PATH: Final = "/api/v1/ingest"

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of one WebSocket message; a longer one ends the connection."""
MAX_FRAME: Final = 240 * 1024
"""Bytes of one frame's values; wide or fast runs send several frames."""
MAX_COLUMNS: Final = 65_536
"""Columns of one run."""
MAX_GROUP: Final = 32_768
"""Columns of one group, so that one step of it always fits in a frame."""
MAX_NAME: Final = 200
MAX_COLUMN: Final = 2 * MAX_NAME + 40
"""Characters of a column's name: a parameter's, with what is said of it and of which stream."""
MAX_RULES: Final = 256
"""Strategies of one run."""
MAX_LR_FACTOR: Final = 100.0
"""The most that learning rates may be multiplied, or divided, by."""
MAX_CONFIG: Final = 64 * 1024
MAX_STEP: Final = 2**53 - 1
MAX_TIME: Final = 253_402_300_800.0
"""Seconds since 1970 until the year 10000, in which all times end."""

MISSING_BITS: Final = 0x7FC00BAD
"""The float32 bit pattern of "no value here"; every other NaN is a NaN that was measured."""
MISSING: Final = np.array([MISSING_BITS], dtype="<u4").view("<f4")[0]

FloatArray = npt.NDArray[np.float32]
StepArray = npt.NDArray[np.uint64]
TimeArray = npt.NDArray[np.float64]


class CloseCode(IntEnum):
    """Why the server ended a trainer's socket (4000-4999 are the application's own)."""

    BAD_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    RUN_IS_TAKEN = 4409
    REPLACED = 4410
    TOO_LARGE = 4413
    SPEAK_NEWER = 4426
    TRY_LATER = 4503


CLOSE_REASONS: Final[dict[CloseCode, str]] = {
    CloseCode.BAD_MESSAGE: "too many messages that could not be read",
    CloseCode.UNAUTHORIZED: "the token was revoked or has expired",
    CloseCode.FORBIDDEN: "this token may not report this run",
    CloseCode.RUN_IS_TAKEN: "this run id exists already; attach with resume=True to continue it",
    CloseCode.REPLACED: "a newer trainer took over this run",
    CloseCode.TOO_LARGE: "the run has more columns than the server accepts",
    CloseCode.SPEAK_NEWER: "the server does not speak this protocol version",
    CloseCode.TRY_LATER: "the server is shutting down or cannot store at the moment",
}

FINAL_CLOSES: Final = frozenset(
    {
        CloseCode.FORBIDDEN,
        CloseCode.RUN_IS_TAKEN,
        CloseCode.REPLACED,
        CloseCode.TOO_LARGE,
        CloseCode.SPEAK_NEWER,
    }
)
"""After these a trainer does not come back; after any other end it reconnects."""

Seq = Annotated[int, Meta(ge=1, le=MAX_STEP)]
Step = Annotated[int, Meta(ge=0, le=MAX_STEP)]
Count = Annotated[int, Meta(ge=0, le=MAX_STEP)]
Positive = Annotated[int, Meta(ge=1, le=MAX_STEP)]
Share = Annotated[float, Meta(ge=0, le=1)]
Time = Annotated[float, Meta(ge=0, lt=MAX_TIME)]
"""Seconds since 1970."""
Factor = Annotated[float, Meta(ge=1 / MAX_LR_FACTOR, le=MAX_LR_FACTOR)]
_NO_NUL: Final = r"^[^\x00]*\Z"
"""Databases and terminals end a text at a NUL, so none may hold one."""
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=_NO_NUL)]
Text = Annotated[str, Meta(max_length=1000, pattern=_NO_NUL)]
_LARGEST: Final = 1.7976931348623157e308
Number = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
"""A finite number: thresholds and limits are never NaN or infinite."""
Values = Annotated[dict[Name, Number], Meta(max_length=64)]
RunId = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
]
SegmentId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class _Message(Struct, frozen=True, tag_field="type"):
    """Fields that a reader does not know are ignored, so that either side may be the newer one."""


# -- what a run is made of ----------------------------------------------------------------------


class Column(Struct, frozen=True):
    """One column: a scalar of the clip, a parameter's gradient norm, a detail of a parameter or of
    a rule (its clip coefficient, its threshold, its weight norm, ...), or a logged scalar.

    ``shape`` and ``dtype`` are the parameter's and are empty for scalars. The names of a stream
    that is not the run's first begin with the stream's name and a slash.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_COLUMN, pattern=_NO_NUL)]
    kind: Annotated[str, Meta(pattern=r"^(scalar|norm|detail|log)\Z")]
    shape: Annotated[tuple[Count, ...], Meta(max_length=16)] = ()
    dtype: Annotated[str, Meta(max_length=20)] = ""


class Rule(Struct, frozen=True):
    """The values of one strategy's own parameters.

    ``match`` is the pattern of parameter names that the strategy is for, None for a strategy that
    is for all; ``stream`` is the optimizer that it clips for, None for the run's first.
    """

    values: Values
    match: Name | None = None
    stream: Name | None = None


class Limit(Struct, frozen=True):
    """The range that the trainer lets remote users move one strategy parameter in; ``whole``: in
    whole numbers only."""

    min: Number
    max: Number
    whole: bool = False


class Coded(Struct, frozen=True):
    """One strategy as the training script has it, and the ranges in which it may be changed.

    ``threshold`` names the value that is *the* threshold (None when there is none); ``match`` and
    ``stream`` as in a rule. ``optimizer`` is the class of the one that steps what is clipped.
    """

    strategy: Name
    values: Values
    threshold: Name | None = None
    limits: Annotated[dict[Name, Limit], Meta(max_length=64)] = {}
    match: Name | None = None
    stream: Name | None = None
    optimizer: Name | None = None


class Limits(Struct, frozen=True):
    """How remote users may change a run; ``why_not`` says why when they may not.

    ``factor``: the largest ratio of one change, up or down. ``every_steps``: the least number of
    steps between two changes. ``lr``, ``stop``: whether the learning rates may be scaled, and the
    run be asked to stop.
    """

    factor: Number | None = None
    every_steps: Count = 0
    why_not: Text | None = None
    lr: bool = False
    stop: bool = False


class RevertIf(Struct, frozen=True):
    """When the trainer takes a version back by itself, judged over its first ``within`` steps.

    ``nonfinite``: as soon as the loss or the global norm is NaN or infinite. ``clip_fraction``: at
    the end, when the share of clipped steps is below the first number or above the second.
    """

    within: Positive
    nonfinite: bool = False
    clip_fraction: tuple[Share, Share] | None = None


class Document(Struct, frozen=True):
    """A control document: the values of every rule, and what the learning rates are multiplied by."""

    version: Count
    rules: tuple[Rule, ...]
    lr_factor: Factor = 1.0


# -- trainer to server --------------------------------------------------------------------------


class Hello(_Message, frozen=True, tag="hello"):
    """The first message of a connection: who is speaking and for which run.

    ``segment`` is one life of the trainer; ``coded`` are the strategies in the training script,
    those of the run's first optimizer first; ``streams`` are the names of its optimizers when there are
    several (the first one's columns and rules go without); ``config`` is a JSON object as text.
    """

    run: RunId
    segment: SegmentId
    name: Name
    project: Name
    coded: Annotated[tuple[Coded, ...], Meta(min_length=1, max_length=MAX_RULES)]
    limits: Limits
    streams: Annotated[tuple[Name, ...], Meta(max_length=MAX_RULES)] = ()
    config: Annotated[str, Meta(max_length=MAX_CONFIG)] = "{}"
    tags: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    started: Time = 0.0
    resume: bool = False
    version: Count = 0
    host: Text = ""
    hook: Annotated[str, Meta(max_length=40)] = ""
    protocol: int = PROTOCOL


class Replay(_Message, frozen=True, tag="replay"):
    """In place of a hello: what comes now was kept on disk by the trainer that ``hello`` is of.

    It may be gone since long, or speak for the same run meanwhile: nobody is replaced, nothing is
    steered, and how the run is doing is still what its newest segment says.
    """

    hello: Hello


class Columns(_Message, frozen=True, tag="columns"):
    """Declares columns ``first``... of a group; sent before the first frame that uses them.

    Declaring the same columns again (after a reconnect) changes nothing. ``stream`` is the
    optimizer whose steps the group's rows are, None for the run's first.
    """

    group: Annotated[int, Meta(ge=0, lt=MAX_COLUMNS)]
    first: Annotated[int, Meta(ge=0, lt=MAX_GROUP)]
    columns: Annotated[tuple[Column, ...], Meta(max_length=MAX_GROUP)]
    stream: Name | None = None


class Frame(_Message, frozen=True, tag="frame"):
    """Some steps of one group of columns.

    ``steps``: uint64 LE, strictly increasing. ``times``: float64 LE, seconds since 1970.
    ``values``: float32 LE, one row per step. ``crc``: CRC-32 of the three, in this order.
    ``version``: the control version in force at each of these steps.
    """

    seq: Seq
    group: Annotated[int, Meta(ge=0, lt=MAX_COLUMNS)]
    version: Count
    steps: bytes
    times: bytes
    values: bytes
    crc: Annotated[int, Meta(ge=0, lt=2**32)]


class Gap(_Message, frozen=True, tag="gap"):
    """Steps ``first``..``last`` were taken but are not coming: ``count`` rows lost, and why.

    A ``count`` of 0 only takes a number, that of a record which an earlier gap tells of.
    """

    seq: Seq
    first: Step
    last: Step
    count: Count
    reason: Name


class Heartbeat(_Message, frozen=True, tag="heartbeat"):
    """Still here, and what being watched costs. Times in seconds; fill from 0 to 1."""

    step: Step | None
    stats: Values


class Applied(_Message, frozen=True, tag="applied"):
    """Control ``version`` took hold: ``step`` is the first one clipped with its values.

    ``stream`` is the optimizer whose steps are counted, None for the run's first. ``back``: the
    version that this one, being temporary or on trial, gives way to; None when it is there to stay.
    """

    version: Count
    step: Step
    rules: tuple[Rule, ...]
    stream: Name | None = None
    back: Count | None = None


class Reverted(_Message, frozen=True, tag="reverted"):
    """The trainer went back to the document before control ``version``, whose time was over or
    which did not stand its trial; ``step`` is the first one clipped with ``rules`` again.

    ``stream`` is the optimizer whose steps are counted, None for the run's first.
    """

    version: Count
    step: Step
    why: Text
    rules: tuple[Rule, ...]
    stream: Name | None = None


class Delivered(_Message, frozen=True, tag="delivered"):
    """Control ``version`` is with the trainer and waits for the next step boundary."""

    version: Count


class Rejected(_Message, frozen=True, tag="rejected"):
    """The trainer refuses control ``version``; what was in force stays so."""

    version: Count
    step: Step
    why: Text


class Finish(_Message, frozen=True, tag="finish"):
    """The run ended; ``step`` is the last one taken, ``why`` the error of a failed run.

    ``lost``: its process did not say so itself. It left a spool without an end, and what it measured
    last may be in none.
    """

    status: Annotated[str, Meta(pattern=r"^(finished|failed|stopped)\Z")]
    step: Step | None
    why: Text = ""
    lost: bool = False


ToServer = (
    Hello
    | Replay
    | Columns
    | Frame
    | Gap
    | Heartbeat
    | Applied
    | Delivered
    | Rejected
    | Reverted
    | Finish
)


# -- server to trainer --------------------------------------------------------------------------


class Welcome(_Message, frozen=True, tag="welcome"):
    """The answer to Hello. Send on from ``high_water`` + 1, at most ``window`` unacknowledged."""

    high_water: Count
    window: Annotated[int, Meta(ge=1)]
    pace_ms: Annotated[int, Meta(ge=100)]
    protocol: int = PROTOCOL


class Ack(_Message, frozen=True, tag="ack"):
    """Everything up to ``seq`` is stored (committed), each once."""

    seq: Count


class Refused(_Message, frozen=True, tag="refused"):
    """One message was not taken; with a ``seq`` it is declared missing and must not be resent."""

    reason: Text
    seq: Seq | None = None


class Resend(_Message, frozen=True, tag="resend"):
    """A number was skipped: send again from ``seq``."""

    seq: Seq


class Pace(_Message, frozen=True, tag="pace"):
    """How often to send frames: often while somebody watches, about once a second otherwise."""

    ms: Annotated[int, Meta(ge=100)]


class Change(_Message, frozen=True, tag="change"):
    """The desired control document, whole. Acted on only if newer than the trainer's own.

    ``stream`` is the optimizer whose steps are counted, None for the run's first. ``not_before``:
    the first step that may have it. ``ttl_steps``: how many steps it is in force for. ``until``: the
    first step without it, for a trainer that was started again since. ``revert_if``: when it is to
    be taken back. ``back``: what it gives way to then; None for what is in force.
    ``lr_factor``: what the learning rates are multiplied by. ``stop``: the run is asked to end.
    """

    version: Count
    rules: tuple[Rule, ...]
    stream: Name | None = None
    not_before: Step | None = None
    ttl_steps: Positive | None = None
    until: Step | None = None
    revert_if: RevertIf | None = None
    back: Document | None = None
    lr_factor: Factor = 1.0
    stop: bool = False


class Finished(_Message, frozen=True, tag="finished"):
    """Finish is stored; the connection may end."""


ToTrainer = Welcome | Ack | Refused | Resend | Pace | Change | Finished


# -- bytes --------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_server_decoder: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
_trainer_decoder: msgspec.msgpack.Decoder[ToTrainer] = msgspec.msgpack.Decoder(ToTrainer)
_T = TypeVar("_T")


def encode(message: ToServer | ToTrainer) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_from_trainer(data: bytes) -> ToServer:
    """The message in ``data``. Raises WireError saying what is wrong with it."""
    return _decode(_server_decoder, data)


def decode_from_server(data: bytes) -> ToTrainer:
    """The message in ``data``. Raises WireError saying what is wrong with it."""
    return _decode(_trainer_decoder, data)


def _decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    if len(data) > MAX_MESSAGE:
        raise WireError(f"message of {len(data)} bytes; at most {MAX_MESSAGE} are accepted")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"unreadable message: {_where_first(error)}") from error


def _where_first(error: Exception) -> str:
    """What msgspec says, beginning with the field: of a close reason the end is cut off."""
    what, found, where = str(error).rpartition(" - at `$")
    return f"{where.strip('.`') or 'the message'}: {what}" if found else str(error)


def pack_frame(
    seq: int, group: int, version: int, steps: StepArray, times: TimeArray, values: FloatArray
) -> Frame:
    """A frame of ``values`` (steps x columns, float32). The arrays are copied."""
    parts = (
        steps.astype("<u8", copy=False).tobytes(),
        times.astype("<f8", copy=False).tobytes(),
        values.astype("<f4", copy=False).tobytes(),
    )
    return Frame(seq, group, version, *parts, crc=_crc(*parts))


def unpack_frame(frame: Frame, columns: int) -> tuple[StepArray, TimeArray, FloatArray]:
    """Steps, times and values (steps x ``columns``) of a frame, as read-only views of its bytes.

    Raises WireError when lengths do not fit, steps do not increase, times are none, or the CRC
    differs.
    """
    count, rest = divmod(len(frame.steps), 8)
    if rest or not count:
        raise WireError(f"steps are {len(frame.steps)} bytes; expected a positive multiple of 8")
    if len(frame.times) != 8 * count:
        raise WireError(f"times are {len(frame.times)} bytes; expected {8 * count}")
    if len(frame.values) != 4 * count * columns:
        raise WireError(
            f"values are {len(frame.values)} bytes; expected {count} steps x {columns} columns "
            f"x 4 = {4 * count * columns}"
        )
    if len(frame.values) > MAX_FRAME:
        raise WireError(f"values are {len(frame.values)} bytes; at most {MAX_FRAME} are accepted")
    if _crc(frame.steps, frame.times, frame.values) != frame.crc:
        raise WireError("wrong CRC: the frame was damaged on its way")
    steps = np.frombuffer(frame.steps, "<u8")
    if int(steps.max()) > MAX_STEP or (count > 1 and not bool(np.all(steps[1:] > steps[:-1]))):
        raise WireError("steps must increase and stay below 2^53")
    times = np.frombuffer(frame.times, "<f8")
    if not bool(np.all((times >= 0) & (times < MAX_TIME))):  # NaN is neither
        raise WireError("times must be finite, and between the years 1970 and 9999")
    return steps, times, np.frombuffer(frame.values, "<f4").reshape(count, columns)


def _crc(*parts: bytes) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def missing(values: FloatArray) -> npt.NDArray[np.bool_]:
    """Where ``values`` hold no value at all (as against a NaN that was measured)."""
    absent: npt.NDArray[np.bool_] = values.view(np.uint32) == MISSING_BITS
    return absent
