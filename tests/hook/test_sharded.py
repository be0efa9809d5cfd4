"""FSDP2: two ranks, each with its shards, clip as one process does that has whole gradients.

The checks are in ``shards.py`` and run in two jobs, of two and of four ranks; each is a test here.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradhelm

from .test_every_strategy import MAKE

HERE = Path(__file__).parent
ROOTS = [Path(gradhelm.__file__).parents[1], HERE.parent]
LIMIT = 240
"""Seconds for all checks of a job: far more than they take."""


def names(mark: str) -> list[str]:
    """The checks by name, read from the source: its ranks alone import what it needs."""
    tree = ast.parse((HERE / "shards.py").read_text())
    marked = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == mark for d in node.decorator_list)
    ]
    if mark != "check":
        return marked
    tables = {
        node.target.id: [key.value for key in node.value.keys]
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.target.id in ("STRATEGIES", "PUT_TOGETHER")
    }
    return [
        *(f"strategy {name}" for name in tables["STRATEGIES"]),
        *(f"together {name}" for name in tables["PUT_TOGETHER"]),
        *marked,
    ]


def job(ranks: int, folder: Path) -> list[dict[str, str]]:
    """What each rank says of each check."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRADHELM_")},
        "PYTHONPATH": os.pathsep.join(map(str, ROOTS)),
        "GRADHELM_HOME": str(folder / "home"),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "hook.shards", str(rank), str(ranks), str(folder)],
            env=environment,
        )
        for rank in range(ranks)
    ]
    try:
        codes = [one.wait(LIMIT) for one in started]
    finally:
        for one in started:
            one.kill()
    assert codes == [0] * ranks
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, str]]:
    return job(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> list[dict[str, str]]:
    return job(4, tmp_path_factory.mktemp("four"))


def test_no_strategy_and_no_check_is_forgotten(two, four):
    strategies = {name for name in names("check") if name.startswith("strategy ")}
    assert strategies == {f"strategy {name}" for name in MAKE}
    assert all(list(rank) == names("check") for rank in two)
    assert all(list(rank) == names("check_of_four") for rank in four)


@pytest.mark.parametrize("name", names("check"))
def test_two_ranks_clip_as_one_process_does(name, two):
    assert [rank[name] for rank in two] == ["", ""]


@pytest.mark.parametrize("name", names("check_of_four"))
def test_four_ranks_on_two_dimensions_clip_as_one_process_does(name, four):
    assert [rank[name] for rank in four] == [""] * 4
