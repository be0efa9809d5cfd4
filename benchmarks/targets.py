"""What is aimed at, and whether it was reached: decided here, from the results alone.

A target is held when each of its conditions holds at the size that it names. One that was measured
at another size, or not at all, is neither held nor missed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .contenders import CONTENDERS
from .plots import number

Results = dict[str, dict[str, Any]]
MISSED = "**missed**"


@dataclass(frozen=True)
class Found:
    """``holds`` is None when it was measured at another size than the target's."""

    measured: str
    ratio: str
    holds: bool | None


@dataclass(frozen=True)
class Target:
    what: str
    target: str
    find: Callable[[Results], Found]
    """Raises KeyError when the part was not measured."""
    limit: str = ""
    """What stands in the way, as profiles show it; told where it was missed."""


def judged(target: Target, results: Results) -> tuple[str, str, str]:
    """Measured, ratio and verdict, in words."""
    try:
        found = target.find(results)
    except KeyError:
        return "–", "–", "not measured"
    verdict = {True: "**held**", False: MISSED, None: "at another size"}[found.holds]
    return found.measured, found.ratio, verdict


# -- looking things up ----------------------------------------------------------------------------


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for row in rows:
        if row["name"] == name and "why_not" not in row:
            return row
    raise KeyError(name)


def best(
    rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], *, highest: bool = False
) -> tuple[str, float]:
    """The best of the other loggers that keep what can be asked for, and its value."""
    found = [
        (row["name"], value(row))
        for row in rows
        if "why_not" not in row and row["name"] != "gradhelm" and CONTENDERS[row["name"]].keeps
    ]
    if not found:
        raise KeyError("no other logger was measured")
    return (max if highest else min)(found, key=lambda pair: pair[1])


# -- the clip -------------------------------------------------------------------------------------


def _clip(what: str, *bounds: tuple[str, float]) -> Callable[[Results], Found]:
    """``bounds``: a model and the most of torch's own clip that it may cost there."""

    def find(results: Results) -> Found:
        by_model = {
            row["where"]: row["median"] for row in results["hook"]["rows"] if row["what"] == what
        }
        measured = " · ".join(f"{by_model[model]:.2f} ×" for model, _ in bounds)
        return Found(measured, "–", all(by_model[model] <= most for model, most in bounds))

    return find


# -- the step -------------------------------------------------------------------------------------


def _whole_step(job: str, percent: float) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        rows = results["steps"]["jobs"][job]
        own = _named(rows, "gradhelm")
        name, theirs = best(rows, lambda row: float(row["added_percent"]["median"]))
        added = own["added_percent"]["median"]
        return Found(f"{added:+.2f} %", f"{name}: {theirs:+.1f} %", added <= percent)

    return find


def _step_cpu(results: Results) -> Found:
    jobs = results["steps"]["jobs"]
    own = [_named(jobs[job], "gradhelm")["cpu_ms"] for job in ("75 layers", "200 layers")]
    name, theirs = best(jobs["75 layers"], lambda row: float(row["cpu_ms"]))
    return Found(f"{own[0]:.2f} ms · {own[1]:.2f} ms", f"{name}: {theirs:.1f} ms", max(own) <= 0.5)


def _handoff(results: Results) -> Found:
    told = _named(results["steps"]["jobs"]["200 layers"], "gradhelm")["told"]
    p50, p99 = told["handoff_p50_us"], told["handoff_p99_us"]
    return Found(f"{p50:.1f} µs · {p99:.1f} µs", "–", p50 <= 10 and p99 <= 50)


def _import(results: Results) -> Found:
    told = results["steps"]["import"]
    ms, brought = told["ms"]["median"], told["server_packages"]
    return Found(f"{ms:.0f} ms, {len(brought)} packages", "–", ms <= 60 and not brought)


# -- ranks ----------------------------------------------------------------------------------------


def _ranks(results: Results) -> Found:
    jobs = results["ranks"]["jobs"]
    inside = [jobs[size]["inside_us"] for size in ("2", "4")]
    return Found(f"{inside[0]:.0f} µs · {inside[1]:.0f} µs", "–", inside[1] <= 80)


# -- ingest ---------------------------------------------------------------------------------------


