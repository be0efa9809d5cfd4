"""Signing in by an OpenID Connect issuer that is honest, and by one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import httpx
import pytest
from issuer import Issuer, issuer
from support import Running, running

from gradhelm.errors import SettingsError
from gradhelm_server.settings import OidcSettings, ServerSettings


@pytest.fixture(scope="module")
def there() -> Iterator[Issuer]:
    with issuer() as found:
        yield found


@pytest.fixture(scope="module")
def here(there: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = OidcSettings(there.url, "gradhelm-here", "a secret", "The Lab")
    with running(tmp_path_factory.mktemp("oidc"), oidc=settings) as found:
        yield found


@pytest.fixture(autouse=True)
def honest(there: Issuer, here: Running) -> None:
    there.claims, there.lie, there.refuses = {}, "", False
    for user in here.get("users")["users"]:
        here.rest.delete(f"/api/v1/users/{user['id']}")


def add(here: Running, name: str = "ann@example.org", **more: object) -> dict:
    body = {"name": name, "grants": {"lab": "operator"}, **more}
    return here.rest.post("/api/v1/users", json=body).json()


def come(here: Running, client: httpx.Client, **query: str) -> httpx.Response:
    """By way of the issuer, as a browser does; the answer of the callback."""
    answer = client.get(f"{here.url}/login/oidc", params=query)
    assert answer.status_code == 302
    answer = client.get(answer.headers["location"])
    return client.get(answer.headers["location"])


@pytest.mark.parametrize(
    ("wanted", "address"),
    [
        ("/runs/x?window=10#map", "/runs/x?window=10#map"),
        ("/?q=ä%C3%A4 \u202e", "/?q=%C3%A4%C3%A4%20%E2%80%AE"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("https://evil.example", "/"),
        ("/login?next=/login", "/"),
        ("/login-links", "/login-links"),
        ("/" + "x" * 5000, "/"),
        ("", "/"),
    ],
)
def test_one_goes_on_to_where_one_wanted(here: Running, wanted: str, address: str) -> None:
    add(here)
    with httpx.Client() as client:
        assert come(here, client, next=wanted).headers["location"] == address


def told(answer: httpx.Response) -> str:
    """Why somebody was not let in."""
    assert answer.status_code == 303
    where, _, why = answer.headers["location"].partition("#error=")
    assert where == "/login"
    assert not any(
        "gradhelm-8" in c or "__Host" in c for c in answer.headers.get_list("set-cookie")
    )
    return unquote(why)


def test_an_account_is_linked_at_its_first_sign_in_and_found_by_its_subject_then(
    here: Running, there: Issuer
) -> None:
    made = add(here)
    assert httpx.get(f"{here.url}/login/ways").json()["oidc"] == {"name": "The Lab"}
    with httpx.Client() as client:
        answer = come(here, client)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        user = client.get(f"{here.url}/api/v1/server").json()["user"]
        assert (user["name"], user["grants"]) == ("ann@example.org", {"lab": "operator"})
        (session,) = client.get(f"{here.url}/api/v1/me/sessions").json()["sessions"]
        assert session["way"] == "oidc"
    asked = there.asked[-1]
    assert asked["code_challenge_method"] == "S256"
    assert asked["state"]
    assert asked["nonce"]
    assert here.get(f"users/{made['id']}")["oidc"] is True
    # The address may change hands; the subject does not.
    there.claims = {"email": "ann.new@example.org"}
    with httpx.Client() as client:
        assert come(here, client).headers["location"] == "/"
    there.claims = {"sub": "subject-2"}
    with httpx.Client() as client:
        assert "another way" in told(come(here, client))
    here.rest.patch(f"/api/v1/users/{made['id']}", json={"disabled": True})
    there.claims = {}
    with httpx.Client() as client:
        assert "disabled" in told(come(here, client))


@pytest.mark.parametrize(
    ("claims", "lie"),
    [
        ({}, "signature"),
        ({}, "none"),
        ({}, "key"),
        ({"iss": "http://evil.example"}, ""),
        ({"aud": "somebody-else"}, ""),
        ({"exp": 1}, ""),
        ({"nonce": "another"}, ""),
        ({"sub": ""}, ""),
        ({"sub": None}, ""),
    ],
)
def test_a_word_that_is_not_the_issuers_lets_nobody_in(
    here: Running, there: Issuer, claims: dict, lie: str
) -> None:
    add(here)
    there.claims, there.lie = claims, lie
    with httpx.Client() as client:
        assert told(come(here, client))
        assert client.get(f"{here.url}/api/v1/server").status_code == 401


@pytest.mark.parametrize(
    "claims", [{"email_verified": False}, {"email_verified": "true"}, {"email": None}]
)
def test_an_address_that_is_not_verified_is_nobodys(
    here: Running, there: Issuer, claims: dict
) -> None:
    add(here)
    there.claims = claims
    with httpx.Client() as client:
        assert "verified" in told(come(here, client))


def test_an_account_with_a_password_is_not_taken_over(here: Running) -> None:
    add(here, password="correct horse battery")
    with httpx.Client() as client:
        assert "another way" in told(come(here, client))


def test_who_has_no_account_is_told_whom_to_ask(here: Running, there: Issuer) -> None:
    with httpx.Client() as client:
        assert "an admin can make one" in told(come(here, client))
        there.refuses = True
        assert "not today" in told(come(here, client))


def test_accounts_are_made_where_that_is_wanted(there: Issuer, tmp_path) -> None:
    grants = {"*": "viewer", "vision": "operator"}
    settings = OidcSettings(there.url, "gradhelm-here", "a secret", "The Lab", grants)
    with running(tmp_path / "home", oidc=settings) as here, httpx.Client() as client:
        assert come(here, client).headers["location"] == "/"
        assert client.get(f"{here.url}/api/v1/server").json()["user"]["grants"] == grants
        assert "user linked" in str(here.store.submit(_actions).result())


def _actions(connection) -> list[str]:
    from gradhelm_server.tables import audit

    return list(connection.execute(audit.select()).mappings())


def test_what_one_browser_began_no_other_ends_and_nobody_twice(here: Running) -> None:
    add(here)
    with httpx.Client() as victim, httpx.Client() as thief:
        began = victim.get(f"{here.url}/login/oidc")
        back = victim.get(began.headers["location"]).headers["location"]
        assert "another browser" in told(thief.get(back))
        thief.get(f"{here.url}/login/oidc")
        assert told(thief.get(back))  # another state than the one it began with
        assert victim.get(back).headers["location"] == "/"
        assert told(victim.get(back))
        assert told(victim.get(f"{here.url}/login/oidc/callback?code=x&state=y"))


def test_an_issuer_that_is_not_there_is_said(tmp_path) -> None:
    settings = OidcSettings("http://127.0.0.1:9", "gradhelm-here", "a secret", "The Lab")
    with running(tmp_path / "home", oidc=settings) as here:
        answer = httpx.get(f"{here.url}/login/oidc")
        assert "cannot be reached" in told(answer)


def test_without_an_issuer_there_is_no_such_way(server: Running) -> None:
    assert "nobody else" in told(httpx.get(f"{server.url}/login/oidc"))
    assert httpx.get(f"{server.url}/login/ways").json()["oidc"] is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ISSUER": "http://login.example.org"}, "https"),
        ({"ISSUER": "https://login.example.org"}, "CLIENT_ID"),
        (
            {
                "ISSUER": "https://l.example",
                "CLIENT_ID": "x",
                "CLIENT_SECRET": "y",
                "GRANTS": "admin",
            },
            "viewer",
        ),
        (
            {
                "ISSUER": "https://l.example",
                "CLIENT_ID": "x",
                "CLIENT_SECRET": "y",
                "GRANTS": "viewer@",
            },
            "viewer",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, words: str, tmp_path) -> None:
    environ = {f"GRADHELM_OIDC_{name}": value for name, value in values.items()}
    with pytest.raises(SettingsError, match=words):
        ServerSettings.read({"GRADHELM_HOME": str(tmp_path), **environ})


def test_settings_are_read(tmp_path) -> None:
    environ = {
        "GRADHELM_HOME": str(tmp_path),
        "GRADHELM_OIDC_ISSUER": "https://login.example.org/",
        "GRADHELM_OIDC_CLIENT_ID": "x",
        "GRADHELM_OIDC_CLIENT_SECRET": "y",
        "GRADHELM_OIDC_GRANTS": "viewer, operator@vision",
    }
    found = ServerSettings.read(environ).oidc
    assert found == OidcSettings(
        "https://login.example.org",
        "x",
        "y",
        "login.example.org",
        {"*": "viewer", "vision": "operator"},
    )
