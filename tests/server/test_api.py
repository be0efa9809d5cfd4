"""REST about runs: found, listed, changed, and every bad question answered by its own error."""

from __future__ import annotations

import httpx
import pytest
from support import Running, eventually, running
from trainer import trainer

from gradhelm import wire


@pytest.fixture(scope="module")
def run(server: Running) -> str:
    with trainer(server.ws, server.token, name="of tests") as fake:
        fake.send(0, fake.rows([1.0, 2.0, 3.0]))
        return fake.run


def test_a_run_says_what_it_is(server: Running, run: str) -> None:
    found = server.get(f"runs/{run}")
    assert (found["name"], found["project"], found["status"]) == ("of tests", "tests", "live")
    assert (found["first_step"], found["last_step"], found["steps"]) == (0, 2, 3)
    assert (found["threshold_name"], found["threshold"]) == ("max_norm", 1.0)
    assert found["recent"]["steps"] == 3
    parameters = server.get(f"runs/{run}/parameters")["parameters"]
    assert [(p["name"], p["shape"], p["numel"]) for p in parameters] == [
        ("a.weight", [4, 4], 16),
        ("b.weight", [4, 4], 16),
    ]


def test_runs_are_listed_newest_first_in_pages(tmp_path) -> None:
    with running(tmp_path / "home") as server:
        made = []
        for number in range(5):
            with trainer(server.ws, server.token, name=f"run {number}", project="p") as fake:
                fake.send(0, fake.rows([1.0, 2.0]))
                made.append(fake.run)
        first = server.get("runs", limit=3, sparkline=True)
        assert [r["name"] for r in first["runs"]] == ["run 4", "run 3", "run 2"]
        assert first["runs"][0]["sparkline"] == [1.0, 2.0]
        second = server.get("runs", limit=3, cursor=first["next_cursor"])
        assert [r["id"] for r in second["runs"]] == made[1::-1]
        assert second["next_cursor"] is None
        assert first["counts"]["live"] == 5
        assert [r["id"] for r in server.get("runs", q="RUN 3")["runs"]] == [made[3]]
        changed = {"note": "Über the top", "tags": ["näher dran", "x"]}
        assert server.rest.patch(f"/api/v1/runs/{made[1]}", json=changed).status_code == 200
        for words in ("run dran", "x 1 p", "Über", "100%", "top x " + made[1][:13]):
            wanted = [] if words == "100%" else [made[1]]
            assert [r["id"] for r in server.get("runs", q=words)["runs"]] == wanted, words
        assert server.get("runs", project="other")["runs"] == []
        assert server.get("runs", status="failed")["runs"] == []
        assert server.get("server")["points_per_second"] > 0


def test_a_silent_run_turns_stale_and_then_failed_and_a_hello_revives_it(tmp_path) -> None:
    with running(tmp_path / "home", stale_after=0.3, failed_after=0.9) as server:
        with trainer(server.ws, server.token, segment="0" * 16) as fake:
            fake.send(0, fake.rows([1.0]))
        seen = []

        def failed() -> bool:
            status = server.get(f"runs/{fake.run}")["status"]
            if status not in seen:
                seen.append(status)
            return status == "failed"

        eventually(failed)
        assert seen == ["live", "stale", "failed"]
        found = server.get(f"runs/{fake.run}")
        assert found["last_heard_at"] in found["status_reason"]
        assert server.get("runs")["counts"]["failed"] == 1
        with trainer(server.ws, server.token, run=fake.run, segment="0" * 16):
            assert server.get(f"runs/{fake.run}")["status"] == "live"


def test_a_run_can_be_renamed_tagged_annotated_and_deleted(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        path = f"/api/v1/runs/{fake.run}"
        changed = server.rest.patch(path, json={"name": "new", "tags": ["a", "b"], "note": "n"})
        assert changed.status_code == 200
        assert (changed.json()["name"], changed.json()["tags"]) == ("new", ["a", "b"])
        assert server.rest.delete(path).status_code == 204
        assert server.rest.get(path).status_code == 404
        assert server.rest.delete(path).status_code == 404


def test_a_deletion_can_be_taken_back_while_there_is_something_to_take_back(
    server: Running,
) -> None:
    with trainer(server.ws, server.token) as fake:
        path = f"/api/v1/runs/{fake.run}"
        fake.send(0, fake.rows([1.0, 2.0]))
        assert server.rest.delete(path).status_code == 204
        fake.send(2, fake.rows([3.0]))  # it trains on
        back = server.rest.post(f"{path}/restore")
        assert (back.status_code, back.json()["steps"]) == (200, 3)
        assert server.rest.get(path).json() == server.get(f"runs/{fake.run}")
        assert fake.run in [r["id"] for r in server.get("runs", limit=500)["runs"]]
        again = server.rest.post(f"{path}/restore")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "not_deleted")
        unknown = server.rest.post("/api/v1/runs/nothing/restore")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
        assert server.rest.delete(path).status_code == 204
        server.rest.post("/api/v1/prune", json={})
        gone = server.rest.post(f"{path}/restore")
        assert (gone.status_code, gone.json()["error"]["code"]) == (409, "removed")
        assert server.rest.get(path).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": 5},
        {"name": "a\0b"},
        {"tags": "a"},
        {"tags": [1]},
        {"tags": ["a"] * 65},
        {"status": "finished"},
        {"project_id": 1},
    ],
)
def test_other_changes_are_refused(server: Running, run: str, body: dict) -> None:
    answer = server.rest.patch(f"/api/v1/runs/{run}", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]