def _ingest(rows: int, times: float) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        part = results["ingest"]
        own = part["gradhelm"][f"gradhelm, {rows}-step frames"]["points_per_second"]["median"]
        name, theirs = best(
            part["peers"], lambda row: float(row["points_per_second"]["median"]), highest=True
        )
        holds = own >= times * theirs
        ratio = f"{own / theirs:.1f} × {name} ({number(theirs)}/s)"
        if rows == 64:
            core = part["limits"]["SQLAlchemy Core, 64-step blobs"]["points_per_second"]["median"]
            ratio += f"; {own / core:.2f} of Core"
            holds = holds and own >= core / 3
        return Found(f"{number(own)} points/s", ratio, holds)

    return find


def _ingest_cpu(results: Results) -> Found:
    part = results["ingest"]
    own = part["gradhelm"]["gradhelm, 64-step frames"]["settled_cpu_per_million"]["median"]
    name, theirs = best(part["peers"], lambda row: float(row["cpu_per_million"]["median"]))
    return Found(
        f"{own:.3f} s", f"1/{theirs / own:.0f} of {name}", own <= 0.1 and own <= theirs / 40
    )


def _postgres(results: Results) -> Found:
    part = results["ingest"]
    own = part["gradhelm"]["gradhelm, 64-step frames, PostgreSQL"]["points_per_second"]["median"]
    bare = part["limits"]["bare asyncpg"]["points_per_second"]["median"]
    return Found(f"{number(own)} points/s", f"{own / bare:.2f} of bare asyncpg", own >= 0.4 * bare)


def _command(results: Results) -> Found:
    told = results["ingest"]["command_ms"]
    return Found(f"p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms", "–", told["p99"] <= 20)


def _disk(results: Results) -> Found:
    part = results["ingest"]
    own = part["gradhelm"]["gradhelm, 64-step frames"]["bytes_per_point"]["median"]
    name, theirs = best(part["peers"], lambda row: float(row["bytes_per_point"]["median"]))
    return Found(
        f"{own:.2f} bytes", f"1/{theirs / own:.0f} of {name}", own <= 4 and own <= theirs / 15
    )


# -- reads ----------------------------------------------------------------------------------------


def _inside(results: Results, name: str) -> float:
    return float(_named(results["reads"]["gradhelm"], name)["server_ms"]["median"])


def _read(name: str, most: float, kind: str, steps: int) -> Callable[[Results], Found]:
    """Against the fastest of those that had as many ``steps`` to read."""

    def find(results: Results) -> Found:
        own = _inside(results, name)
        rows = [row for row in results["reads"]["peers"] if row.get(kind, {}).get("steps") == steps]
        try:
            other, theirs = best(rows, lambda row: float(row[kind]["ms"]["median"]))
        except KeyError:
            return Found(f"{own:.1f} ms", "–", own <= most)
        ratio = f"{theirs / own:.1f} × faster than {other} ({theirs:.0f} ms)"
        return Found(f"{own:.1f} ms", ratio, own <= most and theirs >= 25 * own)

    return find


def _read_large(results: Results) -> Found:
    less = _inside(results, "200 columns × 1,000 buckets, 100,000 steps")
    own = _inside(results, "200 columns × 1,000 buckets, 10,000,000 steps")
    return Found(f"{own:.1f} ms", f"{own / less:.2f} × that of 100,000 steps", own <= 1.5 * less)


def _whatif(results: Results) -> Found:
    name = "what-if over 10,000,000 steps"
    try:
        own = _inside(results, name)
    except KeyError:
        own = _inside(results, "what-if over 1,000,000 steps")
        return Found(f"{own:.0f} ms over 1,000,000", "–", None)
    return Found(f"{own:.0f} ms", "–", own <= 100)


# -- live -----------------------------------------------------------------------------------------


def _pixel(results: Results) -> Found:
    told = results["live"]["pixel_ms"]
    return Found(
        f"p50 {told['p50']:.0f} ms, p99 {told['p99']:.0f} ms",
        "–",
        told["p50"] <= 150 and told["p99"] <= 400,
    )


def _applied(results: Results) -> Found:
    told, step = results["live"]["applied_ms"], results["live"]["step_ms"]["median"]
    return Found(f"p50 {told['p50']:.0f} ms, steps of {step:.0f} ms", "–", told["p50"] <= step + 50)


