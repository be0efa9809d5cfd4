"""A page of somebody else in the browser of a person who is signed in: it reads and changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from browser.conftest import PATIENCE
from playwright.sync_api import BrowserContext, Page, expect
from support import eventually

from .conftest import Victim

HERE = Path(__file__).parent
pytestmark = pytest.mark.browser

PAGE = """<!DOCTYPE html><title>somebody else's</title><body>
<button id="open" onclick="knock()">Look</button><script src="/attack.js"></script>"""
SANDBOX = """<!DOCTYPE html><title>of no origin</title><body><script>
window.done = new Promise((yes) => addEventListener("message", ({ data }) => yes(data)));
</script><iframe sandbox="allow-scripts allow-forms" src="/attack?QUERY"></iframe>"""
POST = """<!DOCTYPE html><form method="post" action="TARGET" enctype="text/plain">
<input name='{"role":"admin","x":"' value='"}'><button id="go">Win a prize</button></form>"""


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, kind: str, body: str, **headers: str) -> None:
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Evil(Quiet):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        match parts.path:
            case "/attack.js":
                self.answer("text/javascript", (HERE / "attack.js").read_text())
            case "/sandboxed":
                self.answer("text/html", SANDBOX.replace("QUERY", parts.query))
            case "/post":
                self.answer("text/html", POST.replace("TARGET", parts.query))
            case _:
                self.answer("text/html", PAGE)


class Soft(Quiet):
    """A server that lets everybody do everything: what the attack can do is shown on it."""

    changed: list[str]

    def do_GET(self) -> None:
        origin = self.headers.get("Origin") or "*"
        leave = {
            "Access_Control_Allow_Origin": origin,
            "Access_Control_Allow_Credentials": "true",
            "Access_Control_Allow_Headers": "content-type,if-match,authorization,x-http-method-override",
            "Access_Control_Allow_Methods": "GET,POST,PUT,PATCH,DELETE",
        }
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if self.command not in ("GET", "OPTIONS"):
            self.changed.append(f"{self.command} {self.path}")
        if self.path.endswith(".svg"):
            self.answer("image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>", **leave)
        elif self.path.endswith(".css"):
            self.answer("text/css", "body{}", **leave)
        else:
            self.answer("text/javascript", "0", **leave)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET


def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def evil() -> Iterator[int]:
    for server in serving(Evil):
        yield server.server_port


@pytest.fixture
def soft() -> Iterator[tuple[str, list[str]]]:
    changed: list[str] = []
    for server in serving(type("Counted", (Soft,), {"changed": changed})):
        yield f"http://127.0.0.1:{server.server_port}", changed


def attacked(page: Page, origin: str, target: str, run: str, path: str = "/attack") -> dict:
    """What came of everything that a page of ``origin`` tried."""
    page.goto(f"{origin}{path}?{urlencode({'target': target, 'run': run})}")
    found = page.evaluate("done")
    assert isinstance(found, dict)
    return found


def succeeded(found: dict[str, str]) -> dict[str, str]:
    return {name: what for name, what in found.items() if not what.startswith(("blocked", "sent"))}


ORIGINS = ["http://127.0.0.1:{port}", "http://localhost:{port}", "http://evil.example:{port}"]
"""On the same machine, so that cookies go along; at another name of it; and anywhere."""


@pytest.mark.parametrize("path", ["/attack", "/sandboxed"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_nothing_is_read_and_nothing_happens(
    tab: BrowserContext, victim: Victim, evil: int, origin: str, path: str
) -> None:
    before = victim.settled()
    own = tab.new_page()
    own.goto(f"{victim.url}/runs/{victim.run}")
    expect(own.locator("#run-name")).to_have_text("theirs")

    page = tab.new_page()
    answers: list[tuple[str, str, int]] = []
    page.on("response", lambda r: answers.append((r.request.method, r.url, r.status)))
    found = attacked(page, origin.format(port=evil), victim.url, victim.run, path)
    assert len(found) > 120
    assert succeeded(found) == {}
    shown = [frame.url for frame in page.frames if frame.url.startswith(victim.url)]
    assert all("/login" not in url and "/runs" not in url for url in shown)
    for frame in page.frames[1:]:
        if frame.url.startswith(victim.url):  # the answer to a form: a refusal
            assert '"error"' in frame.content()

    # What reached the server, it refused; and what it refused did reach it.
    reached = [(m, u, s) for m, u, s in answers if u.startswith(victim.url) and m != "GET"]
    assert {m for m, _, _ in reached} >= {"POST"}
    assert {s for _, _, s in reached} <= {401, 403, 405}

    assert victim.settled() == before
    for shown_page in (own, tab.new_page()):
        shown_page.goto(f"{victim.url}/runs/{victim.run}")
        expect(shown_page.locator("#run-name")).to_have_text("theirs")


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_server_without_a_guard_would_fall(
    tab: BrowserContext, evil: int, soft: tuple[str, list[str]], origin: str
) -> None:
    url, changed = soft
    found = attacked(tab.new_page(), origin.format(port=evil), url, "x")
    fell = succeeded(found)
    for what in ("cors GET /api/v1/runs", "script /assets/main.js", "image /assets/logo.svg",
                 "style /assets/page.css", "cors PUT /api/v1/runs/x/control application/json",
                 "xhr /", "import /assets/main.js"):  # fmt: skip
        assert what in fell, what
    assert {"POST /logout", "PUT /api/v1/runs/x/control", "DELETE /api/v1/runs/x"} <= set(changed)
    assert any(found[name] == "sent" for name in found if name.startswith("form"))


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_window_that_a_page_opens_is_out_of_its_reach(
    tab: BrowserContext, victim: Victim, evil: int, origin: str
) -> None:
    before = victim.settled()
    page = tab.new_page()
    query = urlencode({"target": victim.url, "run": victim.run})
    page.goto(f"{origin.format(port=evil)}/attack?{query}")
    page.evaluate("done")
    with tab.expect_page() as opened:
        page.locator("#open").click()
    window = opened.value
    window.wait_for_load_state()
    assert page.evaluate("peep()")["closed"] is True
    found = page.evaluate("peep()")
    assert "mine" not in str(found)
    if "localhost" in origin or "evil" in origin:
        window.goto(f"{victim.url}/runs/{victim.run}")
    assert window.evaluate("window.opener") is None
    expect(window.locator("#run-name")).to_have_text("theirs")
    assert window.title() != "mine"
    assert victim.settled() == before


@pytest.mark.parametrize("path", ["/logout", "/api/v1/tokens", "/api/v1/login-links", "/login"])
def test_a_form_that_takes_the_whole_window_changes_nothing(
    tab: BrowserContext, victim: Victim, evil: int, path: str
) -> None:
    before = victim.settled()
    for origin in ORIGINS:
        page = tab.new_page()
        page.goto(f"{origin.format(port=evil)}/post?{victim.url}{path}")
        with page.expect_navigation() as went:
            page.locator("#go").click()
        assert went.value is not None
        assert went.value.status in (401, 403)
        assert "bad_origin" in page.content()
    assert victim.settled() == before
    page.goto(f"{victim.url}/")
    expect(page.locator("#runs-table")).to_contain_text("theirs")


@pytest.mark.parametrize("name", ["rebind.example", "evil.example"])
def test_a_name_that_was_bound_anew_leads_nowhere(
    tab: BrowserContext, victim: Victim, name: str
) -> None:
    """The attacker's own name, which now resolves to this machine: to the browser it's one origin."""
    before = victim.settled()
    page = tab.new_page()
    port = victim.program.port
    answer = page.goto(f"http://{name}:{port}/")
    assert answer is not None
    assert answer.status == 400
    for path in ("/", "/login", "/api/v1/runs", "/assets/main.js", "/livez"):
        told = page.evaluate(
            "path => fetch(path).then(async (a) => [a.status, await a.text()])", path
        )
        assert told[0] == 400
        assert json.loads(told[1])["error"]["code"] == "bad_host"
    said = page.evaluate(
        """path => new Promise((yes) => {
            const made = new WebSocket(path);
            made.onopen = () => yes("OPENED");
            made.onerror = () => yes("blocked");
        })""",
        f"ws://{name}:{port}/api/v1/runs/{victim.run}/live",
    )
    assert said == "blocked"
    registered = page.evaluate(
        "() => navigator.serviceWorker?.register('/assets/main.js').then(() => 'yes', () => 'no')"
    )
    assert registered != "yes"
    assert victim.settled() == before


def test_what_another_site_of_this_machine_plants_signs_nobody_out(
    tab: BrowserContext, victim: Victim, evil: int
) -> None:
    """Cookies know no ports, so such a site can set one of our name for a longer path."""
    page = tab.new_page()
    page.goto(f"http://127.0.0.1:{evil}/attack?{urlencode({'target': victim.url, 'run': 'x'})}")
    page.evaluate("done")
    planted = [c for c in tab.cookies() if c["value"] == "planted"]
    assert planted
    page.goto(f"{victim.url}/")
    expect(page.locator("#runs-table")).to_contain_text("theirs")
    status = page.evaluate("fetch('/api/v1/runs').then((a) => a.status)")
    assert status == 200


def test_a_page_uses_nothing_but_its_own_server(tab: BrowserContext, victim: Victim) -> None:
    asked: set[str] = set()
    tab.on("request", lambda request: asked.add(request.url))
    page = tab.new_page()
    page.on("websocket", lambda socket: asked.add(socket.url))
    for path in ("/", f"/runs/{victim.run}", f"/compare?runs={victim.run}", "/nothing", "/login"):
        page.goto(victim.url + path)
        page.wait_for_load_state("load", timeout=PATIENCE)
        page.wait_for_timeout(1000)  # what comes later: a live page is never quite idle
    eventually(lambda: len(asked) > 30)
    elsewhere = {url for url in asked if urlsplit(url).netloc != urlsplit(victim.url).netloc}
    assert {url for url in elsewhere if not url.startswith(("data:", "blob:"))} == set()
