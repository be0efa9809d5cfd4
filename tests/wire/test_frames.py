"""Frames keep every bit of what they carry, and what is wrong with one is said."""

from __future__ import annotations

import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradhelm import wire
from gradhelm.errors import WireError

from .examples import FROM_TRAINER, RUN

FRAME = FROM_TRAINER["frame"]


def changed(**fields) -> wire.Frame:
    return msgspec.structs.replace(FRAME, **fields)


@given(st.data(), st.integers(1, 5), st.integers(1, 8))
def test_a_frame_comes_back_with_every_bit(data, rows, columns):
    bits = data.draw(
        st.lists(st.integers(0, 2**32 - 1), min_size=rows * columns, max_size=rows * columns)
    )
    steps = data.draw(
        st.lists(st.integers(0, wire.MAX_STEP), min_size=rows, max_size=rows, unique=True)
    )
    times = data.draw(
        st.lists(st.floats(0, wire.MAX_TIME, exclude_max=True), min_size=rows, max_size=rows)
    )
    values = np.array(bits, np.uint32).view(np.float32).reshape(rows, columns)
    frame = wire.pack_frame(
        9, 3, 4, np.array(sorted(steps), np.uint64), np.array(times, np.float64), values
    )
    again = wire.decode_from_trainer(wire.encode(frame))
    assert isinstance(again, wire.Frame)
    found = wire.unpack_frame(again, columns)
    assert found[0].tolist() == sorted(steps)
    assert found[1].tolist() == times
    assert found[2].view(np.uint32).ravel().tolist() == bits
    assert wire.missing(found[2]).ravel().tolist() == [bit == wire.MISSING_BITS for bit in bits]


def test_a_slice_of_a_wider_matrix_is_packed_as_it_looks():
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    steps = np.arange(3, dtype=np.uint64)
    frame = wire.pack_frame(1, 0, 0, steps, np.zeros(3), matrix[:, 1:3])
    assert wire.unpack_frame(frame, 2)[2].tolist() == [[1, 2], [5, 6], [9, 10]]


def test_missing_survives_the_way_through_float64():
    assert np.float32(float(wire.MISSING)).view(np.uint32) == wire.MISSING_BITS
    row = np.zeros(2, np.float32)
    row[:] = (1.0, float(wire.MISSING))
    assert wire.missing(row).tolist() == [False, True]
    assert not wire.missing(np.array([np.nan, -np.nan], np.float32)).any()


REFUSED = [
    (changed(steps=b""), 2, "steps are 0 bytes; expected a positive multiple of 8"),
    (changed(steps=b"1234567"), 2, "steps are 7 bytes"),
    (changed(times=b""), 2, "times are 0 bytes; expected 16"),
    (FRAME, 3, "values are 16 bytes; expected 2 steps x 3 columns x 4 = 24"),
    (changed(values=b""), 2, "values are 0 bytes"),
    (changed(crc=1), 2, "wrong CRC"),
    (changed(values=FRAME.values[:-1] + b"\x00"), 2, "wrong CRC"),
]


@pytest.mark.parametrize(("frame", "columns", "text"), REFUSED, ids=[r[2] for r in REFUSED])
def test_a_frame_that_does_not_fit_is_refused_with_the_reason(frame, columns, text):
    with pytest.raises(WireError, match=text):
        wire.unpack_frame(frame, columns)


@pytest.mark.parametrize(
    ("steps", "times", "text"),
    [
        ([2, 1], [0, 0], "steps must increase"),
        ([1, 1], [0, 0], "steps must increase"),
        ([1, 2**53], [0, 0], "steps must increase"),
        ([1, 2], [0, np.nan], "times must be finite"),
        ([1, 2], [np.inf, 0], "times must be finite"),
    ],
)
def test_steps_and_times_that_cannot_be_are_refused(steps, times, text):
    frame = wire.pack_frame(
        1, 0, 0, np.array(steps, np.uint64), np.array(times, float), np.zeros((2, 1), np.float32)
    )
    with pytest.raises(WireError, match=text):
        wire.unpack_frame(frame, 1)


def test_a_frame_too_large_is_refused():
    rows = wire.MAX_FRAME // 4 + 1
    frame = wire.pack_frame(
        1,
        0,
        0,
        np.arange(rows, dtype=np.uint64),
        np.zeros(rows),
        np.zeros((rows, 1), np.float32),
    )
    with pytest.raises(WireError, match=f"at most {wire.MAX_FRAME}"):
        wire.unpack_frame(frame, 1)


def fields(name: str, /, **changes) -> bytes:
    return msgspec.msgpack.encode(
        {**msgspec.msgpack.decode(wire.encode(FROM_TRAINER[name])), **changes}
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"type": "ack", "seq": 1}),
        msgspec.msgpack.encode({"type": "nonsense"}),
        msgspec.msgpack.encode({"seq": 1}),
        msgspec.msgpack.encode([]),
        fields("gap", seq=-1),
        fields("gap", seq=0),
        fields("gap", seq=2**53),
        fields("gap", seq=1.5),
        fields("gap", seq=True),
        fields("gap", reason=""),
        fields("gap", reason=None),
        fields("frame", group=-1),
        fields("frame", group=wire.MAX_COLUMNS),
        fields("frame", crc=2**32),
        fields("frame", steps="text"),
        fields("hello", run=RUN.upper()),
        fields("hello", run=RUN.replace("-7", "-4")),
        fields("hello", run="../" + RUN),
        fields("hello", segment="xyz"),
        fields("hello", name=""),
        fields("hello", name="x" * 201),
        fields("hello", config="x" * (wire.MAX_CONFIG + 1)),
        fields("hello", tags=[""]),
        fields("columns", first=wire.MAX_GROUP),
        fields("columns", columns=[{"name": "x", "kind": "other"}]),
        fields("finish", status="live"),
        b"\x00" * (wire.MAX_MESSAGE + 1),
    ],
    ids=lambda data: f"{len(data)} bytes {data[:20]!r}",
)
def test_what_is_no_message_is_a_wire_error_and_nothing_else(data):
    with pytest.raises(WireError):
        wire.decode_from_trainer(data)


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_else(data):
    for decode in (wire.decode_from_trainer, wire.decode_from_server):
        with contextlib.suppress(WireError):
            decode(data)
