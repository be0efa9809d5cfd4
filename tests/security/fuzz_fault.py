"""A target with a fault in it, by which one sees that the fuzzers find faults.

The fault is where a server's would be: in a module that is imported instrumented. In the target
itself nobody would see which way it goes.
"""

from __future__ import annotations

from . import fuzz

with fuzz.instrumented("security"):
    from .faulty import parse

FOUND: list[bytes] = []


def seeds() -> list[bytes]:
    return [b"good", b"evil"]


def one(data: bytes) -> None:
    parse(data)
