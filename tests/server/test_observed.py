"""What Prometheus is told: what happened, under its cause, and of nobody in particular."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import Running, eventually, running
from trainer import FakeTrainer, trainer

from gradhelm import wire
from gradhelm_server.hub import MAILBOX_BYTES, Hub, Viewer
from gradhelm_server.observed import CAUSES


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose figures are of this module's runs alone."""
    with running(tmp_path_factory.mktemp("home")) as found:
        yield found


def figures(server: Running) -> dict[str, float]:
    answer = server.rest.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def gap(fake: FakeTrainer, reason: str) -> None:
    fake.seq += 1
    fake.say(wire.Gap(fake.seq, 5, 5, 1, reason))
    while fake.hear(wire.Ack).seq < fake.seq:  # type: ignore[union-attr]
        pass


def test_what_is_stored_and_what_is_lost_is_counted_under_its_cause(alone: Running) -> None:
    before = figures(alone)
    with trainer(alone.ws, alone.token) as fake:
        fake.send(0, fake.rows([1.0] * 5))
        fake.send(6, fake.rows([1.0] * 4))
        eventually(lambda: figures(alone)["gradhelm_trainers"] == 1, what="the trainer")
        for words in ("ring full", "log full", "kept on disk and damaged there, or lost"):
            gap(fake, words)
        gap(fake, "something else")
        bad = fake.frame(0, fake.rows([1.0]))  # a step that was there before
        fake.say(bad)
        fake.hear(wire.Refused)
        fake.hear(wire.Ack)
        after = figures(alone)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["gradhelm_frames_stored_total"] == 2
    assert grown["gradhelm_points_stored_total"] == 9 * 8
    causes = {name: grown[f"gradhelm_gaps_declared_total/{name}"] for name in CAUSES.values()}
    assert causes == {
        "ring_full": 1,
        "log_full": 1,
        "damaged_on_disk": 1,
        "process_ended": 0,
        "refused": 1,
    }
    assert grown["gradhelm_gaps_declared_total/other"] == 1
    assert grown["gradhelm_commit_seconds_count"] >= 6
    assert grown["gradhelm_commit_seconds_sum"] > 0
    eventually(lambda: figures(alone)["gradhelm_trainers"] == 0, what="the trainer to leave")
    assert after["process_resident_memory_bytes"] > 1e7


def test_there_are_as_many_series_with_many_runs_as_with_one(alone: Running) -> None:
    before = set(figures(alone))
    for project in ("a project", "another"):
        with trainer(alone.ws, alone.token, project=project, name="secret name") as fake:
            fake.send(0, fake.rows([1.0]))
            run = fake.run
    text = alone.rest.get("/metrics").text
    assert set(figures(alone)) == before
    assert not re.search(rf"secret|project|{run}|local", text)


def test_the_causes_are_the_words_that_trainers_have_for_them() -> None:
    """A new way to lose steps has to be given its cause."""
    from gradhelm import cargo, salvage, shelf

    said = [salvage.DAMAGED]
    for module in (cargo, shelf):
        source = Path(module.__file__).read_text(encoding="utf-8")
        said += re.findall(r'"(\w+ full|the process ended[^"]*)"', source)
    assert {"ring full", "log full", "the process ended, and the disk was full"} <= set(said)
    for one in said:
        assert any(one.startswith(begin) for begin in CAUSES), one


def test_frames_that_a_viewer_is_too_slow_for_are_counted() -> None:
    hub, viewer, gone = Hub(), Viewer(), []
    hub.dropped = lambda frames: gone.extend([1] * frames)
    hub.watch("run", viewer)
    assert hub.viewers == 1
    big = wire.pack_frame(1, 0, 0, *_rows(20_000))
    for _ in range(40):
        hub.publish_frame("run", big, 0, [0], 1.0)
    size = len(big.values) + len(big.times) + len(big.steps)
    assert 40 * size > MAILBOX_BYTES
    assert 0 < len(gone) < 40
    hub.leave("run", viewer)
    assert hub.viewers == 0


def _rows(count: int) -> tuple[wire.StepArray, wire.TimeArray, wire.FloatArray]:
    steps = np.arange(count, dtype=np.uint64)
    return steps, steps.astype(np.float64), np.ones((count, 1), np.float32)


def test_only_who_may_is_told(alone: Running) -> None:
    assert httpx.get(f"{alone.url}/metrics").status_code == 401
    for role, status in (("metrics", 200), ("viewer", 403), ("ingest", 403)):
        made = alone.rest.post("/api/v1/tokens", json={"role": role, "name": role}).json()
        asked = {"Authorization": f"Bearer {made['token']}"}
        assert httpx.get(f"{alone.url}/metrics", headers=asked).status_code == status, role
        if role == "metrics":
            assert httpx.head(f"{alone.url}/metrics", headers=asked).status_code == 200
            assert httpx.get(f"{alone.url}/api/v1/runs", headers=asked).status_code == 403
