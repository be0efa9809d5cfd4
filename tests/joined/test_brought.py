"""Runs out of files: what was exported comes back the same, and others' files become runs too."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from support import Program, Running
from trainer import trainer

from gradhelm import wire

pytestmark = pytest.mark.joined
STEPS = 900


@pytest.fixture(scope="module")
def stored(server: Running) -> str:
    """A run with bad values, holes, and a loss that was logged now and then."""
    random = np.random.default_rng(2)
    norms = random.lognormal(size=STEPS).astype(np.float32)
    norms[[3, 4, 5]] = np.nan, np.inf, 3e38
    with trainer(server.ws, server.token, layers=['odd, "name"', "=1+1"], name="before") as fake:
        rows = fake.rows(norms)
        rows.view(np.uint32)[::3, -1] = wire.MISSING_BITS
        fake.send(0, rows[:400])
        fake.send(500, rows[500:])
        fake.say(wire.Columns(1, 0, (wire.Column("loss", "log"),)))
        fake.seq += 1
        steps = np.arange(0, 890, 7, dtype=np.uint64)
        losses = random.normal(size=(len(steps), 1)).astype(np.float32)
        fake.say(wire.pack_frame(fake.seq, 1, 0, steps, 1e6 + steps.astype(np.float64), losses))
        while fake.hear(wire.Ack).seq < fake.seq:  # type: ignore[union-attr]
            pass
        return fake.run


def table(server: Running, run: str) -> list[list[str]]:
    answer = server.rest.get(f"/api/v1/runs/{run}/export", params={"format": "csv"})
    assert answer.status_code == 200
    return list(csv.reader(io.StringIO(answer.text, newline="")))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_was_exported_comes_back_the_same(
    server: Running, here: Program, stored: str, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / f"run.{kind}"
    assert here.run("export", stored, "--format", kind, "-o", str(place)).returncode == 0
    told = here.json("import", str(place), "--project", "again", "--tag", "a", "--tag", "b")
    assert table(server, told["run"]) == table(server, stored)
    made, before = (server.get(f"runs/{run}") for run in (told["run"], stored))
    assert (made["name"], made["project"], made["tags"]) == ("run", "again", ["a", "b"])
    assert made["status"] == "finished"
    assert made["config"] == {"imported_from": str(place)}
    for figure in ("first_step", "last_step", "steps", "clip_fraction", "nonfinite", "threshold"):
        assert made[figure] == before[figure], figure
    control = server.get(f"runs/{told['run']}/control")
    assert control["why_read_only"] == "the run was imported from a file"


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """As another program's export may look, and the norms in it."""
    norms = np.random.default_rng(5).lognormal(size=500).astype(np.float32)
    place = tmp_path / "wandb export.csv"
    frame = pandas.DataFrame(
        {
            "Step": np.arange(500) * 10,
            "train/grad_norm": norms,
            "train/loss": np.linspace(3, 1, 500),
            "grads/a.weight": norms * 0.6,
            "grads/b.weight": norms * 0.8,
            "note": "text",
        }
    )
    frame.to_csv(place, index=False)
    os.utime(place, (1_700_000_000, 1_700_000_000))
    return place, norms


def test_anothers_file_becomes_a_run_that_can_be_asked(
    server: Running, here: Program, foreign: tuple[Path, np.ndarray]
) -> None:
    place, norms = foreign
    done = here.run("import", str(place), "--norms", "grads/*", "--max-norm", "1", "--name", "old")
    assert done.returncode == 0, done.stderr
    assert "train/grad_norm is taken for the global norm" in done.stdout
    assert "2 columns are taken for norms of parameters" in done.stdout
    assert "left out, since they are no numbers: 'note'" in done.stdout
    assert "old: 500 steps, " in done.stdout
    run = done.stdout.split("/runs/")[1].strip()
    clipped = int((torch.clamp(1.0 / (torch.tensor(norms) + 1e-6), max=1.0) < 1).sum())
    found = server.get(f"runs/{run}/whatif", max_norm="1,2")
    assert found["actual"]["clipped"] == found["results"][0]["clipped"] == clipped
    advice = server.get(f"runs/{run}/advice")
    assert advice["steps"] == 500
    assert advice["suggestions"][0]["value"] == pytest.approx(np.percentile(norms, 90), rel=1e-3)
    names = [one["name"] for one in server.get(f"runs/{run}/parameters")["parameters"]]
    assert names == ["a.weight", "b.weight"]
    found = server.get(f"runs/{run}/series", columns="train/loss", points=20_000)
    loss = found["columns"]["train/loss"]
    assert loss["step"] == list(range(0, 5000, 10))
    assert loss["mean"] == np.linspace(3, 1, 500).astype(np.float32).tolist()
    assert server.get(f"runs/{run}")["created_at"] is not None
    times = server.get(f"runs/{run}/times")
    assert times["started_at"].startswith("2023-11-14T22:13:20")


def test_without_a_threshold_the_run_only_watches(
    server: Running, here: Program, foreign: tuple[Path, np.ndarray]
) -> None:
    told = here.json("import", str(foreign[0]), "--global-norm", "train/loss")
    assert (told["steps"], told["columns"]) == (500, 6)
    made = server.get(f"runs/{told['run']}")
    assert (made["strategy"], made["clip_fraction"]) == ("Observe", 0.0)
    assert server.get(f"runs/{told['run']}/whatif", max_norm="2")["results"][0]["clipped"] == 250


