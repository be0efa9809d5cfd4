"""``gradhelm import``: a run out of a file, so that charts, what-if and advice work on what was
measured without the hook.

Law: it goes the way of every run, by the socket and under numbers, so the server knows no second one.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np

from gradhelm import wire
from gradhelm.rest import Client

from . import foreign
from .endings import Failed
from .foreign import Table
from .simulated import run_id
from .whatif import coefficients, inverses
from .words import print_json, safe

NORM: Final = (
    "grad_norm",
    "train/grad_norm",
    "train/global_norm",
    "gradient_norm",
    "total_grad_norm",
    "grad_2.0_norm_total",
)
"""What others call the global norm: transformers, trl, Lightning's ``grad_norm``, …"""
CLIP: Final = (
    "global_norm",
    "post_norm",
    "threshold",
    "clip_coef",
    "clipped",
    "skipped",
    "nonfinite",
    "lr",
    "clip_share",
)
"""The scalars of a clip, as the hook tells them."""
DETAILS: Final = (
    "coef/",
    "threshold/",
    "rule/",
    "weight_norm/",
    "update_norm/",
    "update_ratio/",
    "update_rms/",
    "gradient_exponent/",
)
TOGETHER: Final = 200
"""Columns that one message declares."""


def bring(arguments: argparse.Namespace) -> None:
    from gradhelm import spool
    from gradhelm.delivery import Undelivered, deliver

    table = foreign.read(arguments.path, arguments.format, arguments.step, arguments.time)
    told = _named(table, arguments)
    if arguments.max_norm is not None:
        _clipped(table, arguments.max_norm)
    _completed(table)
    client = Client.here()
    hello = _hello(table, arguments)

    def progress(at: Any) -> None:
        if not arguments.json:
            print(f"{at.steps:,} of {len(table.steps):,} steps …", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="gradhelm-import-") as home:
        folder = Path(home) / hello.segment
        kept = spool.Spool(folder, budget=1 << 50)
        messages = [wire.encode(hello), *map(wire.encode, _declared(table))]
        whole = all(kept.tell(message) for message in messages)
        for frame in _frames(table):
            whole = whole and kept.put(frame.seq, wire.encode(frame))
        last = int(table.steps[-1])
        if not (whole and kept.end(wire.encode(wire.Finish("finished", last)))):
            raise Failed(f"there is no room in {home}; TMPDIR says where else there is")
        kept.close()
        try:
            deliver(folder, client.server, client.token, progress)
        except Undelivered as error:
            raise Failed(str(error)) from None
    url = f"{client.server}/runs/{hello.run}"
    if arguments.json:
        columns = len(table.columns)
        print_json({"run": hello.run, "url": url, "steps": len(table.steps), "columns": columns})
        return
    for sentence in told:
        print(sentence)
    steps = f"{len(table.steps):,} step{'s' * (len(table.steps) != 1)}"
    print(f"{safe(hello.name)}: {steps}, {len(table.columns):,} columns: {url}")


def _named(table: Table, arguments: argparse.Namespace) -> list[str]:
    """Gives columns the names that they have here, and says what it did.

    Raises Failed when no column is the global norm, or a pattern matches none.
    """
    columns, told = table.columns, []
    asked = arguments.global_norm
    if asked is not None and asked not in columns:
        raise Failed(f"there is no column {asked!r}: {foreign.listed(columns)}")
    if asked is None and "global_norm" not in columns:
        asked = next((name for name in NORM if name in columns), None)
        if asked is None:
            raise Failed(
                "no column is called global_norm; --global-norm says which of "
                f"{foreign.listed(columns)} it is"
            )
        told.append(f"{safe(asked)} is taken for the global norm")
    if asked is not None and asked != "global_norm":
        if columns.pop("global_norm", None) is not None:
            told.append("the file's own global_norm is left out")
        columns["global_norm"] = columns.pop(asked)
    for pattern in arguments.norms or []:
        found = [name for name in columns if fnmatchcase(name, pattern) and name not in CLIP]
        if not found:
            raise Failed(f"--norms {pattern!r} matches no column: {foreign.listed(columns)}")
        # What all of them begin with says nothing of a parameter.
        begin = pattern.partition("*")[0]
        for name in found:
            columns[f"norm/{name.removeprefix(begin) or name}"] = columns.pop(name)
        told.append(f"{len(found)} columns are taken for norms of parameters")
    if table.left_out:
        told.append(f"left out, since they are no numbers: {safe(foreign.listed(table.left_out))}")
    if long := next((name for name in columns if not 0 < len(name) <= wire.MAX_COLUMN), None):
        raise Failed(f"a column's name has at most {wire.MAX_COLUMN} characters: {long[:60]!r}…")
    if len(columns) > wire.MAX_GROUP:
        raise Failed(f"{len(columns):,} columns are too many: at most {wire.MAX_GROUP:,}")
    return told


