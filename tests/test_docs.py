"""The documents say what the code does: tables, commands, routes, bytes and codes agree."""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fastapi import FastAPI

import gradhelm
from gradhelm import wire
from gradhelm_server import api
from gradhelm_server.cli import parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_writer", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tracked() -> list[Path]:
    """The files of the repository; all that a release would hold."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


# -- what is written from the code ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "docs/protocol.md"])
def test_what_is_quoted_from_the_code_is_what_it_says_now(name: str) -> None:
    docs = writer()
    assert docs.renewed(read(name), docs.DOCUMENTS[name]) == read(name), "run: make docs"


def test_a_setting_that_is_not_in_the_readme_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = writer()
    monkeypatch.setitem(docs.settings.TABLE, "GRADHELM_NEW", ("", "something new"))
    assert docs.renewed(read("README.md"), docs.DOCUMENTS["README.md"]) != read("README.md")


def test_every_environment_variable_that_is_named_exists() -> None:
    docs = writer()
    known = {*docs.settings.TABLE, *docs.server_settings.VARIABLES}
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"\bGRADHELM_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert named <= known, named - known


def test_every_message_has_its_golden_bytes_in_the_protocol() -> None:
    docs = writer()
    text = read("docs/protocol.md")
    files = list(docs.GOLDEN.glob("*.hex"))
    missing = [path.name for path in files if f"`{path.name}`" not in text]
    assert not missing, f"not in docs/protocol.md: {missing}"
    tags = {docs.tag_of(path) for path in files}
    kinds = (*wire.ToServer.__args__, *wire.ToTrainer.__args__)
    assert {kind.__struct_config__.tag for kind in kinds} <= tags


# -- commands and routes --------------------------------------------------------------------------


def commands(top: argparse.ArgumentParser) -> set[str]:
    """``set``, ``token create`` and so on."""
    found = set()
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, made in action.choices.items():
                below = commands(made)
                found |= {f"{name} {rest}" for rest in below} if below else {name}
    return found


def test_the_readme_names_every_command_and_no_other() -> None:
    table = read("README.md").partition("## Commands")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = set()
    for row in rows:
        for words in re.findall(r"`gradhelm ([^`]+)`", row.split("|")[1]):
            named.add(
                " ".join(word for word in words.split() if word.islower() and "=" not in word)
            )
    assert named == commands(parser())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_the_documents_can_be_parsed(path: Path) -> None:
    known = {command.split()[0] for command in commands(parser())}
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for words in re.findall(r"^(?:\$ )?gradhelm +([^\n#|]+)", block, re.MULTILINE):
            assert words.split()[0] in known
            arguments = [word.strip("\"'") for word in re.findall(r'"[^"]*"|\S+', words)]
            parser().parse_args(arguments)  # exits, and so fails, when it cannot be read


def test_the_rest_document_names_every_route_and_no_other() -> None:
    app = FastAPI()
    app.include_router(api.router)
    routes = {
        f"{method.upper()} {path}" for path, on in app.openapi()["paths"].items() for method in on
    }
    named = set(re.findall(r"^\| `([A-Z]+ /[^`]*)`", read("docs/api.md"), re.MULTILINE))
    assert named == routes


# -- clipping -------------------------------------------------------------------------------------


def test_the_python_of_the_clipping_document_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADHELM_MODE", "disabled")
    blocks = re.findall(r"^```python\n(.*?)^```$", read("docs/clipping.md"), re.M | re.S)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    own = next(block for block in blocks if "class Halve" in block)
    assert len([line for line in own.splitlines() if line.strip()]) < 20
    model = torch.nn.Linear(3, 3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    halve = names["Halve"](1.0, patience=1)
    assert halve(model.parameters()) > 1.0
    assert model.bias.grad.tolist() == [0.5] * 3
    halve(model.parameters())
    assert model.bias.grad.tolist() == [0.5] * 3
    names["run"].close()


def test_the_clipping_document_names_every_strategy() -> None:
    text = read("docs/clipping.md")
    strategies = {
        name
        for name in gradhelm.clip.__all__
        if isinstance(getattr(gradhelm.clip, name), type)
        and issubclass(getattr(gradhelm.clip, name), gradhelm.clip.Strategy)
    }
    assert strategies <= set(re.findall(r"\b[A-Z]\w+", text))


# -- the rest -------------------------------------------------------------------------------------


def test_the_changelog_knows_this_version_or_what_comes_next() -> None:
    heads = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert heads
    assert heads[0] in ("Unreleased", gradhelm.__version__)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
        found = (path.parent / target) if target else path
        assert found.exists(), f"{path.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor[1:] in slugs, f"{path.name} links to {target}{anchor}"


def test_the_composed_server_is_published_on_this_machine_only() -> None:
    ports = re.findall(r'^ +- "([\d.:]+)"$', read("docker-compose.yml"), re.MULTILINE)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_everything_that_is_asked_for_is_pinned() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    asked = [
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in read("constraints-dev.txt").splitlines()
        if not line.startswith("#")
    }
    names = {re.split(r"[\[<>=~! ;]", line)[0].lower().replace("_", "-") for line in asked}
    assert names - {"gradhelm"} <= pinned


PRIVATE = re.compile(
    rb"(registry\.npmjs|files\.pythonhosted|(?<![\w.])pypi\.org|download\.pytorch"
    rb"|(?<![\w./:~-])/(work|tmp|root|home)/[\w.-]+)"
)
"""Hosts of package registries, and paths of somebody's machine."""


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        if path.name in ("LICENSE", Path(__file__).name):
            continue
        for match in PRIVATE.finditer(path.read_bytes()):
            found.append(f"{path.relative_to(ROOT)}: {match[0].decode()}")
    assert not found, "\n".join(found)


def test_each_guarantee_names_tests_that_there_are() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", read("docs/guarantees.md"))
    assert len(named) > 30
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in read(file), f"{file}::{test}"


def test_each_row_of_the_guarantees_names_a_test() -> None:
    rows = [line for line in read("docs/guarantees.md").splitlines() if line.startswith("| ")]
    told = [line for line in rows if "| proven by |" not in line]
    assert len(told) > 20
    assert [line for line in told if "`tests/" not in line] == []