CSV = "step,global_norm\n0,1.0\n"
BAD: dict[str, tuple[str, str, list[str], str]] = {
    "missing": ("", "x.csv", ["--format", "csv"], "there is no "),
    "unknown kind": ("x", "x.txt", [], "say what it is: --format"),
    "empty": ("", "x.csv", [], "has no rows"),
    "head alone": ("step,global_norm\n", "x.csv", [], "has no rows"),
    "no step": ("a,b\n1,2\n", "x.csv", [], "--step says which of 'a', 'b' it is"),
    "no such step": (CSV, "x.csv", ["--step", "epoch"], "has no column 'epoch'"),
    "no norm": ("step,loss\n0,1\n", "x.csv", [], "--global-norm says which of 'loss' it is"),
    "no such norm": (CSV, "x.csv", ["--global-norm", "g"], "there is no column 'g': 'global_norm'"),
    "no such norms": (CSV, "x.csv", ["--norms", "g/*"], "'g/*' matches no column"),
    "text": (CSV + "1,high\n", "x.csv", [], "line 3: global_norm is 'high', which is no number"),
    "backwards": (CSV + "0,2\n", "x.csv", [], "line 3: step 0 comes after step 0"),
    "half a step": (CSV + "1.5,2\n", "x.csv", [], "line 3: step is '1.5'"),
    "no steps": (CSV + "-1,2\n", "x.csv", [], "line 3: step is '-1'"),
    "more cells": (CSV + "1,2,3\n", "x.csv", [], "line 3: 3 cells under 2 names"),
    "twice": ("step,a,a\n0,1,1\n", "x.csv", [], "a column's name stands twice"),
    "an open quote": (CSV + '1,"2\n', "x.csv", [], "line 3: unexpected end of data"),
    "a time": ("step,time,global_norm\n0,noon,1\n", "x.csv", [], "'noon' is no time"),
    "no JSON": ("{", "x.jsonl", [], "line 1: no proper JSON"),
    "no object": ("[1]\n", "x.jsonl", [], "line 1: expected a JSON object"),
    "no Parquet": ("no", "x.parquet", [], "is no Parquet file"),
    "no text": ("\udcff", "x.csv", [], "it is no text"),
    "long name": (f"step,global_norm,{'n' * 500}\n0,1,1\n", "x.csv", [], "has at most 440 char"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_said_and_makes_no_run(
    server: Running, here: Program, tmp_path: Path, name: str
) -> None:
    text, file, words, message = BAD[name]
    place = tmp_path / file
    if name != "missing":
        place.write_bytes(text.encode(errors="surrogateescape"))
    before = len(server.get("runs", limit=500)["runs"])
    done = here.run("import", str(place), *words)
    assert done.returncode == 1, done.stdout
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(server.get("runs", limit=500)["runs"]) == before


@pytest.mark.parametrize("words", [["--max-norm", "0"], ["--max-norm", "x"], ["--name", ""]])
def test_what_is_asked_wrongly_is_said(here: Program, words: list[str]) -> None:
    assert here.run("import", "x.csv", *words).returncode == 2


def test_times_may_be_written_out(server: Running, here: Program, tmp_path: Path) -> None:
    place = tmp_path / "x.jsonl"
    rows: list[dict[str, Any]] = [
        {"step": 0, "global_norm": "Infinity", "more": {"a": 1}},
        {"step": 5, "time": "2026-01-02T03:04:15Z", "global_norm": 1e300},
        {"step": 6, "global_norm": "NaN", "loss": True},
    ]
    place.write_text("\n".join(map(json.dumps, rows)))
    os.utime(place, (1_700_000_000, 1_700_000_000))
    told = here.json("import", str(place))
    found = table(server, told["run"])
    assert found[1][:3] == ["0", "1700000000", "inf"]
    assert found[2][:3] == ["5", "1767323055", "inf"]
    assert found[3][2] == "nan"
    assert server.get(f"runs/{told['run']}")["nonfinite"] == 3


DOCUMENT = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text()


def test_what_the_document_says_can_be_done(
    server: Running,
    here: Program,
    foreign: tuple[Path, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with trainer(server.ws, server.token, name="my run") as fake:
        fake.say(wire.Columns(1, 0, (wire.Column("loss", "log"),)))
        fake.send(0, fake.rows([0.5, 2.0]))
    monkeypatch.setenv("GRADHELM_SERVER", server.url)
    monkeypatch.setenv("GRADHELM_TOKEN", server.token)
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S)
    exec(compile("".join(blocks), "docs/exchange.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["0.5", "1.85", "1.0"]
    foreign[0].rename(tmp_path / "history.csv")
    (line,) = re.findall(r"`(gradhelm export .*?)`", DOCUMENT)
    shell = re.findall(r"^(gradhelm import .*?)(?: +#.*)?$", DOCUMENT, re.M)
    assert [shlex.split(one)[2] for one in shell] == ["run.csv", "history.csv", "runs/Nov29"]
    shell[2:] = re.findall(r"^gradhelm whatif .*$", DOCUMENT, re.M)
    for one in (line, *shell):  # TensorBoard's is among the oracles
        done = here.run(*shlex.split(one)[1:], cwd=tmp_path)
        assert done.returncode == 0, (one, done.stderr)


def test_another_column_may_be_the_global_norm(here: Program, tmp_path: Path) -> None:
    place = tmp_path / "x.csv"
    place.write_text("step,global_norm,post_norm\n0,2,1\n")
    done = here.run("import", str(place), "--global-norm", "post_norm")
    assert "the file's own global_norm is left out" in done.stdout
    assert "x: 1 step, 3 columns" in done.stdout
