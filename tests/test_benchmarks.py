"""The benchmarks judge and draw as they say, whatever the figures are; none is asserted here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks import cpu, place, plots, report, summary, targets
from benchmarks.contenders import CONTENDERS

ROOT = Path(__file__).resolve().parent.parent


def about(value: float) -> dict[str, float]:
    return {"median": value, "low": 0.9 * value, "high": 1.1 * value}


def ingest(own: float, trackio: float) -> dict[str, Any]:
    def ours(name: str) -> dict[str, Any]:
        return {
            "points_per_second": about(own),
            "settled_points_per_second": about(own),
            "cpu_per_million": about(0.05),
            "settled_cpu_per_million": about(0.06),
            "bytes_per_point": about(3.9),
            "points": 1,
        }

    def theirs(name: str, rate: float) -> dict[str, Any]:
        return {
            "name": name,
            "version": "1",
            "points_per_second": about(rate),
            "cpu_per_million": about(4),
            "bytes_per_point": about(60),
            "points": 1,
        }

    return {
        "columns": 206,
        "gradhelm": {f"gradhelm, {n}-step frames": ours(str(n)) for n in (64, 16, 1)},
        "peers": [
            theirs("trackio", trackio),
            theirs("Lightning grad_norm, CSV", 9e9),
            {"name": "Aim", "version": "", "why_not": "does not install"},
        ],
        "limits": {
            "SQLAlchemy Core, 64-step blobs": {
                "points_per_second": about(3e7),
                "cpu_per_million": about(0.01),
            }
        },
        "command_ms": {"p50": 2.0, "p99": 21.0, "max": 30.0, "n": 100},
        "date": "2026-01-01",
        "command": "python -m benchmarks ingest",
        "machine": {"processor": "x", "cores": 2, "memory": "1 GB", "system": "Linux", "load": 0.1},
        "versions": {"Python": "3"},
    }


def verdicts(results: targets.Results) -> dict[str, str]:
    return {t.what: targets.judged(t, results)[2] for t in targets.TARGETS}


def test_a_target_is_held_only_when_each_of_its_conditions_is() -> None:
    told = verdicts({"ingest": ingest(own=1.3e7, trackio=2.44e5)})
    assert told["ingest, 64-step frames"] == "**held**"
    assert told["command under full ingest"] == "**missed**"
    assert told["optimizer step → pixel"] == "not measured"
    # Fifty times the fastest peer, but less than a third of what the database can do.
    told = verdicts({"ingest": ingest(own=9e6, trackio=1e5)})
    assert told["ingest, 64-step frames"] == "**missed**"


def test_ranks_are_judged_by_four_and_told_by_both() -> None:
    def job(inside: float) -> dict[str, Any]:
        return {
            "inside_us": inside,
            "added_us": {**about(50.0), "mean": 51.0},
            "cpu_us": 30.0,
            "step_us": 2000.0,
            "rounds": about(4.0),
            "steps": about(17.0),
        }

    for four, verdict in ((79.0, "**held**"), (81.0, "**missed**")):
        found = {"blocks": 20, "block": 200, "jobs": {"2": job(90.0), "4": job(four)}}
        assert verdicts({"ranks": found})["control of 2 · 4 ranks, mean per step"] == verdict
        assert f"| 4 | 2.0 | {four:.0f} | +51 (+45 to +55) | +30 | 4 (" in report._ranks(found)


def test_text_files_are_no_peers_and_what_does_not_install_is_none() -> None:
    rows = ingest(1.0, 2.44e5)["peers"]
    name, rate = targets.best(rows, lambda row: row["points_per_second"]["median"], highest=True)
    assert (name, rate) == ("trackio", 2.44e5)


def test_another_size_is_neither_held_nor_missed() -> None:
    row = {"name": "what-if over 1,000,000 steps", "server_ms": about(5.0)}
    told = verdicts({"reads": {"gradhelm": [row], "peers": []}})
    assert told["what-if over 10 M steps"] == "at another size"


def test_the_document_is_written_from_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(place, "ROOT", tmp_path)
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "performance.md")
    monkeypatch.setattr(report, "PICTURES", tmp_path / "pictures")
    with pytest.raises(SystemExit, match="nothing was measured"):
        report.write()
    found = ingest(own=1.3e7, trackio=2.44e5)
    place.keep("ingest", found, command="python -m benchmarks ingest")
    report.write()
    text = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "| ingest, 64-step frames |" in text
    assert "53.3 × trackio" in text
    assert "Not here: Aim: does not install." in text
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["cpu.svg", "disk.svg", "ingest.svg"]
    for path in (tmp_path / "pictures").iterdir():
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_bars_below_zero_and_lines_over_decades_are_drawn() -> None:
    bar = plots.bars(
        "t", "ms", [plots.Bar("a <b>", -2.0, -3.0, -1.0, "ours"), plots.Bar("c", 9, 8, 10)]
    )
    line = plots.lines("t", "steps", "ms", {"a": [(1, 2.0), (1e6, 3e3)], "b": [(1, 2.0)]})
    for drawn in (bar, line):
        assert ElementTree.fromstring(drawn) is not None
    assert plots.number(12_345_678) == "12.3 M"
    assert plots.number(0.04567) == "0.0457"


def test_spreads_and_tails() -> None:
    assert summary.spread([1, 2, 3, 4, 5]) == {"median": 3, "low": 2, "high": 4}
    assert summary.tails([1.0] * 99 + [100.0])["max"] == 100.0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="CPU times are told by Linux")
def test_the_cpu_of_a_family_includes_children_that_have_ended() -> None:
    program = (
        "import subprocess, sys, time\n"
        "busy = 'import time\\nwhile time.process_time() < 0.3: pass'\n"
        "subprocess.run([sys.executable, '-c', busy])\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.readline()
        assert cpu.family(parent.pid) >= 0.25
        parent.stdin.close()


def test_contenders_need_nothing_until_they_are_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, benchmarks.contenders; print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    assert all(made.requires for name, made in CONTENDERS.items() if name != "gradhelm")


def test_an_unknown_part_is_asked_wrongly() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "expected hook, ingest" in done.stderr
