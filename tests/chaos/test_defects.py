"""The tests' own test: a suite that does not see a defect proves nothing."""

from __future__ import annotations

import pytest

from .defects import DEFECTS, attempt


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_turns_the_suite_red(name: str) -> None:
    assert attempt(name)
