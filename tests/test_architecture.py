"""The rooms keep their doors: who imports whom is what ARCHITECTURE.md says, and nothing more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "gradhelm": ROOT / "client_hook",
    "gradhelm_server": ROOT / "server",
    "gradhelm_dashboard": ROOT / "dashboard",
    "gradhelm_migrations": ROOT / "migrations",
}
LANGUAGE = ("gradhelm.__version__", "gradhelm.errors", "gradhelm.settings", "gradhelm.wire")


class Arrow(NamedTuple):
    """``module`` and what is below it may import ``targets`` and what is below them."""

    module: str
    targets: tuple[str, ...]
    lazy: bool  # only inside functions


ARROWS = (
    Arrow("gradhelm.__main__", ("gradhelm_server.cli",), lazy=True),
    Arrow(
        "gradhelm_server",
        (*LANGUAGE, "gradhelm.address", "gradhelm.redact", "gradhelm.rest"),
        lazy=False,
    ),
    Arrow("gradhelm_server.cli", ("gradhelm_dashboard", "gradhelm_migrations"), lazy=True),
    Arrow("gradhelm_server.commands", ("gradhelm.delivery", "gradhelm.spool"), lazy=True),
    Arrow("gradhelm_server.replayed", ("gradhelm.reading", "gradhelm.whatif"), lazy=True),
    Arrow("gradhelm_server.brought", ("gradhelm.delivery", "gradhelm.spool"), lazy=True),
    Arrow("gradhelm_server.serving", ("gradhelm_migrations",), lazy=True),
    Arrow("gradhelm_dashboard", LANGUAGE, lazy=False),
)
GUESTS = {"gradhelm.demo"}
"""Training scripts that we ship: they use the package as everybody does."""
MIGRATIONS_MAY = sys.stdlib_module_names | {"alembic", "sqlalchemy", "gradhelm_migrations"}


class Import(NamedTuple):
    line: int
    target: str
    lazy: bool
    relative: bool


def imports(source: str) -> Iterator[Import]:
    """Every import of a source, and whether it stands inside a function."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(child.lineno, alias.name, lazy, relative=False)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                for alias in child.names:
                    # `from gradhelm import wire` names a module; deeper, the rest may be a function.
                    target = f"{module}.{alias.name}" if module in ROOMS else module
                    yield Import(child.lineno, target, lazy, relative=child.level > 0)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, lazy or inside)

    return walk(ast.parse(source), lazy=False)


def below(module: str, parent: str) -> bool:
    return module == parent or module.startswith(parent + ".")


def broken(module: str, source: str) -> list[str]:
    """What in ``module`` goes through a wall, in words."""
    room = module.partition(".")[0]
    found = []
    for entry in imports(source):
        if entry.relative:
            continue
        other = entry.target.partition(".")[0]
        where = f"{module}:{entry.line} imports {entry.target}"
        if room == "gradhelm_migrations" and other not in MIGRATIONS_MAY:
            found.append(f"{where}: migrations know sqlalchemy and alembic alone")
        if other not in ROOMS:
            continue
        if module in GUESTS and entry.target == "gradhelm":
            continue
        if other == room:
            found.append(f"{where}: inside a room, imports are relative")
        elif not any(
            below(module, arrow.module)
            and any(below(entry.target, target) for target in arrow.targets)
            and (entry.lazy or not arrow.lazy)
            for arrow in ARROWS
        ):
            found.append(f"{where}: there is no such arrow in ARCHITECTURE.md")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for room, root in ROOMS.items():
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def test_every_room_has_modules() -> None:
    assert {name.partition(".")[0] for name, _ in modules()} == set(ROOMS)


def test_no_import_goes_through_a_wall() -> None:
    found = [
        sentence
        for name, path in modules()
        for sentence in broken(name, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gradhelm.ring", "import gradhelm_server.store"),
        ("gradhelm.ring", "from gradhelm.wire import Frame"),
        ("gradhelm.__main__", "from gradhelm_server.cli import main"),
        ("gradhelm.__main__", "def f():\n    import gradhelm_dashboard"),
        ("gradhelm_server.app", "def f():\n    from gradhelm_dashboard.app import build_ui"),
        ("gradhelm_server.cli", "from gradhelm_dashboard.app import build_ui"),
        ("gradhelm_server.store", "from gradhelm.ring import Ring"),
        ("gradhelm_server.store", "from gradhelm import hook"),
        (
            "gradhelm_server.store",
            "if x:\n    try:\n        import gradhelm.ring as r\n    finally: 0",
        ),
        ("gradhelm_dashboard.app", "from gradhelm_server.auth import Gate"),
        ("gradhelm_migrations.env", "from gradhelm_server.tables import metadata"),
        ("gradhelm_migrations.env", "import fastapi"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert broken(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gradhelm.__main__", "def f():\n    from gradhelm_server.cli import main"),
        ("gradhelm_server.cli", "def f():\n    if x:\n        import gradhelm_migrations"),
        (
            "gradhelm_server.store",
            "from gradhelm import wire\nfrom gradhelm.errors import WireError",
        ),
        ("gradhelm_server.api.runs", "from gradhelm.wire import MAX_STEP\nfrom .. import runs"),
        ("gradhelm_migrations.env", "import os\nfrom alembic import context"),
    ],
)
def test_a_right_import_is_not(module: str, source: str) -> None:
    assert not broken(module, source)


def test_the_table_of_arrows_is_the_one_in_the_document() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("<!-- arrows -->")[2].partition("<!-- /arrows -->")[0]
    rows = []
    for line in table.strip().splitlines()[2:]:
        module, targets, when = line.strip("|").split("|")
        rows.append(
            Arrow(
                module.strip().strip("`"),
                tuple(re.findall(r"`([\w.]+)`", targets)),
                lazy={"called": True, "loaded": False}[when.strip()],
            )
        )
    assert tuple(rows) == ARROWS


@pytest.mark.parametrize("module", ["gradhelm", "gradhelm.wire", "gradhelm.settings"])
def test_importing_the_language_loads_no_heavy_package(module: str) -> None:
    program = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'fastapi', 'starlette', 'sqlalchemy', 'dash', 'uvicorn'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOMS["gradhelm"])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
