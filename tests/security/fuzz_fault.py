"""A target with a fault in it, by which one sees that the fuzzers find faults."""

from __future__ import annotations

FOUND: list[bytes] = []


def seeds() -> list[bytes]:
    return [b"good", b"evil"]


def one(data: bytes) -> None:
    assert data[:2] != b"ev" or data[2:3] != b"e", "here it is"