def _main_thread(results: Results) -> Found:
    told, script = results["live"]["update_ms"], results["live"]["script_ms"]
    return Found(
        f"median {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms, JavaScript {script:.1f} ms",
        "–",
        told["p50"] <= 12 and told["p99"] <= 25 and script <= 2,
    )


def _held(results: Results) -> Found:
    held = results["live"]["held"]
    first, last = held["samples"][1], held["samples"][-1]
    growth = last["heap"] - first["heap"]
    return Found(
        f"{growth / 1e6:+.1f} MB in {held['seconds'] // 60} min, {held['late'] / held['frames']:.2%} "
        "of frames late",
        "–",
        growth <= 2e6 and last["nodes"] <= 1.1 * first["nodes"],
    )


# -- a long run -----------------------------------------------------------------------------------


def _open(results: Results) -> Found:
    told = results["long"]["views"][-1]
    paint, charts = told["paint_ms"]["median"], told["charts_ms"]["median"]
    size = told["page_bytes"]["median"] / 1e6
    return Found(
        f"{paint:.0f} ms / {charts:.0f} ms of {told['steps']:,} steps; {size:.2f} MB",
        "–",
        paint <= 500 and charts <= 1000 and size <= 1.2,
    )


def _long_views(results: Results) -> Found:
    short, long = results["long"]["views"]
    ratios = {
        words: long[name]["median"] / short[name]["median"]
        for words, name in (
            ("first paint", "paint_ms"),
            ("charts", "charts_ms"),
            ("all of it", "all_ms"),
            ("slowest zoom", "slowest_zoom_ms"),
        )
    }
    measured = ", ".join(f"{words} {ratio:.2f} ×" for words, ratio in ratios.items())
    holds = max(ratios.values()) <= 1.5
    return Found(measured, "–", holds if long["steps"] == 10_000_000 else None)


# -- growth ---------------------------------------------------------------------------------------


def _runs(results: Results) -> Found:
    held = 0
    for row in results["growth"]["runs"]:
        stored = row["points_per_second"] >= 0.95 * row["offered_per_second"]
        if stored and not row["errors"] and not row["unacknowledged"]:
            held = max(held, row["runs"])
    return Found(f"{held} of those tried", "–", held >= 500)


