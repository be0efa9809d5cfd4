"""A fuzzer's bytes, read as choices: the same bytes are always the same choices.

When they run out everything is nought, so every input is a whole one, and a shorter input is a
simpler one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
EDGES = (
    0,
    1,
    2,
    7,
    255,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53 - 1,
    2**53,
    2**63 - 1,
    2**63,
    -1,
)
FLOATS = (
    0.0,
    -0.0,
    1.0,
    0.5,
    0.01,
    100.0,
    5e-324,
    1e-45,
    1e308,
    -1.0,
    math.nan,
    math.inf,
    -math.inf,
)
TEXTS = (
    "",
    "a",
    "max_norm",
    "a.weight",
    "loss",
    "*",
    "a" * 200,
    "a" * 201,
    "\0",
    "é",
    "\u202e<b>",
    "=1+1",
    "../..",
    "%00",
    "\ud800",
)


class Draw:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def bytes(self, most: int) -> bytes:
        """At most so many bytes; how many is drawn too."""
        return self.take(min(most, self.below(most + 1)))

    def take(self, count: int) -> bytes:
        some = self._data[self._at : self._at + count]
        self._at += count
        return some

    def rest(self) -> bytes:
        return self.take(max(0, len(self._data) - self._at))

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1."""
        if limit <= 1:
            return 0
        width = (limit - 1).bit_length() + 7 >> 3
        return int.from_bytes(self.take(width), "little") % limit

    def flag(self) -> bool:
        return self.below(2) == 1

    def rarely(self) -> bool:
        """Once in sixteen times."""
        return self.below(256) >= 240

    def pick(self, some: Sequence[T]) -> T:
        return some[self.below(len(some))]

    def whole(self) -> int:
        """Any whole number, edges mostly."""
        return self.below(1000) if self.flag() else self.pick(EDGES)

    def number(self) -> float:
        """Any float, edges often."""
        kind = self.below(4)
        if kind == 0:
            return self.pick(FLOATS)
        if kind == 1:
            return self.below(10_000) / 100
        return float(struct.unpack("<d", self.take(8).ljust(8, b"\0"))[0])

    def text(self) -> str:
        if self.flag():
            return self.pick(TEXTS)
        return self.bytes(24).decode("utf-8", "replace")
