"""A parser with a fault in it."""

from __future__ import annotations


def parse(data: bytes) -> None:
    assert data[:2] != b"ev" or data[2:3] != b"e", "here it is"
