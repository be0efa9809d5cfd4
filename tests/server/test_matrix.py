"""Reading: any range at any width is what numpy makes of all the steps that were stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support import Running
from trainer import SCALARS, trainer

from gradhelm import wire
from gradhelm_server.api import ask
from gradhelm_server.matrix import Reader, stride_for


def expected(steps: np.ndarray, values: np.ndarray, first: int, last: int, stride: int) -> dict:
    """By brute force: each bucket's step, min, mean, max and non-finite count."""
    buckets: dict[int, list[float]] = {}
    for step, value in zip(steps.tolist(), values, strict=True):
        if first <= step <= last and not wire.missing(np.array([value], np.float32))[0]:
            buckets.setdefault(step // stride * stride, []).append(value)
    found = {"step": [], "min": [], "mean": [], "max": [], "nonfinite": []}
    for step, inside in sorted(buckets.items()):
        finite = np.array(inside)[np.isfinite(inside)]
        found["step"].append(step)
        found["min"].append(finite.min() if len(finite) else None)
        found["mean"].append(finite.mean() if len(finite) else None)
        found["max"].append(finite.max() if len(finite) else None)
        found["nonfinite"].append(len(inside) - len(finite))
    return found


def check(found: dict, wanted: dict) -> None:
    assert found["step"] == wanted["step"]
    assert found["nonfinite"] == wanted["nonfinite"]
    for name in ("min", "mean", "max"):
        for here, there in zip(found[name], wanted[name], strict=True):
            assert (here is None) == (there is None)
            if here is not None:
                assert here == pytest.approx(there, rel=2e-6)


@pytest.fixture(scope="module")
def stored(server: Running) -> tuple[str, np.ndarray, np.ndarray]:
    """10,000 steps of two layers in frames of uneven length, with holes and bad values."""
    random = np.random.default_rng(7)
    norms = random.lognormal(size=10_000).astype(np.float32)
    norms[[5, 700, 701, 9_999]] = np.nan, np.inf, np.nan, 3e38
    with trainer(server.ws, server.token) as fake:
        rows = fake.rows(norms)
        rows[:, len(SCALARS)] = random.lognormal(size=len(rows))
        rows.view(np.uint32)[::7, len(SCALARS) + 1] = wire.MISSING_BITS
        step, kept = 0, []
        while step < len(rows):
            size = int(random.integers(1, 700))
            fake.send(step, rows[step : step + size])
            kept.append(np.arange(step, min(step + size, len(rows))))
            step += size
            if random.random() < 0.2:  # a hole: steps that never come
                step += int(random.integers(1, 400))
        steps = np.concatenate(kept)
        return fake.run, steps, rows[steps]


COLUMN = {"global_norm": 0, "norm/a.weight": len(SCALARS), "norm/b.weight": len(SCALARS) + 1}


@pytest.mark.parametrize("points", [1, 2, 10, 77, 1000, 20_000])
@pytest.mark.parametrize(("first", "last"), [(0, 9_999), (3, 9_998), (250, 262), (4_000, 8_191)])
def test_any_range_at_any_width_is_what_numpy_says(server, stored, first, last, points) -> None:
    run, steps, values = stored
    found = server.get(
        f"runs/{run}/series", columns=",".join(COLUMN), first=first, last=last, points=points
    )
    stride = found["stride"]
    assert last // stride - first // stride + 1 <= points
    for name, column in COLUMN.items():
        check(found["columns"][name], expected(steps, values[:, column], first, last, stride))


def test_at_stride_one_the_very_values_come_back(server, stored) -> None:
    run, _steps, values = stored
    found = server.get(f"runs/{run}/series", columns="norm/a.weight", points=20_000)
    assert found["stride"] == 1
    series = found["columns"]["norm/a.weight"]
    np.testing.assert_array_equal(np.array(series["mean"], np.float32), values[:, len(SCALARS)])
    assert series["min"] == series["mean"] == series["max"]


def test_the_binary_form_says_the_same_as_json(server, stored) -> None:
    run, *_ = stored
    for points in (20_000, 500):
        query = {"columns": ",".join(COLUMN), "points": points, "first": 100}
        json_form = server.get(f"runs/{run}/series", **query)
        data = server.rest.get(
            f"/api/v1/runs/{run}/series",
            params=query,
            headers={"Accept": "application/octet-stream"},
        ).content
        length = int.from_bytes(data[:4], "little")
        assert (4 + length) % 4 == 0
        header, at = json.loads(data[4 : 4 + length]), 4 + length
        for column in header["columns"]:
            n, wanted = column["n"], json_form["columns"][column["name"]]
            offsets = np.frombuffer(data, "<u4", n, at).astype(int)
            assert (header["origin"] + offsets * header["stride"]).tolist() == wanted["step"]
            at += 4 * n
            planes = ("mean",) if header["stride"] == 1 else ("min", "mean", "max")
            for plane in planes:
                numbers = np.frombuffer(data, "<f4", n, at).tolist()
                assert [None if v != v else v for v in numbers] == wanted[plane]
                at += 4 * n
            if header["stride"] > 1:
                assert np.frombuffer(data, "<u4", n, at).tolist() == wanted["nonfinite"]
                at += 4 * n
        assert at == len(data)


@pytest.mark.parametrize("points", [10, 333, 5000])
def test_the_heatmap_shows_each_buckets_largest_norm(server, stored, points) -> None:
    run, steps, values = stored
    answer = server.rest.get(
        f"/api/v1/runs/{run}/heatmap",
        params={"points": points, "first": 50},
        headers={"Accept": "application/octet-stream"},
    )
    shape = [int(answer.headers[f"X-Gradhelm-{name}"]) for name in ("Rows", "Buckets")]
    image = np.frombuffer(answer.content, "<f4").reshape(shape)
    stride = int(answer.headers["X-Gradhelm-Stride"])
    origin = int(answer.headers["X-Gradhelm-Origin"])
    for row, column in enumerate((len(SCALARS), len(SCALARS) + 1)):
        wanted = expected(steps, values[:, column], 50, 9_999, stride)
        shown = [
            np.inf if bad else high
            for high, bad in zip(wanted["max"], wanted["nonfinite"], strict=True)
        ]
        by_step = dict(zip(wanted["step"], shown, strict=True))
        for bucket in range(shape[1]):
            value = image[row, bucket : bucket + 1].copy()
            if origin + bucket * stride in by_step:
                assert value[0] == by_step[origin + bucket * stride]
            else:
                assert wire.missing(value)[0]
    as_json = server.get(f"runs/{run}/heatmap", points=points, first=50, match="b*")
    assert as_json["rows"] == [1]
    finite = [v if np.isfinite(v) else None for v in image[1].tolist()]
    assert as_json["values"][0] == finite
    assert as_json["nonfinite"] == [[0, i] for i in np.flatnonzero(np.isinf(image[1]))]


def test_a_restarted_server_goes_on_with_the_same_rollups(server: Running) -> None:
    """After each frame the recorder is thrown away and loaded again; nothing may be lost."""
    random = np.random.default_rng(3)
    norms = random.lognormal(size=9_000).astype(np.float32)
    run = None
    segment = "00112233445566aa"
    step = 0
    while step < len(norms):
        size = int(random.integers(1, 900))
        with trainer(server.ws, server.token, run=run, segment=segment) as fake:
            run = fake.run
            fake.send(step, fake.rows(norms[step : step + size]))
        step += size + (3_000 if 2_000 < step < 3_000 else 0)  # one wide hole
    found = server.get(f"runs/{run}/series", columns="global_norm", points=20_000)
    steps = np.array(found["columns"]["global_norm"]["step"])
    assert server.get(f"runs/{run}")["steps"] == len(steps)
    for points in (700, 60, 3):
        here = server.get(f"runs/{run}/series", columns="global_norm", points=points)
        wanted = expected(steps, norms[steps], 0, int(steps[-1]), here["stride"])
        check(here["columns"]["global_norm"], wanted)


def test_a_newer_segment_hides_the_older_one_where_they_overlap(server: Running) -> None:
    with trainer(server.ws, server.token) as first:
        first.send(0, first.rows([1.0] * 500))
    with trainer(server.ws, server.token, run=first.run, resume=True) as second:
        second.send(300, second.rows([2.0] * 100))
    series = server.get(f"runs/{first.run}/series", columns="global_norm", points=5000)
    values = series["columns"]["global_norm"]
    assert values["step"] == list(range(400))
    assert values["mean"] == [1.0] * 300 + [2.0] * 100
    coarse = server.get(f"runs/{first.run}/series", columns="global_norm", points=30)
    assert coarse["stride"] == 16
    assert coarse["columns"]["global_norm"]["mean"][18:20] == [pytest.approx(1.25), 2.0]
    old = server.get(
        f"runs/{first.run}/series", columns="global_norm", segment=first.segment, points=5000
    )
    assert old["columns"]["global_norm"]["mean"] == [1.0] * 400


def test_what_if_counts_by_torchs_own_rule(server, stored) -> None:
    import torch

    run, _, values = stored
    norms = torch.tensor(values[:, 0])
    thresholds = [0.1, 1.0, 2.7, float(np.nextafter(norms[17].item(), 10)), float(norms[17])]
    asked = ",".join(map(repr, thresholds))
    found = server.get(f"runs/{run}/whatif", max_norm=asked)
    assert found["steps"] == len(norms)
    for result in found["results"]:
        coefficient = torch.clamp(result["max_norm"] / (norms + 1e-6), max=1.0)
        assert result["clipped"] == int((coefficient < 1).sum())
        assert result["mean_coef"] == pytest.approx(float(coefficient.nanmean()), rel=1e-5)


@pytest.mark.parametrize(
    ("first", "last", "points", "stride"),
    [(0, 999, 1000, 1), (0, 1000, 1000, 2), (1, 1000, 1000, 1), (15, 16, 1, 32), (0, 0, 1, 1)],
)
def test_the_stride_is_the_smallest_power_of_two_that_fits(first, last, points, stride) -> None:
    assert stride_for(first, last, points) == stride


def test_a_reader_of_nothing_finds_nothing(server: Running) -> None:
    with server.store.reading() as connection:
        found = Reader(connection, "no-such-run").series([0], 0, 10, 1)
    assert len(found[0].step) == 0


def logged(fake, steps: list[int], values: list[float]) -> wire.Frame:
    fake.seq += 1
    times = np.zeros(len(steps))
    rows = np.array(values, np.float32)[:, None]
    return wire.pack_frame(fake.seq, 1, 0, np.array(steps, np.uint64), times, rows)


def test_a_scalar_logged_late_hides_nothing_and_the_last_word_wins(server: Running) -> None:
    """A later frame may begin with the step that the one before ended with."""
    segment = "00112233445566bb"
    with trainer(server.ws, server.token, segment=segment) as fake:
        fake.send(0, fake.rows([1.0] * 40))
        columns = (wire.Column("loss", "log"),)
        fake.say(wire.Columns(1, 0, columns))
        fake.say(logged(fake, list(range(10, 17)), [float(i) for i in range(10, 17)]))
        fake.say(logged(fake, [16, 17, 18], [116.0, 17.0, 18.0]))
        while fake.hear(wire.Ack).seq < fake.seq:
            pass
    for first, steps in ((0, range(10, 19)), (16, range(16, 19)), (12, range(12, 19))):
        found = server.get(f"runs/{fake.run}/series", columns="loss", first=first)["columns"]
        assert found["loss"]["step"] == list(steps)
        by_step = dict(zip(found["loss"]["step"], found["loss"]["mean"], strict=True))
        assert by_step[16] == 116.0
        assert found["loss"]["min"] == found["loss"]["mean"] == found["loss"]["max"]
    # After a restart, too, the rollup has all that was logged.
    with trainer(server.ws, server.token, run=fake.run, segment=segment) as again:
        again.say(wire.Columns(1, 0, columns))
        again.say(logged(again, [39], [1.0]))
        again.hear(wire.Ack)
    coarse = server.get(f"runs/{fake.run}/series", columns="loss", points=3)
    assert coarse["stride"] == 16
    assert coarse["columns"]["loss"]["max"] == [15.0, 116.0, 1.0]


def test_a_scalar_logged_before_a_resume_hides_nothing_of_before(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0] * 20))
    with trainer(server.ws, server.token, run=fake.run, resume=True) as again:
        again.say(wire.Columns(1, 0, (wire.Column("lr0", "log"),)))
        again.say(logged(again, [0], [0.1]))
        again.send(20, again.rows([2.0] * 5))
    found = server.get(f"runs/{fake.run}/series", columns="global_norm")["columns"]
    assert found["global_norm"]["step"] == list(range(25))


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
@pytest.mark.parametrize("what", ["series?columns=global_norm&last=4000", "heatmap?last=4000"])
def test_a_closed_range_is_answered_once(server: Running, stored, what, kind) -> None:
    """The same range a second time is a 304, also after more steps have come."""
    run, *_ = stored
    path = f"/api/v1/runs/{run}/{what}"
    first = server.rest.get(path, headers={"Accept": kind})
    tag = first.headers["ETag"]
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "private, no-cache")
    again = server.rest.get(path, headers={"Accept": kind, "If-None-Match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    other = server.rest.get(f"{path}&points=7", headers={"Accept": kind, "If-None-Match": tag})
    assert other.status_code == 200


def test_an_open_range_is_answered_anew_when_there_is_more(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        path = f"/api/v1/runs/{fake.run}/series?columns=global_norm"

        def ask(query: str, tag: str = "") -> tuple[int, str]:
            answer = server.rest.get(path + query, headers={"If-None-Match": tag})
            return answer.status_code, answer.headers["ETag"]

        fake.send(0, fake.rows([1.0] * 500))
        (_, newest), (_, early) = ask(""), ask("&last=99")
        assert (ask("", newest)[0], ask("&last=99", early)[0]) == (304, 304)
        fake.send(500, fake.rows([1.0] * 100))
        assert (ask("", newest)[0], ask("&last=99", early)[0]) == (200, 200)
        fake.send(600, fake.rows([1.0] * 1000))
        _, closed = ask("&last=99")
        fake.send(1600, fake.rows([1.0] * 10))
        assert ask("&last=99", closed)[0] == 304
        # Another life of the trainer, from an older checkpoint, takes the same steps again.
        with trainer(server.ws, server.token, run=fake.run, resume=True) as second:
            second.send(50, second.rows([2.0] * 10))
            assert ask("&last=99", closed)[0] == 200


def test_too_much_for_one_answer_is_refused_with_what_would_do(
    server: Running, monkeypatch
) -> None:
    monkeypatch.setattr(ask, "MAX_CELLS", 100)
    with trainer(server.ws, server.token) as fake:
        fake.send(0, fake.rows([1.0] * 60))
        for path in ("series?columns=global_norm,threshold&", "heatmap?"):
            answer = server.rest.get(f"/api/v1/runs/{fake.run}/{path}points=100")
            assert answer.status_code == 422
            assert "at most 50 points" in answer.json()["error"]["message"]
            assert server.rest.get(f"/api/v1/runs/{fake.run}/{path}points=50").status_code == 200
