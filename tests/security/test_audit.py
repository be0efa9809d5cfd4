"""What is installed with gradhelm is looked at, and what is wrong with it is noticed."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from support import ROOT


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_installed_goes_together(audit: ModuleType) -> None:
    assert audit.broken() == []


def test_what_is_installed_is_what_is_pinned(audit: ModuleType) -> None:
    assert audit.unpinned() == []


def test_what_runs_with_gradhelm_is_under_licences_that_go_with_its_own(audit: ModuleType) -> None:
    found = audit.licences()
    assert {"fastapi", "sqlalchemy", "dash", "msgspec", "uvicorn", "httptools"} <= found.keys()
    assert "pytest" not in found
    assert audit.unlicensed() == []


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("BSD License", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("AGPL-3.0-only", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_is_known_by_its_words(audit: ModuleType, words: str, known: bool) -> None:
    assert bool(audit.PERMISSIVE.search(words)) == known


def test_what_is_not_as_pinned_is_noticed(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "pins", lambda: {"fastapi": "0.0.1"})
    found = audit.unpinned()
    assert any(line.startswith("fastapi is ") for line in found)
    assert any(line.startswith("sqlalchemy ") and "not pinned" in line for line in found)


def test_nobody_to_ask_is_not_the_same_as_nothing_known(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("broken", "unpinned", "unlicensed"):
        monkeypatch.setattr(audit, name, list)
    monkeypatch.setattr("sys.argv", ["audit"])
    monkeypatch.setattr(audit, "vulnerable", lambda: None)
    assert audit.main() == audit.NOT_LOOKED_AT
    assert "NOT LOOKED AT" in capsys.readouterr().out
    monkeypatch.setattr(audit, "vulnerable", lambda: ["x 1.0: CVE-1"])
    assert audit.main() == 1
    monkeypatch.setattr(audit, "vulnerable", list)
    assert audit.main() == 0
