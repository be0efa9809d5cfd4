"""What is taken along is what was measured, to the bit, in each format."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable

import numpy as np
import pandas
import pytest
from pyarrow import parquet
from support import Running
from trainer import SCALARS, FakeTrainer, trainer

from gradhelm import wire
from gradhelm_server import export

STEPS = 700
NAMES = ("embed.weight", 'odd, "name"\n', "=HYPERLINK(0)")
COLUMNS = [*SCALARS, *(f"norm/{name}" for name in NAMES), "loss"]

Cells = dict[int, dict[str, float]]
"""Step -> what it has, by column."""


class Exported:
    def __init__(self, server: Running, run: str, cells: Cells) -> None:
        self.server = server
        self.run = run
        self.cells = cells

    def get(self, kind: str, **query: object) -> bytes:
        answer = self.server.rest.get(
            f"/api/v1/runs/{self.run}/export", params={"format": kind, **query}
        )
        assert answer.status_code == 200, answer.text
        self.headers = answer.headers
        return answer.content


@pytest.fixture(scope="module")
def exported(server: Running) -> Exported:
    """A run of two lives with holes, bad values, and scalars that were logged late and twice."""
    random = np.random.default_rng(3)
    norms = random.lognormal(size=STEPS).astype(np.float32)
    norms[[3, 4, 5]] = np.nan, np.inf, 3e38
    cells: Cells = {}

    def send(fake: FakeTrainer, first: int, rows: np.ndarray) -> None:
        fake.send(first, rows)
        for step, row in enumerate(rows, first):
            there = ~wire.missing(row)
            cells[step] = {
                name: float(value)
                for name, value, has in zip(COLUMNS, row, there, strict=False)
                if has
            }

    with trainer(server.ws, server.token, layers=NAMES, name="../evil\n name") as fake:
        rows = fake.rows(norms)
        rows[:, -1] = random.lognormal(size=STEPS)
        rows[7, -2] = -np.inf
        rows.view(np.uint32)[::5, -1] = wire.MISSING_BITS
        send(fake, 0, rows[:300])
        send(fake, 350, rows[350:600])
        fake.say(wire.Columns(1, 0, (wire.Column("loss", "log"),)))
        for steps, losses in (([2, 320], [2.5, 1.5]), ([320], [-2.5])):
            fake.seq += 1
            frame = wire.pack_frame(
                fake.seq, 1, 0, np.uint64(steps), np.full(len(steps), 9.5), np.float32([losses]).T
            )
            fake.say(frame)
            while fake.hear(wire.Ack).seq < frame.seq:  # type: ignore[union-attr]
                pass
        cells[2]["loss"], cells[320] = 2.5, {"loss": -2.5}
        run = fake.run
    with trainer(server.ws, server.token, layers=NAMES, run=run, resume=True) as fake:
        # A second life from an older checkpoint: what the first one did after that is hidden.
        for step in [step for step in cells if step >= 500]:
            del cells[step]
        send(fake, 500, np.flip(rows, axis=0)[:100].copy())
    return Exported(server, run, cells)


def same(found: Cells, wanted: Cells) -> None:
    assert list(found) == sorted(wanted)
    for step, row in wanted.items():
        assert set(found[step]) == set(row), step
        for name, value in row.items():
            read = np.float32(found[step][name])
            assert read == np.float32(value) or (np.isnan(read) and math.isnan(value)), (step, name)


def from_csv(data: bytes) -> tuple[list[str], Cells]:
    head, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    assert head[:2] == ["step", "time"]
    names = [name.removeprefix("'") for name in head[2:]]
    return head, {
        int(step): {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
        for step, _, *cells in rows
    }


def from_json_lines(data: bytes) -> Cells:
    found = {}
    for line in data.decode().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)
        row.pop("time")
        step = row.pop("step")
        found[step] = {name: float(value) for name, value in row.items()}
    return found


def from_parquet(data: bytes) -> Cells:
    table = parquet.read_table(io.BytesIO(data))
    found = {}
    for row in table.to_pylist():
        row.pop("time")
        step = row.pop("step")
        found[step] = {name: value for name, value in row.items() if value is not None}
    return found


def test_csv(exported: Exported) -> None:
    head, found = from_csv(exported.get("csv"))
    same(found, exported.cells)
    assert [name.removeprefix("'") for name in head[2:]] == COLUMNS
    assert exported.headers["content-type"].startswith("text/csv")


def test_json_lines(exported: Exported) -> None:
    data = exported.get("jsonl")
    same(from_json_lines(data), exported.cells)
    assert json.loads(data.splitlines()[2])["time"] == 1_000_002.0
    assert b'"global_norm":"Infinity"' in data


def test_parquet(exported: Exported) -> None:
    data = exported.get("parquet")
    same(from_parquet(data), exported.cells)
    schema = parquet.read_schema(io.BytesIO(data))
    assert schema.metadata[b"gradhelm.run"].decode() == exported.run
    assert str(schema.field("time").type) == "timestamp[us, tz=UTC]"
    frame = pandas.read_parquet(io.BytesIO(data))
    assert frame["time"][1].timestamp() == 1_000_001.0
    assert frame["global_norm"].dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "read"), [("csv", lambda d: from_csv(d)[1]), ("parquet", from_parquet)]
)
def test_some_columns_of_some_steps(
    exported: Exported, kind: str, read: Callable[[bytes], Cells]
) -> None:
    found = read(exported.get(kind, columns="global_norm,loss", first=290, last=360))
    wanted = {
        step: {n: v for n, v in row.items() if n in ("global_norm", "loss")}
        for step, row in exported.cells.items()
        if 290 <= step <= 360
    }
    same(found, wanted)
    assert list(read(exported.get(kind, first=-3, columns="global_norm"))) == [597, 598, 599]


def test_it_is_read_a_block_at_a_time(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(export.ranges(0, 9, 10**9)) == [(0, 9)]
    assert list(export.ranges(5, 70, 10**9)) == [(5, 68), (69, 70)]
    assert list(export.ranges(0, -1, 3)) == []
    assert [low for low, _ in export.ranges(0, 200_000, 200)][1] == export.CELLS // 200


def test_a_spreadsheet_finds_no_formula(exported: Exported) -> None:
    head, _ = from_csv(exported.get("csv"))
    assert not [name for name in head if name.startswith(("=", "+", "-", "@"))]
    with trainer(exported.server.ws, exported.server.token, layers=["w"]) as fake:
        fake.say(wire.Columns(1, 0, (wire.Column("=1+1", "log"),)))
        fake.send(0, fake.rows([1.0]))
        other = Exported(exported.server, fake.run, {})
        head, _ = from_csv(other.get("csv"))
        assert head[-1] == "'=1+1"


def test_the_file_has_a_name_that_is_one(exported: Exported) -> None:
    exported.get("csv", columns="loss")
    name = f"evil-name-{exported.run[-8:]}.csv"
    assert exported.headers["content-disposition"] == f'attachment; filename="{name}"'


def test_of_a_file_that_is_only_asked_about_nothing_is_made(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "read", pytest.fail)
    path = f"/api/v1/runs/{exported.run}/export?format=csv"
    answer = exported.server.rest.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "attachment" in answer.headers["content-disposition"]


def test_a_run_without_steps_is_a_table_without_rows(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        empty = Exported(server, fake.run, {})
        assert empty.get("csv").decode().count("\n") == 1
        assert empty.get("jsonl") == b""
        assert from_parquet(empty.get("parquet")) == {}


def test_each_optimizer_has_its_own_columns(server: Running) -> None:
    coded = tuple(
        wire.Coded("GlobalNorm", {"max_norm": 1.0}, "max_norm", stream=stream)
        for stream in (None, "disc")
    )
    with trainer(
        server.ws, server.token, layers=["w"], coded=coded, streams=("gen", "disc")
    ) as fake:
        columns = [wire.Column(f"disc/{name}", "scalar") for name in SCALARS]
        fake.say(wire.Columns(1, 0, tuple(columns), "disc"))
        fake.send(0, fake.rows([1.0, 2.0]))
        fake.seq += 1
        rows = fake.rows([7.0])[:, : len(SCALARS)]
        fake.say(wire.pack_frame(fake.seq, 1, 0, np.uint64([5]), np.float64([1.0]), rows))
        while fake.hear(wire.Ack).seq < fake.seq:  # type: ignore[union-attr]
            pass
        run = Exported(server, fake.run, {})
        head, found = from_csv(run.get("csv"))
        assert "disc/global_norm" not in head
        assert list(found) == [0, 1]
        head, found = from_csv(run.get("csv", stream="disc"))
        assert head[2:] == list(SCALARS)
        assert found[5]["global_norm"] == 7.0


def test_what_cannot_be_taken_along_is_said(exported: Exported) -> None:
    path = f"/api/v1/runs/{exported.run}/export"
    for query, status, code in (
        ("", 422, "bad_value"),
        ("format=xls", 422, "bad_value"),
        ("format=csv&columns=nothing", 404, "no_such_column"),
        ("format=csv&first=9&last=3", 422, "bad_range"),
        ("format=csv&stream=nobody", 422, "unknown_stream"),
    ):
        answer = exported.server.rest.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), query
    assert exported.server.rest.get("/api/v1/runs/nobody/export?format=csv").status_code == 404
