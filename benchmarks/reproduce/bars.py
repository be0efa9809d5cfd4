"""What a reproduced result is made of: bars, what was measured, and a table of the details."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Say = Callable[[str], None]
"""Takes a line about how far a measurement has got."""


@dataclass(frozen=True)
class Bar:
    """A quantity, and the range it has to be in, ends included."""

    quantity: str
    low: float = -math.inf
    high: float = math.inf
    form: str = ".2f"

    def __str__(self) -> str:
        low, high = format(self.low, self.form), format(self.high, self.form)
        if self.high == math.inf:
            return f"at least {low}"
        return f"at most {high}" if self.low == -math.inf else f"{low} to {high}"


@dataclass(frozen=True)
class Measured:
    """The values of a bar's quantity, one for each seed where there are several."""

    bar: Bar
    values: Sequence[float]

    @property
    def held(self) -> bool:
        """Whether every value is within the bar; one that is no number is not."""
        return bool(self.values) and all(self.bar.low <= v <= self.bar.high for v in self.values)

    def __str__(self) -> str:
        return ", ".join(format(v, self.bar.form) for v in self.values)


@dataclass(frozen=True)
class Findings:
    """What one measurement gave.

    values: those of each bar, in the order of the bars.
    header, rows: a table of the details, if there is more than the values.
    drawing: an SVG of it, if there is one; ``shows`` is its text for those who do not see it.
    """

    values: Sequence[Sequence[float]]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    drawing: str = ""
    shows: str = ""


@dataclass(frozen=True)
class Result:
    """A published result, and how it is measured here.

    about: source and set-up, in Markdown.
    """

    name: str
    title: str
    about: str
    bars: Sequence[Bar]
    measure: Callable[[Say], Findings] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """A result with what was found, and how long that took."""

    result: Result
    findings: Findings
    seconds: float

    @property
    def measured(self) -> list[Measured]:
        """The bars with their values."""
        pairs = zip(self.result.bars, self.findings.values, strict=True)
        return [Measured(bar, values) for bar, values in pairs]
