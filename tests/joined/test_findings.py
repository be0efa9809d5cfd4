"""What the advice says of real trainings: of each fault that it is there, and of none that it is not.

Many more trainings, with the rates: ``python -m benchmarks.findings``.
"""

from __future__ import annotations

import pytest
from benchmarks.findings import FAULTS, judged, train
from support import Running, eventually

pytestmark = pytest.mark.joined


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, fault.tasks[0]) for kind, fault in FAULTS.items()]
    + [(kind, name) for kind in ("none, SGD", "none, AdamW") for name in ("LSTM", "CNN")],
)
def test_a_fault_is_found_and_nothing_else(server: Running, kind: str, name: str) -> None:
    run = train(server.url, server.token, name, kind, 0)
    eventually(lambda: server.get(f"runs/{run}")["status"] == "finished", 30, "the end")
    assert judged(kind, server.get(f"runs/{run}/advice")) == (True, set())
