"""Retention: single steps go before buckets, the oldest first, and nothing else goes with them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import func, select
from support import Running, eventually, running
from trainer import SCALARS, FakeTrainer, trainer

from gradhelm import wire
from gradhelm.errors import SettingsError
from gradhelm_server import retention, tables
from gradhelm_server.settings import Policy, ServerSettings

LAYERS = tuple(f"layer.{i}" for i in range(12))
STEPS = 9000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One of its own: what is pruned here is other tests' as well."""
    with running(tmp_path_factory.mktemp("retention")) as found:
        yield found


@pytest.fixture
def run(server: Running, request: pytest.FixtureRequest) -> FakeTrainer:
    """A finished run, all in tiles, in a project of its own."""
    return stored(server, request.node.name)


def stored(server: Running, project: str) -> FakeTrainer:
    random = np.random.default_rng(1)
    with trainer(server.ws, server.token, layers=LAYERS, project=project[:60]) as fake:
        rows = fake.rows(random.lognormal(size=STEPS))
        rows[:, len(SCALARS) :] = random.lognormal(size=(STEPS, len(LAYERS)))
        for first in range(0, STEPS, 500):
            fake.send(first, rows[first : first + 500])
        finish(fake)
    eventually(lambda: waiting(server, fake.run) == 0, what="an empty inbox")
    return fake


def finish(fake: FakeTrainer) -> None:
    fake.say(wire.Finish("finished", STEPS - 1))
    fake.hear(wire.Finished)


def waiting(server: Running, run: str) -> int:
    table = tables.frames
    with server.store.reading() as connection:
        return connection.scalar(
            select(func.count()).select_from(table).where(table.c.run_id == run)
        )


def size(server: Running, run: str) -> int:
    table = tables.tiles
    with server.store.reading() as connection:
        return connection.scalar(
            select(func.sum(func.length(table.c.payload))).where(table.c.run_id == run)
        )


def prune(server: Running, **body: object) -> dict:
    answer = server.rest.post("/api/v1/prune", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def series(server: Running, run: str, column: str, **query: object) -> dict:
    found = server.get(f"runs/{run}/series", columns=column, **query)
    return {**found["columns"][column], "stride": found["stride"]}


def test_old_steps_go_and_their_buckets_and_scalars_stay(server: Running, run) -> None:
    before = series(server, run.run, "norm/layer.3", points=500)
    scalar = series(server, run.run, "global_norm", points=20_000)
    heat = server.get(f"runs/{run.run}/heatmap", points=500)
    asked = prune(server, keep_steps=1e-3, dry_run=True)
    assert asked["bytes"] > 0
    assert series(server, run.run, "norm/layer.3", points=20_000)["stride"] == 1
    done = prune(server, keep_steps=1e-3)
    assert done["runs_cut"] >= 1
    assert done["over_quota"] == {}
    assert series(server, run.run, "norm/layer.3", points=500) == before
    assert server.get(f"runs/{run.run}/heatmap", points=500) == heat
    assert series(server, run.run, "global_norm", points=20_000) == scalar
    fine = series(server, run.run, "norm/layer.3", points=20_000)
    assert fine["stride"] == 16
    assert len(fine["step"]) == -(-STEPS // 16)
    # A range within a bucket is told by the bucket.
    part = series(server, run.run, "norm/layer.3", first=1003, last=1007)
    assert (part["stride"], part["step"]) == (16, [992])
    assert server.get(f"runs/{run.run}/whatif", max_norm="1")["steps"] == STEPS
    assert prune(server, keep_steps=1e-3)["runs_cut"] == 0


def test_a_quota_takes_the_oldest_runs_first_and_only_as_much_as_it_must(server: Running) -> None:
    old, new = (stored(server, "a quota") for _ in range(2))
    both = size(server, old.run) + size(server, new.run)
    done = prune(server, quota=both - 100_000)
    assert done["over_quota"] == {}
    assert size(server, new.run) + size(server, old.run) <= both - 100_000
    assert series(server, new.run, "norm/layer.0", points=20_000)["stride"] == 1
    assert series(server, old.run, "norm/layer.0", points=20_000)["stride"] == 16
    # Its newer steps are all still there.
    newer = series(server, old.run, "norm/layer.0", first=STEPS - 100, points=500)
    assert newer["stride"] == 1
    left = prune(server, quota=1000)
    assert left["over_quota"]["a quota"] > 0


def test_a_deleted_run_goes_for_good_and_its_control_history_stays(server: Running, run) -> None:
    assert server.rest.delete(f"/api/v1/runs/{run.run}").status_code == 204
    assert prune(server)["runs_removed"] >= 1
    assert size(server, run.run) is None
    assert prune(server)["runs_removed"] == 0
    with server.store.reading() as connection:
        runs = tables.runs
        assert connection.scalar(select(runs.c.deleted_at).where(runs.c.id == run.run))


def test_a_deletion_taken_back_while_the_plan_is_carried_out_costs_nothing(
    server: Running, run
) -> None:
    path = f"/api/v1/runs/{run.run}"
    assert server.rest.delete(path).status_code == 204
    with server.store.reading() as connection:
        planned = retention.plan(connection, Policy(), time.time())
    assert run.run in planned.deleted
    assert server.rest.post(f"{path}/restore").status_code == 200
    retention.carry_out(server.store, planned)
    assert series(server, run.run, "norm/layer.0", points=20_000)["stride"] == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"quota": 0}, "quota"),
        ({"quota": "1GB"}, "quota"),
        ({"keep_steps": -1}, "keep_steps"),
        ({"dry_run": 1}, "dry_run"),
        ({"keep": 1}, "keep"),
    ],
)
def test_a_bad_request_is_answered_by_name(server: Running, body, word) -> None:
    answer = server.rest.post("/api/v1/prune", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(word)


def test_the_policy_comes_from_the_environment(tmp_path) -> None:
    home = {"GRADHELM_HOME": str(tmp_path)}
    assert ServerSettings.read(home).policy == Policy()
    given = {**home, "GRADHELM_KEEP_STEPS": "30d", "GRADHELM_QUOTA": "10GB"}
    assert ServerSettings.read(given).policy == Policy(30 * 86400.0, 10**10)
    for name, bad in (("GRADHELM_QUOTA", "10"), ("GRADHELM_KEEP_STEPS", "soon")):
        with pytest.raises(SettingsError, match=name):
            ServerSettings.read({**home, name: bad})
