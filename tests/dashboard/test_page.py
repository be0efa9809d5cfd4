"""The page on the server's application: what answers where, before any browser is involved."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from support import eventually, free_port

import gradhelm_dashboard
from gradhelm_dashboard.app import CONTROLS, build_ui
from gradhelm_dashboard.pages import page_for

ASSETS = Path(gradhelm_dashboard.__file__).parent / "assets"
LOGIN = Path(gradhelm_dashboard.__file__).parent / "login" / "files"
RUN = "01990000-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    api = FastAPI()

    async def hello() -> dict[str, str]:
        return {"hello": "there"}

    api.add_api_route("/api/v1/hello", hello)
    build_ui(api, version="1.2.3")
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(api, port=port, ws="websockets-sansio", log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as found:
            yield found
    finally:
        server.should_exit = True
        thread.join()


def ids(component: Any) -> set[str]:
    found = {c.id for c in component._traverse() if getattr(c, "id", None)}
    return found | ({component.id} if getattr(component, "id", None) else set())


def test_the_servers_own_routes_come_first_and_unknown_ones_are_not_pages(
    client: httpx.Client,
) -> None:
    assert client.get("/api/v1/hello").json() == {"hello": "there"}
    missing = client.get("/api/v1/nonsense")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "path", ["/", f"/runs/{RUN}", "/compare?runs=a,b", "/settings", "/nothing/here"]
)
def test_every_address_is_answered_by_the_shell(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "<title>gradhelm</title>" in answer.text
    assert '<script type="module" async src="/assets/main.js">' in answer.text


def test_a_page_brings_the_scripts_that_it_uses_and_asks_for_its_modules_at_once(
    client: httpx.Client,
) -> None:
    pages = {path: client.get(path).text for path in ("/", f"/runs/{RUN}", "/compare", "/settings")}
    assert "/dash_ag_grid/" in pages["/"]
    assert "/dash_ag_grid/" not in "".join(text for path, text in pages.items() if path != "/")
    for text in pages.values():
        assert "polyfill" not in text
        assert "/dash_renderer." in text
        modules = set(re.findall(r'rel="modulepreload" href="/assets/([^"]+)"', text))
        used = {"main.js"}
        for name in [*modules, "main.js"]:
            used |= {
                f"{'vendor/' if 'vendor' in path else ''}{path.rpartition('/')[2]}"
                for path in re.findall(r'from "(\./[^"]+)"', (ASSETS / name).read_text())
            }
        assert used == modules | {"main.js"}


def test_scripts_are_sent_compressed_to_those_who_take_that(client: httpx.Client) -> None:
    sources = re.findall(r'src="([^"]+)"', client.get(f"/runs/{RUN}").text)
    weight = 0
    for source in sources:
        plain = client.get(source, headers={"Accept-Encoding": "identity"})
        packed = client.get(source, headers={"Accept-Encoding": "gzip"})
        assert packed.content == plain.content
        assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
        if len(plain.content) >= 500:
            assert packed.headers["content-encoding"] == "gzip"
            assert "content-encoding" not in plain.headers
            weight += int(packed.headers["content-length"])
    assert weight < 800_000
    etag = client.get("/assets/run.js", headers={"Accept-Encoding": "gzip"}).headers["etag"]
    again = client.get("/assets/run.js", headers={"If-None-Match": etag})
    assert again.status_code == 304
    font = client.get("/assets/vendor/inter-latin-wght-normal.woff2")
    assert "content-encoding" not in font.headers
    missing = client.get("/assets/nothing.js")
    assert missing.status_code == 404


def test_a_deep_link_has_its_callbacks_at_the_first_request(client: httpx.Client) -> None:
    dependencies = client.get("/_dash-dependencies").json()
    inputs = {entry["inputs"][0]["id"] for entry in dependencies}
    assert inputs == {"url", *CONTROLS}


def test_the_document_takes_nothing_from_elsewhere(client: httpx.Client) -> None:
    text = client.get("/").text
    sources = re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert sources
    assert all(source.startswith("/") and not source.startswith("//") for source in sources)
    for file in ASSETS.glob("*.*s"):
        assert "https://" not in file.read_text(), file.name
    for source in sources:
        assert client.get(source).status_code == 200, source


def test_only_dashs_own_scripts_are_inline(client: httpx.Client) -> None:
    scripts = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", client.get("/").text)
    assert [re.search(r'id="([^"]+)"', script)[1] for script in scripts] == [
        "_dash-config",
        "_dash-renderer",
    ]


def test_the_login_page_is_whole_without_a_session(client: httpx.Client) -> None:
    answer = client.get("/login")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "dash" not in answer.text
    for source in re.findall(r"(?:src|href)=\"([^\"]+)\"", answer.text):
        assert source.startswith("/login-assets/")
        assert client.get(source).status_code == 200


def test_the_login_page_has_no_script_or_style_of_its_own_and_its_modules_are_public(
    client: httpx.Client,
) -> None:
    text = client.get("/login").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", text)
    imported = set()
    for file in LOGIN.glob("*.js"):
        imported |= set(re.findall(r'from "\./([^"]+)"', file.read_text()))
    assert imported
    for name in imported:
        assert client.get(f"/login-assets/{name}").status_code == 200
    used = set(
        re.findall(r'\$\("([a-z][\w-]+)"\)', "".join(f.read_text() for f in LOGIN.glob("*")))
    )
    assert used <= set(re.findall(r'id="([^"]+)"', text))


def test_password_managers_are_told_what_is_what(client: httpx.Client) -> None:
    text = client.get("/login").text
    assert 'autocomplete="username"' in text
    assert 'type="password" autocomplete="current-password"' in text
    settings = (ASSETS / "password.js").read_text()
    for wanted in ("username", "current-password", "new-password"):
        assert f'autocomplete: "{wanted}"' in settings


def test_only_who_may_is_shown_the_people_and_the_parts_are_led_to() -> None:
    page = page_for("/settings")
    by_id = {c.id: c for c in page._traverse() if getattr(c, "id", None)}
    assert by_id["people"].hidden is True
    assert by_id["nav-people"].hidden is True
    links = {c.href for c in page._traverse() if str(getattr(c, "href", "")).startswith("#")}
    assert links == {"#you", "#tokens", "#people", "#appearance"}
    assert {link[1:] for link in links} <= set(by_id)


def test_assets_are_asked_about_again_after_an_upgrade(client: httpx.Client) -> None:
    answer = client.get("/assets/main.js")
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get("/assets/main.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_the_parts_that_tests_and_readers_look_for_are_there() -> None:
    assert "runs-table" in ids(page_for("/"))
    run = page_for(f"/runs/{RUN}")
    assert {
        "live-chart",
        "layer-heatmap",
        "threshold-apply",
        "threshold-status",
        "event-list",
    } <= ids(run)
    assert "threshold-input" in made_by_scripts()
    assert run.to_plotly_json()["props"]["data-run"] == RUN
    assert {"compare-page", "compare-chart", "compare-table"} <= ids(page_for("/compare"))
    settings = ids(page_for("/settings"))
    assert {"settings-page", "you", "tokens", "people", "appearance", "nav-people"} <= settings
    assert {"token-table", "people-table", "session-table", "password-form"} <= made_by_scripts()
    assert "missing-page" in ids(page_for("/nothing/here"))


def made_by_scripts() -> set[str]:
    scripts = "".join(file.read_text() for file in ASSETS.glob("*.js"))
    return set(re.findall(r"\bid: \"([a-z][\w-]+)\"", scripts))


def all_ids() -> set[str]:
    return set().union(
        *(ids(page_for(path)) for path in ("/", f"/runs/{RUN}", "/compare", "/settings"))
    )


def test_every_control_that_the_scripts_follow_exists() -> None:
    assert set(CONTROLS) <= all_ids()


def test_an_address_brings_its_choices_and_wrong_ones_change_nothing() -> None:
    def chosen(search: str) -> list[str]:
        page = page_for(f"/runs/{RUN}", search)
        by_id = {c.id: c for c in page._traverse() if getattr(c, "id", None)}
        return [by_id[f"{name}-choice"].value for name in ("window", "scale", "heat")]

    usual = ["1000", "log", "absolute"]
    assert chosen("") == usual
    assert chosen("?window=all&scale=linear&map=relative") == ["all", "linear", "relative"]
    assert chosen("?window=7&scale=&map=%00&stream=x") == usual


def test_a_link_to_the_runs_or_to_a_comparison_brings_its_choices_too() -> None:
    def chosen(path: str, search: str, *names: str) -> list[str]:
        by_id = {c.id: c for c in page_for(path, search)._traverse() if getattr(c, "id", None)}
        return [by_id[name].value for name in names]

    runs = ("/", "runs-search", "runs-status")
    assert chosen(runs[0], "?q=gpt%202&status=failed", *runs[1:]) == ["gpt 2", "failed"]
    assert chosen(runs[0], "?status=alive", *runs[1:]) == ["", "all"]
    assert chosen(runs[0], f"?q={'x' * 999}", *runs[1:])[0] == "x" * 200
    compare = ("/compare", "compare-axis", "compare-scale")
    assert chosen(compare[0], "?x=time&scale=linear", *compare[1:]) == ["time", "linear"]
    assert chosen(compare[0], "?x=&scale=cubic", *compare[1:]) == ["step", "log"]


def test_ids_that_the_scripts_look_up_exist() -> None:
    """A renamed part would otherwise fail silently, as an element that is never filled."""
    from gradhelm_dashboard.shell import layout

    known = all_ids() | ids(layout("0")) | made_by_scripts()
    known.add("missing-page")
    for file in ASSETS.glob("*.js"):
        used = set(re.findall(r"(?:\$|say|show|setProps)\(\"([a-z][\w-]+)\"", file.read_text()))
        assert used <= known, file.name


def test_strangers_names_are_never_markup() -> None:
    for file in [*ASSETS.glob("*.js"), *LOGIN.glob("*.js")]:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", file.read_text()
        )
