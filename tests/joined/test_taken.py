"""Runs taken along: by the command line as files, and by ``gradhelm.open`` as a table."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas
import pytest
from support import Program, Running
from trainer import SCALARS, trainer

import gradhelm
from gradhelm import wire
from gradhelm.errors import ServerError

pytestmark = pytest.mark.joined
STEPS = 400
NAMES = ("embed.weight", 'odd, "name"\n\'', "=1+1")


@pytest.fixture(scope="module")
def stored(server: Running) -> tuple[str, np.ndarray]:
    """A run and its rows: step x columns."""
    norms = np.random.default_rng(2).lognormal(size=STEPS).astype(np.float32)
    norms[[3, 4]] = np.nan, np.inf
    with trainer(server.ws, server.token, layers=NAMES, name="to be taken") as fake:
        rows = fake.rows(norms)
        rows.view(np.uint32)[::3, -1] = wire.MISSING_BITS
        fake.send(0, rows)
        return fake.run, rows


def test_a_file_is_made_and_never_written_over(
    here: Program, stored: tuple[str, np.ndarray], tmp_path: Path
) -> None:
    run, rows = stored
    place = tmp_path / "run.csv"
    done = here.run("export", run, "--format", "csv", "-o", str(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"to be taken: {place.stat().st_size:,} bytes in {place}\n"
    found = pandas.read_csv(place)
    assert np.array_equal(np.float32(found["global_norm"]), rows[:, 0], equal_nan=True)
    place.write_text("mine")
    done = here.run("export", run, "--format", "jsonl", "-o", str(place))
    assert done.returncode == 1
    assert "is there already; --force replaces it" in done.stderr
    assert place.read_text() == "mine"
    told = here.json("export", run, "--format", "jsonl", "-o", str(place), "--force", "--first=-3")
    assert told["bytes"] == place.stat().st_size
    assert [json.loads(line)["step"] for line in place.read_text().splitlines()] == [397, 398, 399]
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]


def test_standard_output_takes_text_and_a_file_parquet(
    here: Program, stored: tuple[str, np.ndarray], tmp_path: Path
) -> None:
    run, rows = stored
    words = ("export", run, "--columns", "threshold,global_norm", "--first", "10", "--last", "11")
    done = here.run(*words, "--format", "csv")
    assert done.stdout.splitlines()[0] == "step,time,threshold,global_norm"
    assert done.stdout.count("\n") == 3
    assert done.stderr == ""
    assert here.run(*words, "--format", "parquet").returncode == 2
    place = tmp_path / "run.parquet"
    assert here.run(*words, "--format", "parquet", "--output", str(place)).returncode == 0
    found = pandas.read_parquet(place)
    assert found["global_norm"].tolist() == rows[10:12, 0].tolist()


def test_what_cannot_be_taken_leaves_nothing_behind(
    here: Program, stored: tuple[str, np.ndarray], tmp_path: Path
) -> None:
    run, _ = stored
    for words, message in (
        (["no such run"], "there is no run"),
        ([run, "--columns", "nothing"], "this run has no 'nothing'"),
        ([run, "--stream", "nobody"], "is not of this run"),
    ):
        done = here.run("export", *words, "--format", "csv", "-o", str(tmp_path / "x.csv"))
        assert done.returncode == 1, words
        assert message in done.stderr
    done = here.run("export", run, "--format", "csv", "-o", str(tmp_path / "no" / "x.csv"))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cut_short(stored: tuple[str, np.ndarray]) -> Iterator[str]:
    """A server that ends in the middle of its answer."""
    run, _ = stored
    body = json.dumps({"id": run, "name": "n", "steps": 3, "status": "live"}).encode()
    answers = (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"e\r\nstep,time\n0,1\n\r\n",
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_an_answer_that_was_cut_short_is_no_file(
    here: Program, cut_short: str, stored: tuple[str, np.ndarray], tmp_path: Path
) -> None:
    here.variables["GRADHELM_SERVER"] = cut_short
    done = here.run("export", stored[0], "--format", "csv", "-o", str(tmp_path / "x.csv"))
    assert done.returncode == 1
    assert "was cut short" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_a_frame(server: Running, stored: tuple[str, np.ndarray]) -> None:
    run, rows = stored
    found = gradhelm.open(run, server=server.url, token=server.token)
    assert repr(found).startswith("<'to be taken', 400 steps, ")
    assert found.url == f"{server.url}/runs/{run}"
    assert found.columns() == [*SCALARS, *(f"norm/{name}" for name in NAMES)]
    frame = found.frame()
    assert frame.index.name == "step"
    assert list(frame.columns) == ["time", *found.columns()]
    assert (frame.dtypes[1:] == np.float32).all()
    assert str(frame["time"].dtype).startswith("datetime64[")
    assert frame["time"][7].timestamp() == 1_000_007.0
    assert np.array_equal(frame.to_numpy()[:, 1:].astype(np.float32), rows, equal_nan=True)
    commas = [f"norm/{NAMES[1]}", "threshold"]
    assert list(found.frame(commas, last=3).columns) == ["time", *commas]
    some = found.frame(["global_norm"], first=-2)
    assert some.index.tolist() == [398, 399]
    assert some["global_norm"].tolist() == rows[-2:, 0].tolist()


class Seen(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_a_notebook_shows_a_run(server: Running, stored: tuple[str, np.ndarray]) -> None:
    run, _ = stored
    opened = gradhelm.open(run, server=server.url, token=server.token)
    seen = Seen(opened._repr_html_())
    info = server.get(f"runs/{run}")
    assert "to be taken" in seen.text
    for shown in ("400", f"{info['global_norm']:.4g}", f"{100 * info['clip_fraction']:.1f} %"):
        assert f" {shown} " in seen.text
    lines = [attributes for tag, attributes in seen.tags if tag == "polyline"]
    limits, norms = ((line["points"] or "").split() for line in lines)
    found = server.get(f"runs/{run}/series", columns="global_norm,threshold", points=300)
    finite = [value for value in found["columns"]["global_norm"]["max"] if value is not None]
    assert (len(norms), len(limits)) == (len(finite), len(found["columns"]["threshold"]["step"]))
    heights = [float(point.split(",")[1]) for point in norms]
    assert min(heights) == heights[int(np.argmax(finite))] == 0  # the highest is the largest
    bad = sum(1 for count in found["columns"]["global_norm"]["nonfinite"] if count)
    assert sum(tag == "line" for tag, _ in seen.tags) == bad == 2
    (link,) = (attributes for tag, attributes in seen.tags if tag == "a")
    assert link["href"] == opened.url


def test_names_are_text_in_a_notebook_and_a_run_may_have_no_steps(server: Running) -> None:
    name = "<script>alert(1)</script>\"'&"
    with trainer(server.ws, server.token, name=name, project="<b>") as fake:
        opened = gradhelm.open(fake.run, server=server.url, token=server.token)
        seen = Seen(opened._repr_html_())
        assert not {"script", "svg"} & {tag for tag, _ in seen.tags}
        assert name in seen.text
        assert "No finite norms yet." in seen.text
        fake.send(0, fake.rows([2.0]))
        assert "svg" in {tag for tag, _ in Seen(opened._repr_html_()).tags}
        assert opened.info["steps"] == 1
        assert opened.refresh() is opened


def test_what_cannot_be_opened_is_said(server: Running) -> None:
    with pytest.raises(ServerError, match="there is no run 'nothing'"):
        gradhelm.open("nothing", server=server.url, token=server.token)
    with pytest.raises(ServerError, match="valid token"):
        gradhelm.open("nothing", server=server.url, token="wrong")
    with pytest.raises(ServerError, match="cannot reach"):
        gradhelm.open("nothing", server="http://127.0.0.1:9", token="x")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_names_move_no_terminal(server: Running, here: Program) -> None:
    import pty

    with trainer(server.ws, server.token, layers=["evil \x1b[2J\x07"]) as fake:
        fake.send(0, fake.rows([1.0]))
    words = [sys.executable, "-m", "gradhelm_server", "export", fake.run, "--format", "csv"]
    master, terminal = pty.openpty()
    done = subprocess.run(words, env=here.environment, stdout=terminal, timeout=60, check=True)
    os.close(terminal)
    said = os.read(master, 65536)
    os.close(master)
    assert done.returncode == 0
    assert b"norm/evil \xef\xbf\xbd[2J\xef\xbf\xbd" in said
    assert b"\x1b" not in said
    assert "\x1b[2J\x07" in here.run(*words[3:]).stdout  # a file is what it is