BAD_QUESTIONS = {
    "runs?limit=-1": 422,
    "runs?limit=1e9": 422,
    "runs?limit=501": 422,
    "runs?status=alive": 422,
    "runs?cursor=nonsense": 422,
    "runs?cursor=WzEsMl0": 422,
    "runs?q=" + "x" * 201: 422,
    "runs/{run}/series": 422,
    "runs/{run}/series?columns=": 422,
    "runs/{run}/series?columns=nothing": 404,
    "runs/{run}/series?columns=__proto__": 404,
    "runs/{run}/series?columns=global_norm&points=0": 422,
    "runs/{run}/series?columns=global_norm&points=1000000": 422,
    "runs/{run}/series?columns=global_norm&first=5&last=2": 422,
    "runs/{run}/series?columns=global_norm&last=-1": 422,
    "runs/{run}/series?columns=global_norm&first=9007199254740993": 422,
    "runs/{run}/series?columns=global_norm&first=x": 422,
    "runs/{run}/series?columns=global_norm&segment=1": 422,
    "runs/{run}/heatmap?points=-5": 422,
    "runs/{run}/heatmap?match=" + "*a" * 200: 422,
    "runs/{run}/times?points=1": 422,
    "runs/{run}/times?points=10001": 422,
    "runs/{run}/times?stream=other": 422,
    "runs/nothing/times": 404,
    "runs/{run}/whatif": 422,
    "runs/{run}/whatif?max_norm=0": 422,
    "runs/{run}/whatif?max_norm=nan": 422,
    "runs/{run}/whatif?max_norm=1e999": 422,
    "runs/{run}/whatif?max_norm=1,,2": 422,
    "runs/{run}/whatif?max_norm=1&window=5&first=1": 422,
    "runs/{run}/events?kind=party": 422,
    "runs/{run}/events?limit=0": 422,
    "runs/{run}/events?cursor=zz": 422,
    "runs/nothing": 404,
    "runs/%00": 404,
    "runs/nothing/series?columns=global_norm": 404,
    "runs/nothing/heatmap": 404,
    "runs/nothing/events": 404,
    "runs/nothing/columns": 404,
    "runs/nothing/parameters": 404,
    "runs/nothing/whatif?max_norm=1": 404,
    "runs/nothing/control/history": 404,
    "nothing": 404,
}


@pytest.mark.parametrize("question", BAD_QUESTIONS, ids=lambda q: q[:60])
def test_a_bad_question_gets_its_own_error_in_the_one_shape(server, run, question) -> None:
    answer = server.rest.get("/api/v1/" + question.replace("{run}", run))
    assert answer.status_code == BAD_QUESTIONS[question], answer.text
    error = answer.json()["error"]
    assert error.keys() == {"code", "message", "details"}
    assert error["message"]


def test_a_catastrophic_pattern_is_answered_at_once(server: Running) -> None:
    names = ["a" * 190 + str(i) for i in range(50)]
    with trainer(server.ws, server.token, layers=names) as fake:
        fake.send(0, fake.rows([1.0]))
        found = server.get(f"runs/{fake.run}/heatmap", match="*a" * 60 + "*b")
        assert found["rows"] == []


def test_a_run_without_steps_answers_emptily(server: Running) -> None:
    with trainer(server.ws, server.token) as fake:
        fake.say(wire.Heartbeat(None, {}))
        server_run = f"runs/{fake.run}"
        eventually(lambda: server.get(f"{server_run}/columns")["columns"])
        assert server.get(f"{server_run}/series", columns="global_norm")["columns"] == {
            "global_norm": {"step": [], "min": [], "mean": [], "max": [], "nonfinite": []}
        }
        assert server.get(f"{server_run}/heatmap")["values"] == [[], []]
        assert server.get(f"{server_run}/times") == {"started_at": None, "step": [], "elapsed": []}
        assert (
            server.get(f"{server_run}/whatif", max_norm="1")["results"][0]["clip_fraction"] is None
        )
        assert server.get(f"{server_run}/events")["events"] == []
        assert server.get(server_run)["clip_fraction"] is None


def test_health_is_told_to_anybody(server: Running) -> None:
    assert httpx.get(f"{server.url}/livez").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_the_openapi_description_is_whole(server: Running) -> None:
    found = server.get("openapi.json")
    assert "/api/v1/runs/{run}/series" in found["paths"]


def test_a_database_that_is_locked_is_told_as_such(tmp_path, monkeypatch) -> None:
    from sqlalchemy.exc import OperationalError

    from gradhelm_server import runs

    def locked(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    with running(tmp_path / "home") as server, trainer(server.ws, server.token) as fake:
        monkeypatch.setattr(runs, "change", locked)
        answer = server.rest.patch(f"/api/v1/runs/{fake.run}", json={"note": "x"})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert answer.json()["error"]["code"] == "try_later"


def test_a_body_that_is_cut_short_costs_no_traceback(server: Running, caplog) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"PATCH /api/v1/runs/x HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {server.token}\r\nContent-Type: application/json\r\n"
            "Content-Length: 500\r\n\r\n{".encode()
        )
    assert server.get("server")["version"]
    assert "Traceback" not in caplog.text