def _clipped(table: Table, max_norm: float) -> None:
    """What torch's clip by ``max_norm`` did, if the norms are those before it."""
    norms = table.columns["global_norm"]
    there = ~wire.missing(norms)
    for name, values in (
        ("threshold", np.full_like(norms, max_norm)),
        ("clip_coef", coefficients(inverses(norms), max_norm)),
    ):
        table.columns[name] = np.where(there, values, wire.MISSING)
    clipped = (table.columns["clip_coef"] < 1).astype(np.float32)
    table.columns["clipped"] = np.where(there, clipped, wire.MISSING)


def _completed(table: Table) -> None:
    """What every run has and files do not: whether a step was clipped, and was finite."""
    norms = table.columns["global_norm"]
    there = ~wire.missing(norms)
    bad = (~np.isfinite(norms)).astype(np.float32)
    for name, values in (("clipped", np.zeros_like(norms)), ("nonfinite", bad)):
        table.columns.setdefault(name, np.where(there, values, wire.MISSING))


def _hello(table: Table, arguments: argparse.Namespace) -> wire.Hello:
    thresholds = table.columns.get("threshold", np.empty(0, np.float32))
    thresholds = thresholds[np.isfinite(thresholds)]
    coded = wire.Coded("Observe", {})
    if len(thresholds):
        coded = wire.Coded("GlobalNorm", {"max_norm": float(thresholds[-1])}, "max_norm")
    # Files that say no time are as old as they are.
    unknown = np.isnan(table.times)
    table.times[unknown] = arguments.path.stat().st_mtime
    return wire.Hello(
        run=run_id(),
        segment=secrets.token_hex(8),
        name=arguments.name or arguments.path.stem[: wire.MAX_NAME] or "imported",
        project=arguments.project,
        coded=(coded,),
        limits=wire.Limits(why_not="the run was imported from a file"),
        config=json.dumps({"imported_from": str(arguments.path)[-1000:]}),
        tags=tuple(arguments.tag or ()),
        started=float(table.times[0]),
    )


def _groups(table: Table) -> list[tuple[tuple[wire.Column, ...], list[str]]]:
    """The clip's own columns, and those that were logged beside: declaration and names."""
    clip: list[wire.Column] = []
    logged: list[wire.Column] = []
    for name in sorted(table.columns, key=lambda name: CLIP.index(name) if name in CLIP else 99):
        if name in CLIP:
            clip.append(wire.Column(name, "scalar"))
        elif name.startswith("norm/"):
            clip.append(wire.Column(name, "norm", (), "float32"))
        elif name.startswith(DETAILS):
            clip.append(wire.Column(name, "detail"))
        else:
            logged.append(wire.Column(name, "log"))
    found = [tuple(group) for group in (clip, logged) if group]
    return [(group, [column.name for column in group]) for group in found]


def _declared(table: Table) -> Iterator[wire.Columns]:
    for number, (columns, _) in enumerate(_groups(table)):
        for first in range(0, len(columns), TOGETHER):
            yield wire.Columns(number, first, columns[first : first + TOGETHER])


def _frames(table: Table) -> Iterator[wire.Frame]:
    """All rows of each group, numbered on."""
    number = 0
    for group, (columns, names) in enumerate(_groups(table)):
        most = max(1, wire.MAX_FRAME // (4 * len(columns) + 16))
        for first in range(0, len(table.steps), most):
            part = slice(first, first + most)
            rows = np.stack([table.columns[name][part] for name in names], axis=1)
            # Which steps there are is what the clip's own rows say.
            told = rows[:, [names.index("global_norm")]] if group == 0 else rows
            there = ~wire.missing(np.ascontiguousarray(told)).all(axis=1)
            if there.any():
                number += 1
                steps, times = table.steps[part][there], table.times[part][there]
                yield wire.pack_frame(number, group, 0, steps.astype(np.uint64), times, rows[there])
