"""The audit: everything that people do is in it, and nothing in it can be changed unseen."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support import Program, Running, running
from trainer import trainer

import gradhelm_migrations
from gradhelm_server import audit
from gradhelm_server.store import Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """One of its own: a chain is that of a whole database."""
    with running(tmp_path / "home") as found:
        yield found


def entries(server: Running) -> list[dict]:
    """Oldest first."""
    with server.store.reading() as connection:
        return audit.listed(connection, None, 10_000)[::-1]


def verdict(server: Running, head: str | None = None) -> audit.Verdict:
    with server.store.reading() as connection:
        return audit.verify(connection, head)


def test_what_people_do_is_in_it(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        run = fake.run
        assert server.put_control(run, 0, max_norm=0.5, reason="spikes").status_code == 202
        assert server.put_control(run, 1, max_norm=0.25).status_code == 202
        assert server.put_control(run, 1, max_norm=0.1).status_code == 412
        assert server.rest.patch(f"/api/v1/runs/{run}", json={"name": "better"}).status_code == 200
        token = server.rest.post("/api/v1/tokens", json={"role": "viewer", "name": "eve"}).json()
        assert token["token"] not in json.dumps(entries(server))
        shown = server.get("tokens")["tokens"]
        number = next(one["id"] for one in shown if one["name"] == "eve")
        assert server.rest.delete(f"/api/v1/tokens/{number}").status_code == 204
        assert server.rest.delete(f"/api/v1/runs/{run}").status_code == 204
    told = [(entry["actor"], entry["action"]) for entry in entries(server)]
    assert told[0] == ("server", "token created")  # the local one
    assert [one for one in told if one[0] == "local"] == [
        ("local", "control"),
        ("local", "control"),
        ("local", "run changed"),
        ("local", "token created"),
        ("local", "token revoked"),
        ("local", "run deleted"),
    ]
    changes = [entry for entry in entries(server) if entry["action"] == "control"]
    assert changes[0]["run"] == run
    assert changes[0]["details"]["to"] == {"max_norm": 0.5}
    assert changes[0]["details"]["reason"] == "spikes"
    statuses = [e["details"] for e in entries(server) if e["action"] == "control status"]
    assert [(one["version"], one["status"]) for one in statuses][:1] == [(1, "pending")]
    assert (1, "superseded") in [(one["version"], one["status"]) for one in statuses]
    found = verdict(server)
    assert (found.whole, found.entries) == (True, len(told))
    assert verdict(server, found.head).whole
    assert not verdict(server, "f" * 64).whole


def test_of_many_at_once_one_chain_is_made(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        run = fake.run

        def put(number: int) -> int:
            return server.put_control(run, number % 3, max_norm=0.5).status_code

        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(put, range(40)))
    assert codes.count(202) >= 1
    made = [entry for entry in entries(server) if entry["action"] == "control"]
    assert len(made) == codes.count(202)
    assert verdict(server).whole


def test_what_is_not_committed_is_not_in_it(server: Running) -> None:
    before = verdict(server).entries

    def work(connection: object) -> None:
        audit.append(connection, 1.0, "somebody", "something", None)  # type: ignore[arg-type]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        server.store.submit(work).result()
    assert verdict(server).entries == before


@pytest.mark.parametrize("table", ["audit", "control_versions", "control_events"])
@pytest.mark.parametrize("change", ["UPDATE {} SET at = 0", "DELETE FROM {}"])
def test_the_database_refuses_to_change_it(server: Running, table: str, change: str) -> None:
    with trainer(server.ws, server.token) as fake:
        run = fake.run
        server.put_control(run, 0, max_norm=0.5)
        with pytest.raises(DBAPIError, match=f"{table} is append-only"):
            server.store.submit(lambda c: c.execute(text(change.format(table)))).result()


TAMPERING = {
    "at": ("UPDATE audit SET at = at + 1 WHERE id = 3", 3, "changed"),
    "actor": ("UPDATE audit SET actor = 'somebody else' WHERE id = 3", 3, "changed"),
    "action": ("UPDATE audit SET action = 'nothing' WHERE id = 3", 3, "changed"),
    "run_id": ("UPDATE audit SET run_id = 'another' WHERE id = 3", 3, "changed"),
    "details": ("UPDATE audit SET details = '{}' WHERE id = 3", 3, "changed"),
    "previous": ("UPDATE audit SET previous = hash WHERE id = 3", 3, "does not follow"),
    "hash": ("UPDATE audit SET hash = previous || 'x' WHERE id = 3", 3, "changed"),
    "removed": ("DELETE FROM audit WHERE id = 3", 4, "entry 3 is missing"),
    "removed and closed up": (
        "DELETE FROM audit WHERE id = 3; UPDATE audit SET id = id - 1 WHERE id > 3",
        3,
        "does not follow",
    ),
    "swapped": (
        "UPDATE audit SET id = -3 WHERE id = 3; UPDATE audit SET id = 3 WHERE id = 4;"
        "UPDATE audit SET id = 4 WHERE id = -3",
        3,
        "does not follow",
    ),
    "doubled": (
        "UPDATE audit SET id = id + 1000 WHERE id > 3; UPDATE audit SET id = id - 999 "
        "WHERE id > 1000; INSERT INTO audit SELECT 4, at, actor, action, run_id, details, "
        "previous, hash || 'x' FROM audit WHERE id = 3",
        4,
        "does not follow",
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_what_was_changed_all_the_same_is_found(tmp_path: Path, how: str) -> None:
    url = f"sqlite:///{tmp_path / 'gradhelm.db'}"
    gradhelm_migrations.upgrade(url)
    with closing(Store(url)) as store:
        for number in range(8):
            store.submit(
                lambda c, n=number: audit.append(c, n + 0.25, "who", "what", "run", n=n)
            ).result()
        with store.reading() as connection:
            assert audit.verify(connection).whole
    statement, bad, what = TAMPERING[how]
    with closing(sqlite3.connect(tmp_path / "gradhelm.db")) as attacker:
        attacker.execute("DROP TRIGGER audit_no_update")
        attacker.execute("DROP TRIGGER audit_no_delete")
        attacker.executescript(statement)
    with closing(Store(url)) as store, store.reading() as connection:
        found = audit.verify(connection)
    assert not found.whole
    assert found.bad == bad
    assert what in found.what


def test_the_newest_that_are_missing_are_found_by_a_head_that_was_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gradhelm.db'}"
    gradhelm_migrations.upgrade(url)
    with closing(Store(url)) as store:
        for number in range(4):
            store.submit(lambda c, n=number: audit.append(c, n, "who", "what", None)).result()
        with store.reading() as connection:
            head = audit.verify(connection).head
    with closing(sqlite3.connect(tmp_path / "gradhelm.db")) as attacker:
        attacker.executescript("DROP TRIGGER audit_no_delete; DELETE FROM audit WHERE id = 4")
    with closing(Store(url)) as store, store.reading() as connection:
        assert audit.verify(connection).whole
        assert not audit.verify(connection, head).whole


def test_the_chain_begins_with_the_history_there_is(tmp_path: Path) -> None:
    with running(tmp_path / "home") as server, trainer(server.ws, server.token) as fake:
        run = fake.run
        server.put_control(run, 0, max_norm=0.5, reason="before")
        server.put_control(run, 1, max_norm=0.7)
        told = [entry for entry in entries(server) if entry["action"].startswith("control")]
    url = f"sqlite:///{tmp_path / 'home' / 'gradhelm.db'}"
    gradhelm_migrations.downgrade(url, "0003")
    gradhelm_migrations.upgrade(url)
    with closing(Store(url)) as store, store.reading() as connection:
        assert audit.verify(connection).whole
        found = audit.listed(connection, run, 1000)[::-1]
    key = [(entry["actor"], entry["action"], entry["details"]["version"]) for entry in found]
    assert sorted(key) == sorted(
        (entry["actor"], entry["action"], entry["details"]["version"]) for entry in told
    )
    first = next(entry for entry in found if entry["action"] == "control")
    assert first["details"]["reason"] == "before"


def test_a_run_that_is_removed_leaves_its_history_and_the_audit(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        run = fake.run
        server.put_control(run, 0, max_norm=0.5)
    server.rest.delete(f"/api/v1/runs/{run}")
    assert server.rest.post("/api/v1/prune", json={}).json()["runs_removed"] == 1
    actions = [entry["action"] for entry in entries(server) if entry["run"] == run]
    assert actions[0] == "control"
    assert actions[-2:] == ["run deleted", "run removed"]
    with server.store.reading() as connection:
        kept = connection.scalar(text("SELECT count(*) FROM control_versions"))
    assert kept == 1
    assert verdict(server).whole


@pytest.mark.joined
def test_the_command_says_whether_it_is_whole(program: Program) -> None:
    nothing = program.run("audit", "verify")
    assert nothing.returncode == 1
    assert "there is no database" in nothing.stderr
    program.start()
    assert program.run("token", "create", "--role", "viewer", "--name", "x").returncode == 0
    program.stop()
    found = program.run("audit", "verify")
    assert found.returncode == 0, found.stderr
    assert "2 entries since" in found.stdout
    told = program.json("audit", "verify")
    assert (told["entries"], told["whole"], told["bad"]) == (2, True, None)
    assert program.run("audit", "verify", "--head", told["head"]).returncode == 0
    other = program.run("audit", "verify", "--head", "0" * 63 + "1")
    assert other.returncode == 1
    assert "is not in the chain" in other.stderr
    listed = program.run("audit", "list")
    assert "token created" in listed.stdout
    assert "role viewer" in listed.stdout
    with closing(sqlite3.connect(program.home / "gradhelm.db")) as attacker:
        attacker.execute("DROP TRIGGER audit_no_update")
        attacker.execute("UPDATE audit SET actor = 'nobody' WHERE id = 1")
        attacker.commit()
    bad = program.run("audit", "verify")
    assert bad.returncode == 1
    assert "entry 1 is not as it was written: it was changed" in bad.stderr
