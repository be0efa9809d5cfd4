"""Times as the interface shows them: RFC 3339, UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

LATEST: Final = 253_402_300_799.999
"""The last millisecond of the year 9999."""


def rfc3339(seconds: float | None) -> str | None:
    """``seconds`` since the epoch as text with milliseconds; None stays None.

    A time that no calendar has is shown as the first or the last one that there is.
    """
    if seconds is None:
        return None
    return (
        datetime.fromtimestamp(min(max(seconds, 0.0), LATEST), UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
