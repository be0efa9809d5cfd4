"""REST does what its description says, and nothing that is asked of it breaks it."""

from __future__ import annotations

import pytest

from .rest import siege


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rest_is_as_it_describes_itself(seed: int) -> None:
    report = siege(seed, examples=6)
    print(f"\nREST, seed {seed}: {report.requests} requests, {report.failures} failures")
    assert report.failures == 0, report.text
    assert report.requests > 500, report.text
