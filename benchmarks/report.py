"""Writes docs/performance.md and its pictures from the results at hand, and nothing by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import place, plots
from .plots import Bar, number
from .targets import MISSED, TARGETS, Results, judged

DOCUMENT = place.ROOT / "docs" / "performance.md"
PICTURES = place.ROOT / "docs" / "images" / "performance"
PARTS = ("hook", "steps", "ranks", "ingest", "reads", "live", "long", "growth")

INTRODUCTION = """# Performance

Written by `python -m benchmarks report` from measurements that `make bench` repeats on your machine
(Linux; about 35 minutes, hours with `ARGS="--large"`; `python -m benchmarks --help` names its
parts). A point is one column's value at one step. Absolute times belong to the machine; ratios
travel better. Every figure is a median, with its quartiles in brackets where they are told, and the
thin line on a bar.

What is compared logs the norms of all layers at every step, local and by its own documented means,
each in an environment of its own with the same release of torch, with everything switched off that
it does besides. Norms are computed for the others as leanly as can be written by hand:
`torch._foreach_norm`, and one wait for all of them."""


def write() -> None:
    results: Results = {part: found for part in PARTS if (found := place.kept(part)) is not None}
    if not results:
        raise SystemExit(
            "nothing was measured yet: python -m benchmarks steps ingest reads live growth"
        )
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    sections = [INTRODUCTION, _machine(results), _targets(results)]
    sections += [SECTIONS[part](results[part]) for part in PARTS if part in results]
    DOCUMENT.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    place.say(f"wrote {DOCUMENT.relative_to(place.ROOT)}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _picture(name: str, text: str, svg: str) -> str:
    (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
    return f"![{text}](images/performance/{name}.svg)"


def _spread(of: dict[str, float], unit: str = "", digits: int = 1) -> str:
    low, median, high = (f"{of[name]:,.{digits}f}" for name in ("low", "median", "high"))
    return f"{median}{unit} ({low}–{high})"


def _bar(name: str, of: dict[str, float], kind: str = "theirs") -> Bar:
    return Bar(name, of["median"], of["low"], of["high"], kind)


def _kind(name: str) -> str:
    return "ours" if name.startswith("gradhelm") else "theirs"


def _missing(rows: Sequence[dict[str, Any]]) -> str:
    reasons = sorted({f"{row['name']}: {row['why_not']}" for row in rows if "why_not" in row})
    return "Not here: " + "; ".join(reasons) + "." if reasons else ""


def _versions(rows: Sequence[dict[str, Any]]) -> str:
    named = sorted({f"{row['name']} {row['version']}" for row in rows if row["version"]})
    return "Releases: " + ", ".join(named) + "."


def _machine(results: Results) -> str:
    rows = []
    for part, found in results.items():
        on = found["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        rows.append(
            [
                part,
                found["date"],
                f"`{found['command']}`",
                f"{on['processor']}, {on['cores']} cores, {on['memory']}, {on['system']}, "
                f"load {on['load']} at the end",
                versions,
            ]
        )
    return "## Where and when\n\n" + _table(
        ["part", "date", "command", "machine", "versions"], rows
    )


def _targets(results: Results) -> str:
    verdicts = [(t, judged(t, results)) for t in TARGETS]
    rows = [[t.what, t.target, *verdict] for t, verdict in verdicts]
    missed = [
        f"- *{t.what}*: {t.limit}"
        for t, (_, _, verdict) in verdicts
        if verdict == MISSED and t.limit
    ]
    parts = [
        "## Targets\n\nHeld or missed is decided by the program, from the figures below. That the "
        "weights are the same to the bit as with torch's own clip is shown by "
        "`python -m benchmarks.identity`.",
        _table(["what", "target", "measured", "to the best peer", ""], rows),
    ]
    if missed:
        parts.append("What stands in the way where one was missed, as profiles show it:")
        parts.append("\n".join(missed))
    return "\n\n".join(parts)


# -- parts ----------------------------------------------------------------------------------------


def _hook(found: dict[str, Any]) -> str:
    return (
        "## The clip itself\n\nThe clip with the norms of all layers, their hand-off and the "
        "decision, against torch's `clip_grad_norm_(foreach=True)` alone, on the same gradients in "
        "one process, one torch thread; below 1 is less than torch's. A step that clips nothing need "
        "not write the gradients; one that clips has the weights of torch's own, to the bit, unless "
        "`exact=False` folds the coefficient into the optimizer's own pass. The last rows are what "
        "a frame costs the thread that sends.\n\n"
        + _table(
            ["", "model", "median (quartiles)", "in CPU time"],
            (
                [
                    row["what"],
                    row["where"],
                    _spread(row, f" {row['unit']}", 2 if row["unit"] == "of bare" else 1),
                    "" if row["cpu"] is None else f"{row['cpu']:.2f}",
                ]
                for row in found["rows"]
            ),
        )
        + "\n\nOn CUDA no step waits for the device: norms are stacked there and the coefficient stays "
        "there. No machine with a GPU was at hand, so this is not measured."
    )


def _steps(found: dict[str, Any]) -> str:
    parts = [
        "## Added to a training step\n\nBlocks of steps with a bare `clip_grad_norm_` and with the "
        "logger, in random order in one process, one torch thread. CPU is of all processes, the "
        "server included."
    ]
    for job, rows in found["jobs"].items():
        there = [row for row in rows if "why_not" not in row]
        if not there:
            continue
        there.sort(key=lambda row: float(row["added_ms"]["median"]))
        bare = there[0]["bare_ms"]
        parts += [
            f"### {job}\n\n{there[0]['columns']} parameter tensors; a step with the bare clip takes "
            f"{_spread(bare, ' ms')}.",
            _table(
                ["logger", "ms added", "% of the step", "CPU ms/step"],
                (
                    [
                        row["name"],
                        _spread(row["added_ms"], digits=2),
                        _spread(row["added_percent"]),
                        f"{row['cpu_ms']:.2f}",
                    ]
                    for row in there
                ),
            ),
            _picture(
                f"steps-{job.split()[0]}",
                f"Milliseconds added to a step, {job}",
                plots.bars(
                    f"Added to a training step, {job}",
                    "ms added per step",
                    [_bar(row["name"], row["added_ms"], _kind(row["name"])) for row in there],
                ),
            ),
        ]
    everybody = [row for rows in found["jobs"].values() for row in rows]
    return "\n\n".join(filter(None, [*parts, _versions(everybody), _missing(everybody)]))


def _ranks(found: dict[str, Any]) -> str:
    return (
        "## Ranks of a job\n\nProcesses on this machine train a small model under "
        f"DistributedDataParallel; {found['blocks']} blocks of {found['block']} steps with the rounds "
        "in which the ranks agree, and as many without, in random order in the same processes. Means, "
        "since nine steps of ten have no round. *At the boundary* is what the training thread of the "
        "slowest rank spends on it; *whole step* is the difference between blocks, with its "
        "quartiles, and *CPU* that of all threads. The last columns are from a change's arrival on "
        "rank 0 until all ranks have it in force.\n\n"
        + _table(
            [
                "ranks",
                "a step, ms",
                "at the boundary, µs",
                "whole step, µs",
                "CPU, µs",
                "rounds",
                "steps",
            ],
            (
                [
                    size,
                    f"{job['step_us'] / 1000:.1f}",
                    f"{job['inside_us']:.0f}",
                    f"{job['added_us']['mean']:+.0f} ({job['added_us']['low']:+.0f} to "
                    f"{job['added_us']['high']:+.0f})",
                    f"{job['cpu_us']:+.0f}",
                    _spread(job["rounds"], digits=0),
                    _spread(job["steps"], digits=0),
                ]
                for size, job in found["jobs"].items()
            ),
        )
    )


def _ingest(found: dict[str, Any]) -> str:
    peers = [row for row in found["peers"] if "why_not" not in row]
    peers.sort(key=lambda row: -float(row["points_per_second"]["median"]))
    rows, rate, cost, disk = [], [], [], []
    for name, own in found["gradhelm"].items():
        size = own["bytes_per_point"]
        rows.append(
            [
                name,
                number(own["points_per_second"]["median"]),
                number(own["settled_points_per_second"]["median"]),
                _spread(own["settled_cpu_per_million"], digits=3),
                _spread(size, digits=2) if size else "–",
            ]
        )
        rate.append(_bar(name, own["points_per_second"], "ours"))
        cost.append(_bar(name, own["settled_cpu_per_million"], "ours"))
        if size:
            disk.append(_bar(name, size, "ours"))
    for row in peers:
        per_second = number(row["points_per_second"]["median"])
        rows.append(
            [
                row["name"],
                per_second,
                per_second,
                _spread(row["cpu_per_million"], digits=1),
                _spread(row["bytes_per_point"], digits=0),
            ]
        )
        rate.append(_bar(row["name"], row["points_per_second"]))
        cost.append(_bar(row["name"], row["cpu_per_million"]))
        disk.append(_bar(row["name"], row["bytes_per_point"]))
    for name, limit in found["limits"].items():
        rows.append(
            [
                f"*{name}*",
                number(limit["points_per_second"]["median"]),
                "",
                _spread(limit["cpu_per_million"], digits=3),
                "",
            ]
        )
        rate.append(_bar(name, limit["points_per_second"], "limit"))
    told = found["command_ms"]
    return "\n\n".join(
        filter(
            None,
            [
                "## Taking values in\n\nOne trainer sends as fast as it is allowed to, over the socket, "
                f"{found['columns']} columns, to `gradhelm up` as a process of its own, until every "
                "frame is acknowledged, which it is once committed; *settled* counts until the server "
                "has nothing left to do either. The others are fed 200 columns in their own process, "
                "until they say that they are finished. In italics, what the parts can do without "
                "anything around them. Disk is everything that was written. Text files (DVCLive, "
                "Lightning's CSV) are shown and not counted as peers: they keep nothing that can be "
                "asked for.",
                _table(
                    ["", "points/s", "settled", "CPU s per million", "bytes/point"],
                    rows,
                ),
                _picture(
                    "ingest",
                    "Points per second",
                    plots.bars("Taken in", "points per second", rate, logarithmic=True),
                ),
                _picture(
                    "cpu",
                    "CPU per million points",
                    plots.bars(
                        "CPU, both sides", "seconds per million points", cost, logarithmic=True
                    ),
                ),
                _picture("disk", "Bytes per point", plots.bars("On disk", "bytes per point", disk)),
                f"While one trainer floods the server, a change of another one's threshold reaches it "
                f"after {told['p50']:.1f} ms (p99 {told['p99']:.1f} ms, of {told['n']}).",
                _missing(found["peers"]),
            ],
        )
    )


def _reads(found: dict[str, Any]) -> str:
    rows = [
        [
            row["name"],
            _spread(row["server_ms"]),
            _spread(row["http_ms"]),
            f"{row['first_ms']:.1f}",
            f"{row['bytes'] / 1e6:.2f} MB" + (f" in {n}" if (n := row["requests"]) > 1 else ""),
        ]
        for row in found["gradhelm"]
    ]
    peers = [row for row in found["peers"] if "table" in row]
    theirs = [
        [
            row["name"],
            row["by"],
            f"{_spread(row['series']['ms'])} of {row['series']['steps']:,}",
            f"{_spread(row['table']['ms'])} of {row['table']['steps']:,}",
        ]
        for row in peers
    ]
    table = next(
        row
        for row in found["gradhelm"]
        if row["name"].startswith("200 columns × 1,000 buckets, 5,000")
    )
    parts = [
        "## Reading\n\nOf runs of 200 layers, in binary where there is a binary form (what-if: JSON, a "
        "run of one layer). *Server* is the application called without a socket, *HTTP* is over "
        "loopback, *first* the first time that it was asked for.",
        _table(["gradhelm", "server ms", "HTTP ms", "first ms", "answer"], rows),
        "The others by their own means, warm: every value of one column of up to 100,000 steps, and "
        "200 columns at about 1,000 values each of up to 5,000 steps; as many steps as they took in "
        "the time that was given.",
        _table(["", "by", "one column: ms, of steps", "200 columns: ms, of steps"], theirs),
    ]
    if peers:
        bars = [_bar("gradhelm, server", table["server_ms"], "ours")]
        bars += [_bar("gradhelm, HTTP", table["http_ms"], "ours")]
        bars += [_bar(row["name"], row["table"]["ms"]) for row in peers]
        picture = plots.bars("200 columns at 1,000 points", "ms", bars, logarithmic=True)
        parts.append(_picture("reads", "Milliseconds to read 200 columns", picture))
    return "\n\n".join(filter(None, [*parts, _missing(found["peers"])]))


def _live(found: dict[str, Any]) -> str:
    rows = [
        [
            "optimizer step → pixel",
            *(f"{found['pixel_ms'][n]:.0f} ms" for n in ("p50", "p99", "max")),
        ],
        ["`PUT` → applied", *(f"{found['applied_ms'][n]:.0f} ms" for n in ("p50", "p99", "max"))],
        [
            "main thread of the page per update",
            *(f"{found['update_ms'][n]:.1f} ms" for n in ("p50", "p99", "max")),
        ],
    ]
    return "\n\n".join(
        [
            "## Live\n\nA training process with the hook, 200 layers at "
            f"{1000 / found['step_ms']['median']:.0f} steps/s, a server, and the page in Chromium "
            "without a GPU. A step counts as seen at the frame after the one that drew it.",
            _table(["", "p50", "p99", "max"], rows),
            f"{found['updates_per_second']:.1f} updates a second, JavaScript takes "
            f"{found['script_ms']:.1f} ms of each; {found['undrawn_steps']} steps were never drawn.",
            _kept_open(found["held"]),
        ]
    )


def _kept_open(held: dict[str, Any]) -> str:
    first, last = held["samples"][1], held["samples"][-1]
    return (
        f"The page kept open for {held['seconds'] // 60} minutes: {last['heap'] / 1e6:.1f} MB on "
        f"the heap after a collection, {first['heap'] / 1e6:.1f} MB after the first tenth of that; "
        f"{last['nodes']:,} nodes, before {first['nodes']:,}. Of {held['frames']:,} frames "
        f"{held['late']:,} took longer than 50 ms."
    )


def _long(found: dict[str, Any]) -> str:
    memory = found["memory"]
    views = found["views"]
    rows = [
        [words, *(_spread(view[name], " ms", 0) for view in views)]
        for words, name in (
            ("first paint", "paint_ms"),
            ("charts drawn", "charts_ms"),
            ("all steps, from a click on *All*", "all_ms"),
            ("slowest zoom", "slowest_zoom_ms"),
        )
    ]
    rows.append(["zooms down to single steps", *(str(view["zooms"]) for view in views)])
    for words, name in (("the page itself", "page_bytes"), ("numbers it asked for", "data_bytes")):
        rows.append([words, *(f"{view[name]['median'] / 1e6:.2f} MB" for view in views)])
    first, last, after = (
        f"{memory[name] / 2**20:.0f} MB" for name in ("first_third", "last_third", "after_views")
    )
    return "\n\n".join(
        [
            f"## A long run on the page\n\nRuns of {found['layers'] + 6} columns in one database. Each "
            "is opened with an empty cache, looked at whole, and zoomed into until single steps are "
            "drawn, in turn and five times.",
            _table(["", *(f"{view['steps']:,} steps" for view in views)], rows),
            f"The long one was taken at {number(found['points_per_second'])} points/s, and "
            f"{found['bytes_per_point']:.2f} bytes a point. The server's memory was at most {first} in "
            f"the first third of that, {last} in the last, and {after} after all views.",
        ]
    )


def _growth(found: dict[str, Any]) -> str:
    def line(part: str, across: str, name: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(row[across], row[name] * scale) for row in found[part]]

    def loads(part: str, across: str) -> str:
        return _table(
            [
                across,
                "points/s offered",
                "stored",
                "acknowledged p50 · p99",
                "seen p50 · p99",
                "server",
            ],
            (
                [
                    f"{row[across]:,}",
                    number(row["offered_per_second"]),
                    number(row["points_per_second"]),
                    _tail(row["ack_ms"]),
                    _tail(row["view_ms"]),
                    f"{row['server_memory'] / 2**20:.0f} MB, {row['server_fds']} files, "
                    f"{row['server_threads']} threads, {row['server_cpu']:.2f} cores",
                ]
                for row in found[part]
            ),
        )

    read = {
        "20 columns": line("steps", "steps", "series_ms"),
        "heatmap": line("steps", "steps", "heatmap_ms"),
        "what-if": line("steps", "steps", "whatif_ms"),
    }
    acks = {
        name: [(row["runs"], row["ack_ms"][name]) for row in found["runs"] if row["ack_ms"]]
        for name in ("p50", "p99")
    }
    views = {
        name: [(row["viewers"], row["view_ms"][name]) for row in found["viewers"] if row["view_ms"]]
        for name in ("p50", "p99")
    }
    return "\n\n".join(
        [
            "## Growth",
            "### Layers\n\nOne trainer as fast as it may, frames of 64 steps or as many as fit.",
            _table(
                ["layers", "points/s", "bytes/point", "server", "heatmap of 1,000 steps"],
                (
                    [
                        f"{row['layers']:,}",
                        number(row["points_per_second"]),
                        f"{row['bytes_per_point']:.2f}",
                        f"{row['memory'] / 2**20:.0f} MB",
                        f"{row['heatmap_ms']:.1f} ms",
                    ]
                    for row in found["layers"]
                ),
            ),
            "### Steps\n\nRuns of 20 layers; over HTTP.",
            _picture(
                "steps-stored",
                "Milliseconds to read, by steps",
                plots.lines("Reading runs that grow", "steps of the run", "ms", read),
            ),
            "### Runs\n\nSimulated trainers of 300 layers at 10 steps/s each, by `gradhelm bench load`, "
            "on the server's own machine.",
            loads("runs", "runs"),
            _picture(
                "runs",
                "Milliseconds to the acknowledgement, by runs",
                plots.lines("Acknowledged", "runs at the same time", "ms", acks),
            ),
            "### Viewers\n\nOf 20 runs of 200 layers; seen is from the step to the viewer's socket.",
            loads("viewers", "viewers"),
            _picture(
                "viewers",
                "Milliseconds from step to viewer, by viewers",
                plots.lines("Seen", "viewers at the same time", "ms", views),
            ),
        ]
    )


def _tail(of: dict[str, float] | None) -> str:
    return "–" if of is None else f"{of['p50']:.0f} · {of['p99']:.0f} ms"


SECTIONS = {
    "hook": _hook,
    "steps": _steps,
    "ranks": _ranks,
    "ingest": _ingest,
    "reads": _reads,
    "live": _live,
    "long": _long,
    "growth": _growth,
}
