"""People, tokens and projects: who comes in, what each may do where, and how it ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import secrets
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from support import Running, eventually, running
from trainer import trainer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gradhelm import wire
from gradhelm_server import people, sessions

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("people")) as found:
        yield found


def add(served: Running, grants: dict[str, str], password: str | None = PASSWORD) -> dict:
    body = {"name": f"user {secrets.token_hex(4)}", "grants": grants}
    answer = served.rest.post("/api/v1/users", json=body | {"password": password})
    assert answer.status_code == 201, answer.text
    return answer.json()


@contextlib.contextmanager
def browser(served: Running) -> Iterator[httpx.Client]:
    """A browser that nobody has signed in with."""
    with httpx.Client(base_url=served.url, headers={"Origin": served.url}, timeout=30) as client:
        yield client


@contextlib.contextmanager
def signed_in(served: Running, user: dict, password: str = PASSWORD) -> Iterator[httpx.Client]:
    with browser(served) as client:
        body = {"name": user["name"], "password": password}
        assert client.post("/login", json=body).status_code == 204
        yield client


def forget(served: Running) -> None:
    """What the gate remembers for two seconds."""
    served.service.asgi._known.clear()


def make_token(client: httpx.Client, role: str, **more: object) -> dict:
    answer = client.post("/api/v1/tokens", json={"role": role, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# -- coming in ------------------------------------------------------------------------------------


def test_a_password_lets_in_whatever_the_case_of_the_name(served: Running) -> None:
    user = add(served, {"*": "viewer"})
    assert user["password"] is True
    assert user["last_login_at"] is None
    with browser(served) as client:
        assert client.get("/login/ways").json()["password"] is True
        for name in (user["name"], user["name"].upper()):
            answer = client.post("/login", json={"name": name, "password": PASSWORD})
            assert answer.status_code == 204
        told = client.get("/api/v1/server").json()["user"]
        assert told == {
            "name": user["name"],
            "role": "viewer",
            "may": ["view"],
            "grants": {"*": "viewer"},
            "kind": "session",
            "account": True,
            "password": True,
        }
    (shown,) = [u for u in served.get("users")["users"] if u["id"] == user["id"]]
    assert shown["last_login_at"]
    data = b"".join(path.read_bytes() for path in served.home.glob("gradhelm.db*"))
    assert PASSWORD.encode() not in data
    assert b"$argon2id$" in data


def test_a_name_that_there_is_not_is_answered_like_a_wrong_password(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, disabled = add(served, {"*": "viewer"}), add(served, {"*": "viewer"})
    linked = add(served, {"*": "viewer"}, password=None)
    done = served.rest.patch(f"/api/v1/users/{disabled['id']}", json={"disabled": True})
    assert done.json()["disabled_at"]
    verified = []
    real = people.password_matches

    def matches(password: str, hashed: str | None) -> bool:
        began = time.thread_time()
        found = real(password, hashed)
        verified.append(time.thread_time() - began)
        return found

    monkeypatch.setattr(people, "password_matches", matches)
    answers = set()
    with browser(served) as client:
        for name, password in (
            (user["name"], "not the password"),
            ("nobody " + secrets.token_hex(3), PASSWORD),
            (disabled["name"], PASSWORD),
            (linked["name"], PASSWORD),
        ):
            answer = client.post("/login", json={"name": name, "password": password})
            answers.add((answer.status_code, answer.text))
            assert "set-cookie" not in answer.headers
    assert {status for status, _ in answers} == {401}
    assert len(answers) == 1
    # The work is the same too: as many hashes, each as long, so that no clock tells names.
    assert len(verified) == 4
    assert min(verified) > 0.2 * max(verified)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x"}, 422),
        ({"password": "x"}, 422),
        ({"name": 1, "password": "x"}, 422),
        ({"name": "x", "password": None}, 422),
        ({"name": "x", "password": "y", "role": "admin"}, 422),
        ({"name": "x" * 5000, "password": "y"}, 401),
        ({"name": "x", "password": "y" * 100_000}, 401),
        ({"name": "", "password": ""}, 401),
    ],
)
def test_other_bodies_let_nobody_in(served: Running, body: dict, status: int) -> None:
    assert httpx.post(f"{served.url}/login", json=body).status_code == status


def test_the_eleventh_try_is_not_looked_at_and_others_are_not_held_up(served: Running) -> None:
    user, other = add(served, {"*": "viewer"}), add(served, {"*": "viewer"})
    with browser(served) as client:

        def attempt(password: str) -> httpx.Response:
            return client.post("/login", json={"name": user["name"], "password": password})

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            statuses = [a.status_code for a in pool.map(attempt, ["wrong password"] * 25)]
        assert statuses.count(401) == 10  # however many come at once
        assert statuses.count(429) == 15
        refused = attempt(PASSWORD)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_tries"
        assert 0 < int(refused.headers["retry-after"]) <= 15 * 60
    with signed_in(served, other):
        pass


def test_a_right_password_forgives_the_wrong_ones_before_it(served: Running) -> None:
    user = add(served, {"*": "viewer"})
    for _ in range(3):
        with browser(served) as client:
            for _ in range(8):
                body = {"name": user["name"], "password": "wrong password"}
                assert client.post("/login", json=body).status_code == 401
        with signed_in(served, user):
            pass


def test_an_address_that_tries_many_names_is_stopped_too() -> None:
    tries = sessions.Tries()
    for number in range(100):
        tries.count(f"name {number}", "10.0.0.1")
    with pytest.raises(sessions.TooManyTries) as told:
        tries.count("another", "10.0.0.1")
    assert 0 < told.value.when - time.time() <= 15 * 60
    tries.count("another", "10.0.0.2")


# -- accounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "x" * 101, "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": " x", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "a\u202eb", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "a\nb", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "local", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "Server", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "ann · ci", "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": ["x"], "grants": {"*": "viewer"}}, "bad_value"),
        ({"name": "x"}, "bad_value"),
        ({"name": "x", "grants": {}}, "bad_value"),
        ({"name": "x", "grants": {"*": "king"}}, "bad_value"),
        ({"name": "x", "grants": {"*": "ingest"}}, "bad_value"),
        ({"name": "x", "grants": {"p": "admin"}}, "bad_value"),
        ({"name": "x", "grants": {"": "viewer"}}, "bad_value"),
        ({"name": "x", "grants": {"p" * 201: "viewer"}}, "bad_value"),
        ({"name": "x", "grants": [["*", "viewer"]]}, "bad_value"),
        ({"name": "x", "grants": {"*": "viewer"}, "id": "0"}, "unknown_field"),
        ({"name": "x", "grants": {"*": "viewer"}, "role": "admin"}, "unknown_field"),
        ({"name": "x", "grants": {"*": "viewer"}, "password": "short"}, "bad_password"),
        ({"name": "x", "grants": {"*": "viewer"}, "password": "a" * 20}, "bad_password"),
        ({"name": "x", "grants": {"*": "viewer"}, "password": "a" * 2000}, "bad_password"),
        (
            {"name": "roberta smith", "grants": {"*": "viewer"}, "password": "Roberta Smith1"},
            "bad_password",
        ),
    ],
)
def test_what_is_no_account_is_refused(served: Running, body: dict, code: str) -> None:
    before = served.get("users")
    answer = served.rest.post("/api/v1/users", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    assert served.get("users") == before


def test_names_that_look_alike_are_one_name(served: Running) -> None:
    user = add(served, {"*": "viewer"})
    for name in (user["name"], user["name"].upper(), user["name"].replace("u", "\uff55")):
        answer = served.rest.post("/api/v1/users", json={"name": name, "grants": {"*": "viewer"}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "name_taken")


def test_an_invitation_lets_its_user_in_once_and_a_password_be_set(served: Running) -> None:
    user = add(served, {"*": "operator"}, password=None)
    made = served.rest.post("/api/v1/login-links", json={"user": user["id"]}).json()
    with browser(served) as client:
        assert client.post("/login", json={"code": made["code"]}).status_code == 204
        assert client.get("/api/v1/server").json()["user"]["name"] == user["name"]
        for new in ("short", user["name"] + "1", 12):
            answer = client.post("/api/v1/me/password", json={"new": new})
            assert answer.json()["error"]["code"] == "bad_password"
        assert client.post("/api/v1/me/password", json={"new": PASSWORD}).status_code == 204
    with browser(served) as client:
        assert client.post("/login", json={"code": made["code"]}).status_code == 401
    with signed_in(served, user):
        pass
    missing = served.rest.post("/api/v1/login-links", json={"user": "nobody"})
    assert missing.status_code == 404


def test_a_new_password_needs_the_old_one_and_ends_the_other_sessions(served: Running) -> None:
    user = add(served, {"*": "viewer"})
    with signed_in(served, user) as mine, signed_in(served, user) as other:
        for old in (None, "wrong password", 7, PASSWORD.upper()):
            body = {"old": old, "new": "another long password"}
            answer = mine.post("/api/v1/me/password", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "bad_credentials")
        body = {"old": PASSWORD, "new": "another long password"}
        assert mine.post("/api/v1/me/password", json=body).status_code == 204
        forget(served)
        assert mine.get("/api/v1/runs").status_code == 200
        assert other.get("/api/v1/runs").status_code == 401
    with browser(served) as client:
        body = {"name": user["name"], "password": PASSWORD}
        assert client.post("/login", json=body).status_code == 401


def test_who_has_no_account_has_no_password(served: Running) -> None:
    answer = served.rest.post("/api/v1/me/password", json={"new": PASSWORD})
    assert answer.status_code == 403
    code = served.rest.post("/api/v1/login-links", json={}).json()["code"]
    with browser(served) as client:
        client.post("/login", json={"code": code})
        answer = client.post("/api/v1/me/password", json={"new": PASSWORD})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_account")


def test_nobody_changes_their_own_account(served: Running) -> None:
    user = add(served, {"*": "admin"})
    with signed_in(served, user) as client:
        path = f"/api/v1/users/{user['id']}"
        for answer in (
            client.patch(path, json={"grants": {"*": "viewer"}}),
            client.patch(path, json={"disabled": True}),
            client.delete(path),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "own_account")
        assert client.get(path).json()["disabled_at"] is None


def test_sessions_are_listed_and_ended_by_their_owner_alone(served: Running) -> None:
    user, stranger = add(served, {"*": "viewer"}), add(served, {"*": "admin"})
    with signed_in(served, user) as one, signed_in(served, user) as two:
        found = one.get("/api/v1/me/sessions").json()["sessions"]
        assert [session["current"] for session in found].count(True) == 1
        assert {session["way"] for session in found} == {"password"}
        assert all("python-httpx" in session["agent"] for session in found)
        (other,) = [session["id"] for session in found if not session["current"]]
        with signed_in(served, stranger) as elsewhere:
            assert elsewhere.delete(f"/api/v1/me/sessions/{other}").status_code == 404
        assert one.delete(f"/api/v1/me/sessions/{other}").status_code == 204
        assert one.delete(f"/api/v1/me/sessions/{other}").status_code == 404
        forget(served)
        assert two.get("/api/v1/runs").status_code == 401
        assert one.get("/api/v1/runs").status_code == 200


# -- projects -------------------------------------------------------------------------------------


@contextlib.contextmanager
def run_in(served: Running, project: str, token: str | None = None) -> Iterator[str]:
    with trainer(served.ws, token or served.token, project=project, name=f"in {project}") as fake:
        fake.send(0, fake.rows([0.5, 2.0]))
        yield fake.run


READS = (
    "",
    "/columns",
    "/parameters",
    "/series?columns=global_norm",
    "/times",
    "/heatmap",
    "/events",
    "/whatif?max_norm=1",
    "/advice",
    "/control",
    "/control/history",
)


def test_of_another_project_there_is_nothing_to_be_seen(served: Running) -> None:
    own, other, hidden = (f"{name} {secrets.token_hex(4)}" for name in ("own", "other", "hidden"))
    user = add(served, {own: "operator", other: "viewer"})
    with (
        run_in(served, own) as mine,
        run_in(served, other) as seen,
        run_in(served, hidden) as theirs,
        signed_in(served, user) as client,
    ):
        listed = client.get("/api/v1/runs", params={"limit": 500}).json()
        assert {run["project"] for run in listed["runs"]} == {own, other}
        assert listed["counts"]["live"] == 2
        assert client.get("/api/v1/server").json()["runs"]["live"] == 2
        assert client.get("/api/v1/runs", params={"project": hidden}).json()["runs"] == []
        assert client.get(f"/api/v1/runs?q={theirs}").json()["runs"] == []
        absent = "0" + theirs[1:]
        for path in READS:
            found = {
                run: client.get(f"/api/v1/runs/{run}{path}") for run in (mine, seen, theirs, absent)
            }
            assert found[mine].status_code == found[seen].status_code == 200, path
            # Exactly what is said of a run that does not exist.
            assert found[theirs].status_code == 404, path
            assert found[theirs].text.replace(theirs, absent) == found[absent].text, path
        note = {"json": {"note": "x"}}
        assert client.patch(f"/api/v1/runs/{mine}", **note).status_code == 200
        assert client.patch(f"/api/v1/runs/{seen}", **note).status_code == 403
        assert client.patch(f"/api/v1/runs/{theirs}", **note).status_code == 404
        assert client.delete(f"/api/v1/runs/{theirs}").status_code == 404
        assert client.post(f"/api/v1/runs/{theirs}/restore").status_code == 404
        change = {"json": {"max_norm": 0.7}, "headers": {"If-Match": '"0"'}}
        assert client.put(f"/api/v1/runs/{seen}/control", **change).status_code == 403
        assert client.put(f"/api/v1/runs/{theirs}/control", **change).status_code == 404
        assert client.put(f"/api/v1/runs/{mine}/control", **change).status_code == 202
        (version,) = client.get(f"/api/v1/runs/{mine}/control/history").json()["versions"]
        assert version["author"] == user["name"]
        cookie = "; ".join(f"{k}={v}" for k, v in client.cookies.items())
        for run, status in ((theirs, 404), (absent, 404)):
            with pytest.raises(InvalidStatus) as refused:
                live(served, run, {"Cookie": cookie, "Origin": served.url}).__enter__()
            assert refused.value.response.status_code == status
        assert served.get(f"runs/{theirs}")["note"] == ""


def live(served: Running, run: str, headers: dict[str, str]) -> contextlib.AbstractContextManager:
    return connect(f"{served.ws}/api/v1/runs/{run}/live", additional_headers=headers, proxy=None)


def test_a_run_does_not_change_its_project(served: Running) -> None:
    with run_in(served, "mine") as mine:
        answer = served.rest.patch(f"/api/v1/runs/{mine}", json={"project": "theirs"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_field")


# -- tokens ---------------------------------------------------------------------------------------


def test_people_make_tokens_that_may_no_more_than_they_do(served: Running) -> None:
    user = add(served, {"mine": "operator", "seen": "viewer"})
    with signed_in(served, user) as client:
        for role, project, status in (
            ("viewer", "mine", 201),
            ("operator", "mine", 201),
            ("ingest", "mine", 201),
            ("viewer", "seen", 201),
            ("operator", "seen", 403),
            ("ingest", "seen", 403),
            ("viewer", "theirs", 403),
            ("viewer", "*", 403),
            ("admin", "*", 403),
            ("admin", "mine", 422),
            ("metrics", "*", 403),
            ("king", "mine", 422),
            ("viewer", "", 422),
            ("viewer", 7, 422),
        ):
            body = {"role": role, "project": project, "name": f"{role} of {project}"}
            answer = client.post("/api/v1/tokens", json=body)
            assert answer.status_code == status, (role, project, answer.text)
        mine = client.get("/api/v1/tokens").json()["tokens"]
        assert len(mine) == 4
        assert {token["owner"] for token in mine} == {user["name"]}
        others = make_token(served.rest, "viewer")
        assert client.delete(f"/api/v1/tokens/{others['id']}").status_code == 404
        operator = make_token(client, "operator", project="mine", name="ci")
        with run_in(served, "mine") as run:
            change = {
                "json": {"max_norm": 0.7},
                "headers": bearer(operator["token"]) | {"If-Match": '"0"'},
            }
            assert httpx.put(f"{served.url}/api/v1/runs/{run}/control", **change).status_code == 202
            (version,) = served.get(f"runs/{run}/control/history")["versions"]
            assert version["author"] == f"{user['name']} · ci"
        # A token that is stolen does not multiply.
        answer = httpx.post(
            f"{served.url}/api/v1/tokens",
            json={"role": "viewer", "project": "mine"},
            headers=bearer(operator["token"]),
        )
        assert answer.status_code == 403
        assert client.delete(f"/api/v1/tokens/{operator['id']}").status_code == 204
    assert len(served.get("tokens")["tokens"]) > 4


def test_a_token_is_worth_no_more_than_its_owner(served: Running) -> None:
    user = add(served, {"mine": "operator"})
    path = f"/api/v1/users/{user['id']}"
    with signed_in(served, user) as client:
        view = bearer(make_token(client, "viewer", project="mine")["token"])
        steer = bearer(make_token(client, "operator", project="mine")["token"])

    def statuses() -> tuple[int, int]:
        forget(served)
        asked = (httpx.get(f"{served.url}/api/v1/runs", headers=own) for own in (view, steer))
        return tuple(answer.status_code for answer in asked)  # type: ignore[return-value]

    assert statuses() == (200, 200)
    served.rest.patch(path, json={"grants": {"mine": "viewer"}})
    assert statuses() == (200, 401)
    served.rest.patch(path, json={"grants": {"other": "operator"}})
    assert statuses() == (401, 401)
    served.rest.patch(path, json={"grants": {"*": "operator"}})
    assert statuses() == (200, 200)
    served.rest.patch(path, json={"disabled": True})
    assert statuses() == (401, 401)
    served.rest.patch(path, json={"disabled": False})
    assert statuses() == (200, 200)
    assert served.rest.delete(path).status_code == 204
    assert statuses() == (401, 401)
    assert served.rest.get(path).status_code == 404


def test_an_ingest_token_reports_its_owners_runs_of_its_project(served: Running) -> None:
    ann, bob = add(served, {"mine": "operator"}), add(served, {"mine": "operator"})
    with signed_in(served, ann) as client:
        first = make_token(client, "ingest", project="mine")["token"]
        second = make_token(client, "ingest", project="mine")["token"]
    with signed_in(served, bob) as client:
        foreign = make_token(client, "ingest", project="mine")["token"]
    unowned = make_token(served.rest, "ingest", project="theirs")["token"]

    def refused(token: str, run: str | None = None, **values: object) -> None:
        with trainer(served.ws, token, run=run, hello=False) as fake:
            with pytest.raises(ConnectionClosed) as closed:
                fake.hello(**{"project": "mine", **values})
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == wire.CloseCode.FORBIDDEN
            assert "may not report" in closed.value.rcvd.reason

    refused(first, project="theirs")
    refused(unowned)
    with trainer(served.ws, first, project="mine") as fake:
        fake.send(0, fake.rows([0.5]))
        for token in (foreign, unowned):
            for more in ({}, {"resume": True}, {"project": "theirs", "resume": True}):
                refused(token, fake.run, **more)
        # Nobody noticed.
        fake.send(1, fake.rows([0.6]))
    assert served.get(f"runs/{fake.run}")["steps"] == 2
    # Another token of the same owner takes the run up again, and so does an administrator's.
    for step, token in ((2, second), (3, served.token)):
        with trainer(served.ws, token, run=fake.run, project="mine", resume=True) as again:
            again.send(step, again.rows([0.7]))
    assert served.get(f"runs/{fake.run}")["steps"] == 4
    with run_in(served, "mine") as admins:
        refused(first, admins, resume=True)


# -- sockets end with what let them in ------------------------------------------------------------


def ends(socket: object, within: float = 5.0) -> float:
    """Seconds until a socket is closed with 4401."""
    began = time.monotonic()
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(timeout=within + 2)  # type: ignore[attr-defined]
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == wire.CloseCode.UNAUTHORIZED
    took = time.monotonic() - began
    assert took <= within
    return took


def test_what_is_revoked_loses_its_sockets_and_others_keep_theirs(served: Running) -> None:
    user, other = add(served, {"mine": "viewer"}), add(served, {"mine": "viewer"})
    with run_in(served, "mine") as run, contextlib.ExitStack() as open_:

        def opened(headers: dict[str, str]) -> object:
            socket = open_.enter_context(live(served, run, headers))
            assert '"run"' in socket.recv(timeout=5)  # type: ignore[attr-defined]
            return socket

        def by_cookie(client: httpx.Client) -> dict[str, str]:
            cookie = "; ".join(f"{k}={v}" for k, v in client.cookies.items())
            return {"Cookie": cookie, "Origin": served.url}

        kept_client = open_.enter_context(signed_in(served, other))
        kept = opened(by_cookie(kept_client))
        token = make_token(served.rest, "viewer", project="mine")
        by_token = opened(bearer(token["token"]))
        brief = opened(bearer(make_token(served.rest, "viewer", expires_in=1.0)["token"]))
        one = open_.enter_context(signed_in(served, user))
        two = open_.enter_context(signed_in(served, user))
        first, second = opened(by_cookie(one)), opened(by_cookie(two))
        reporting = make_token(served.rest, "ingest")
        with trainer(served.ws, reporting["token"]) as fake:
            fake.send(0, fake.rows([0.5]))
            served.rest.delete(f"/api/v1/tokens/{token['id']}")
            served.rest.delete(f"/api/v1/tokens/{reporting['id']}")
            assert one.post("/logout").status_code == 204
            for socket in (by_token, brief, first, fake.socket):
                ends(socket)
        served.rest.patch(f"/api/v1/users/{user['id']}", json={"grants": {"other": "viewer"}})
        ends(second)
        with trainer(served.ws, served.token, run=run, project="mine", resume=True) as again:
            again.send(2, again.rows(np.array([0.5])))
        # Frames, and nothing else, are binary: others watch on.
        eventually(lambda: isinstance(kept.recv(timeout=5), bytes), what="a frame")  # type: ignore[attr-defined]


def test_a_revoked_trainer_that_does_not_listen_is_not_heard_either(served: Running) -> None:
    token = make_token(served.rest, "ingest")
    with trainer(served.ws, token["token"]) as fake:
        fake.send(0, fake.rows([0.5]))
        served.rest.delete(f"/api/v1/tokens/{token['id']}")
        began, step, stored = time.monotonic(), 1, -1
        with contextlib.suppress(ConnectionClosed):  # it may come to notice
            while time.monotonic() < began + 8:
                fake.say(fake.frame(step, fake.rows([0.5])))
                step += 1
                time.sleep(0.05)
                if stored < 0 and time.monotonic() > began + 5:
                    stored = served.get(f"runs/{fake.run}")["steps"]
        if stored < 0:
            stored = served.get(f"runs/{fake.run}")["steps"]
    assert stored < step - 1
    assert served.get(f"runs/{fake.run}")["steps"] == stored


def test_one_credential_opens_so_many_sockets(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradhelm_server.watch.MOST", 2)
    token = bearer(make_token(served.rest, "viewer")["token"])
    with run_in(served, "mine") as run, live(served, run, token), live(served, run, token):
        with pytest.raises(InvalidStatus) as refused:
            live(served, run, token).__enter__()
        assert refused.value.response.status_code == 429
        assert json.loads(refused.value.response.body)["error"]["code"] == "too_many_sockets"