TARGETS = (
    Target(
        "a step that clips nothing, of `clip_grad_norm_`: 1.2 M · 2.9 M · 200 tensors · 25.7 M",
        "≤ 0.55 ×",
        _clip(
            "clips nothing",
            ("75 tensors, 1.2 M", 0.55),
            ("75 tensors, 2.9 M", 0.55),
            ("200 tensors, 1.2 M", 0.55),
            ("99 tensors, 25.7 M", 0.55),
        ),
        "Of the bare clip, `_foreach_norm` and reading its results back take 0.36 to 0.44; what is left "
        "is Python, the more so the smaller the tensors are. Views kept over steps, which would save "
        "some, do not outlive `zero_grad`.",
    ),
    Target(
        "a step that clips: 1.2 M · 25.7 M",
        "≤ 0.8 × · ≤ 1.0 ×, the same weights to the bit",
        _clip("clips", ("75 tensors, 1.2 M", 0.8), ("99 tensors, 25.7 M", 1.0)),
        "The same bits need torch's own two passes over the gradients, and these are nearly all of it. "
        "The coefficient's few operations take 7 µs with warm caches and 70 µs after a backward pass.",
    ),
    Target(
        "a step that clips, fused AdamW, `exact=False`: 2.9 M · 25.7 M",
        "≤ 0.75 ×",
        _clip(
            "clips, fused AdamW, exact=False",
            ("75 tensors, 2.9 M", 0.75),
            ("99 tensors, 25.7 M", 0.75),
        ),
        "The norms are read once and nothing is written; on the smaller model the rest is Python, as "
        "above.",
    ),
    Target("whole step, 75 layers: time added", "≤ 0 %", _whole_step("75 layers", 0.0)),
    Target("whole step, 200 layers: time added", "≤ 0.5 %", _whole_step("200 layers", 0.5)),
    Target("the same: CPU of all processes, 75 · 200 layers", "≤ 0.5 ms", _step_cpu),
    Target("hand-off at 200 layers, p50 · p99", "≤ 10 µs · ≤ 50 µs", _handoff),
    Target("`import gradhelm` beyond torch", "≤ 60 ms, no server package", _import),
    Target("control of 2 · 4 ranks, mean per step", "≤ 80 µs at 4", _ranks),
    Target(
        "ingest, 64-step frames",
        "≥ 50 × the fastest peer, ≥ 1/3 of SQLAlchemy Core's blobs",
        _ingest(64, 50),
        "One thread writes, and shares the interpreter with those that receive and compact: a third of "
        "its time is SQLite's (the commit reaches the disk before it is acknowledged), the rest is "
        "checking, counting, and looking for events.",
    ),
    Target(
        "ingest, 16-step frames",
        "≥ 35 × the fastest peer",
        _ingest(16, 35),
        "As below, in a lesser degree.",
    ),
    Target(
        "ingest, 1-step frames",
        "≥ 10 × the fastest peer",
        _ingest(1, 10),
        "A frame costs about as much with one step as with sixteen: receiving, checking and a row of "
        "its own, some 0.2 ms in all.",
    ),
    Target(
        "CPU per million points, both sides",
        "≤ 0.1 s, ≤ 1/40 of the leanest peer",
        _ingest_cpu,
        "The writer takes two thirds of it, the compactor (bit shuffling, LZ4, rollups) a quarter.",
    ),
    Target("ingest to PostgreSQL", "≥ 0.4 × bare asyncpg", _postgres),
    Target(
        "command under full ingest",
        "p99 ≤ 20 ms",
        _command,
        "A command goes before all that waits, but the commit under way has to end first, which is half "
        "a megabyte of frames or a tile, and then three threads take turns at the interpreter. "
        "Groups of a quarter of that gave p99 85 ms in place of 91, and took less in.",
    ),
    Target("disk, all included", "≤ 4.0 bytes/point, ≤ 1/15 of the leanest peer", _disk),
    Target(
        "1 column × 100,000 steps, server time",
        "≤ 10 ms, ≥ 25 × the fastest peer",
        _read("1 column × 100,000 steps, every one", 10, "series", 100_000),
    ),
    Target(
        "200 columns × 1,000 buckets of 5,000 steps",
        "≤ 8 ms, ≥ 25 × the fastest peer",
        _read("200 columns × 1,000 buckets, 5,000 steps", 8, "table", 5_000),
        "Buckets of eight steps come from the steps themselves: a million numbers are unpacked (two "
        "fifths of the time), turned about and reduced (another two); a run's first 16-step buckets "
        "would be too coarse.",
    ),
    Target(
        "200 columns × 1,000 buckets of 100,000 steps",
        "≤ 30 ms",
        _read("200 columns × 1,000 buckets, 100,000 steps", 30, "table", 100_000),
    ),
    Target("the same of 10 M steps", "≤ 1.5 × that", _read_large),
    Target("what-if over 10 M steps", "≤ 100 ms", _whatif),
    Target("optimizer step → pixel", "p50 ≤ 150 ms, p99 ≤ 400 ms", _pixel),
    Target("`PUT` → applied, one process", "p50 ≤ 1 step + 50 ms", _applied),
    Target(
        "page: main thread per live update, 200 layers, 10/s",
        "median ≤ 12 ms, p99 ≤ 25 ms, JavaScript ≤ 2 ms",
        _main_thread,
        "What the page itself does takes 1.5 ms of processor time; without a GPU, the browser copies "
        "two canvases to the screen, and all of it shares two cores with the trainer and the server.",
    ),
    Target("the same page left open: heap, frames over 50 ms", "does not grow", _held),
    Target(
        "page of a run of a million steps or more: first paint / charts; its size",
        "≤ 0.5 s / ≤ 1.0 s; ≤ 1.2 MB",
        _open,
        "The charts have their numbers early and wait for Dash: reading and running React and the "
        "components, and putting the page together with them, is a second of JavaScript.",
    ),
    Target("page of a run of 10 M steps, beside one of 10 thousand", "≤ 1.5 ×", _long_views),
    Target("runs held, 300 layers × 10 steps/s each", "500", _runs),
)
