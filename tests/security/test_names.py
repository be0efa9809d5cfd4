"""Names that strangers give are text, wherever they are shown: nothing of them runs or is markup."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from browser.conftest import PATIENCE
from playwright.sync_api import Browser, BrowserContext, Page, expect
from playwright.sync_api import Error as PlaywrightError
from support import Program, eventually, free_port
from trainer import SCALARS, trainer

from gradhelm import wire

from .conftest import signed_in
from .payloads import ALL, FORMULAS, MARKUP, WHOLE, joined

pytestmark = pytest.mark.browser

STEPS = 60
WATCH = """
addEventListener("securitypolicyviolation", (e) =>
  violated(`${e.violatedDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`));
for (const name of ["alert", "confirm", "prompt", "print"]) window[name] = () => canary(name);
window.__natural = Object.getOwnPropertyNames(Object.prototype).sort().join();
"""
GROWN = """() => {
  const found = [...document.querySelectorAll(
    "x-canary, base, iframe, object, embed, math, animate, meta[http-equiv=refresh], script:not([src]):not([id^=_dash])"
  )].filter((e) => !e.id.startsWith("_dash")).map((e) => e.outerHTML.slice(0, 200));
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      if (name.startsWith("on") || name === "srcdoc" || (/^(href|src|action|formaction|data|xlink:href)$/.test(name)
          && /^\\s*(javascript|data:text|\\/\\/)/i.test(value))) found.push(`${name}=${value}`.slice(0, 200));
    }
  }
  if (Object.getOwnPropertyNames(Object.prototype).sort().join() !== window.__natural || ({}).polluted !== undefined) {
    found.push("Object.prototype was changed");
  }
  return found;
}"""


@dataclass
class Canary:
    """A browser's window of somebody signed in, and what came of the names that it was shown."""

    context: BrowserContext
    url: str
    bare: bool = False  # without a content security policy
    fired: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    grown: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.context.expose_function("canary", lambda *found: self.fired.append(repr(found)))
        self.context.expose_function("violated", lambda what: self.violations.append(what))
        self.context.add_init_script(WATCH)

    def page(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("dialog", lambda dialog: (self.fired.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        return page

    def look(self, page: Page) -> None:
        """At everything that stands there now, in the text and beside it."""
        self.grown += [f"{page.url}: {one}" for one in page.evaluate(GROWN)]
        self.seen |= set(page.evaluate(SEEN))

    def nothing_happened(self) -> None:
        # What a page called is heard only while something is asked of it.
        self.context.pages[0].wait_for_timeout(300)
        assert self.fired == []
        assert self.grown == []
        assert self.violations == []
        assert self.complaints == []


SEEN = """() => {
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) found.push(walk.currentNode.data);
  for (const e of document.querySelectorAll("[title], [aria-label], input, textarea, option")) {
    found.push(e.title, e.getAttribute("aria-label") ?? "", e.value ?? "", e.label ?? "");
  }
  return found.filter(Boolean);
}"""


def reported(program: Program, token: str, names: list[str], name: str) -> str:
    """A run all of whose names are ``names``, in turn; its id."""
    turn = cycle(names)

    def next_(most: int = 200) -> str:
        return next(turn)[:most]

    # Names of parameters are unique; a stream's are its name and a slash before them.
    layers = list(dict.fromkeys(islice(turn, len(names))))
    streams = tuple(dict.fromkeys((names[0][:60], names[1 % len(names)][:60], "plain")))[:2]
    rules = tuple(
        wire.Coded(
            next_(), {"max_norm": 1.0, next_(): 0.5}, "max_norm",
            {"max_norm": wire.Limit(0.01, 100.0)}, match=match, stream=stream,
        )
        for stream in (None, streams[1])
        for match in ("a.*", next_())
    )  # fmt: skip
    config = {
        **{payload: payload for payload in names},
        "__proto__": {"polluted": "yes"},
        "constructor": {"prototype": {"polluted": "yes"}},
        "nested": {payload: [payload, {payload: payload}] for payload in names[:4]},
    }
    with trainer(
        f"ws://127.0.0.1:{program.port}", token, layers=layers, name=name, project=next_(),
        tags=tuple(dict.fromkeys(names))[:64], config=json.dumps(config), host=next_(),
        hook=next_(40), coded=rules, streams=streams,
        limits=wire.Limits(lr=True, stop=True),
    ) as fake:  # fmt: skip
        logged = tuple(wire.Column(payload, "log") for payload in layers)
        fake.say(wire.Columns(1, 0, logged))
        second = [wire.Column(f"{streams[1]}/{scalar}", "scalar") for scalar in SCALARS]
        second += [
            wire.Column(f"{streams[1]}/norm/{payload}"[:440], "norm", (4, 4), "float32")
            for payload in layers
        ]
        fake.say(wire.Columns(2, 0, tuple(second), stream=streams[1]))
        norms = [0.5, 2.0, 3.0, 100.0, float("nan"), 0.7] * (STEPS // 6)
        fake.send(0, fake.rows(norms))
        wide = np.ones((STEPS, len(logged)), np.float32)
        steps, times = np.arange(STEPS, dtype=np.uint64), np.arange(STEPS, dtype=np.float64)
        for group, values in ((1, wide), (2, fake.rows(norms))):
            fake.seq += 1
            fake.say(wire.pack_frame(fake.seq, group, 0, steps, times, values))
        fake.seq += 1
        fake.say(wire.Gap(fake.seq, STEPS, STEPS + 2, 3, next_()))
        while fake.hear(wire.Ack).seq < fake.seq:  # type: ignore[union-attr]
            pass
        changed(program, token, fake.run, fake, next_)
        fake.say(wire.Finish("failed", STEPS, next_()))
        fake.hear(wire.Finished)
        return fake.run


def changed(program: Program, token: str, run: str, fake: Any, next_: Callable[..., str]) -> None:
    """Changes by somebody of such a name, for such a reason, refused with such words."""
    with httpx.Client(
        base_url=f"{program.url}/api/v1", headers={"Authorization": f"Bearer {token}"}
    ) as admin:
        made = admin.post("/tokens", json={"role": "operator", "name": next_()}).json()
        author = {"Authorization": f"Bearer {made['token']}"}
        rules = admin.get(f"/runs/{run}/control").json()["rules"]
        for n, fate in enumerate(("applied", "rejected", "reverted")):
            put = admin.put(
                f"/runs/{run}/control",
                json={
                    "max_norm": 0.5 + n / 10, "reason": next_(),
                    "match": rules[0]["match"], "stream": rules[0]["stream"],
                    **({"ttl_steps": 10} if fate == "reverted" else {}),
                },
                headers={**author, "If-Match": f'"{n}"'},
            )  # fmt: skip
            assert put.status_code == 202, put.text
            fake.say(wire.Delivered(n + 1))
            own = (wire.Rule({"max_norm": 0.5 + n / 10}, match=rules[0]["match"]),)
            if fate == "rejected":
                fake.say(wire.Rejected(n + 1, 30 + n, next_()))
            else:
                fake.say(wire.Applied(n + 1, 20 + n, own, back=0 if fate == "reverted" else None))
            if fate == "reverted":
                fake.say(wire.Reverted(n + 1, 40, next_(), own))
            eventually(
                lambda n=n, fate=fate: (
                    admin.get(f"/runs/{run}/control/history").json()["versions"][0]["status"]
                    == fate
                ),
                what=fate,
            )
        patch = admin.patch(f"/runs/{run}", json={"note": next_() + next_()})
        assert patch.status_code == 200, patch.text


@dataclass
class Named:
    program: Program
    cookies: dict[str, Any]
    runs: list[str]
    plain: list[str]


@pytest.fixture(scope="module")
def named(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    program = Program(tmp_path_factory.mktemp("named") / "home", free_port())
    code = program.start().partition("#")[2]
    token = (program.home / "token").read_text().strip()
    plain = [reported(program, token, ["weight", "bias", "head"], f"plain {n}") for n in (1, 2)]
    # All names in one run; and in others, each of which has another first one.
    runs = [reported(program, token, list(ALL), ALL[0])]
    parts = [*joined(200), *ALL]
    for n in range(0, len(parts), 6):
        runs.append(reported(program, token, parts[n : n + 6], parts[n]))
    yield Named(program, signed_in(chrome, program, code), runs, plain)
    program.stop()


@pytest.fixture(params=["with its policy", "without any policy"])
def canary(request: pytest.FixtureRequest, chrome: Browser, named: Named) -> Iterator[Canary]:
    """Without the policy as well: it is the second wall, and must not be the only one."""
    context = chrome.new_context(
        storage_state=named.cookies,  # type: ignore[arg-type]
        bypass_csp=request.param == "without any policy",
        viewport={"width": 1440, "height": 1600},
        accept_downloads=True,
    )
    yield Canary(context, named.program.url, bare=request.param == "without any policy")
    context.close()


# -- walks through the pages ----------------------------------------------------------------------


def until_drawn(page: Page) -> None:
    """Once what was asked for last is drawn; a choice may have led to another address."""

    def drawn() -> bool:
        try:
            return bool(page.evaluate("window.gradhelm?.drawn > 1"))
        except PlaywrightError:
            return False

    page.wait_for_load_state()
    eventually(drawn, PATIENCE / 1000)


def over_everything(page: Page, selector: str) -> None:
    """The pointer over each, as far as it can be seen, so that what is said of it is said."""
    for place in page.locator(selector).all()[:40]:
        if place.is_visible():
            place.hover(force=True, timeout=5000)


def through_runs(canary: Canary, page: Page, search: str = "") -> None:
    page.goto(f"{canary.url}/{search}")
    until_drawn(page)
    canary.look(page)
    over_everything(page, "#runs-table .ag-row .run-name")
    for place in ("#runs-project", "#runs-tag"):
        chooser = page.locator(place)
        if chooser.count():
            chooser.select_option(index=1)
            canary.look(page)
            chooser.select_option(index=0)
    page.locator("#runs-table .row-menu").first.click()
    canary.look(page)
    page.keyboard.press("Escape")
    page.locator("#runs-search").fill("<x-canary")
    canary.look(page)
    page.locator("#runs-search").fill("")
    for box in page.locator("#runs-table .ag-row .ag-checkbox-input").all()[:2]:
        box.check(force=True)
    canary.look(page)


def through_run(canary: Canary, page: Page, run: str, search: str = "") -> None:
    page.goto(f"{canary.url}/runs/{run}{search}")
    until_drawn(page)
    expect(page.locator("#event-list")).not_to_be_empty()
    canary.look(page)
    for opened in ("#display-menu summary", "#charts-export summary", "#map-export summary"):
        page.locator(opened).click()
        canary.look(page)
        page.keyboard.press("Escape")
    page.locator("#display-menu summary").click()
    for box in page.locator("#display-menu input[type=checkbox]").all()[:12]:
        if box.is_enabled():  # so many fit under the chart, and no more
            box.check()
    page.keyboard.press("Escape")
    for place in page.locator(".hot").all()[:6]:
        place.click()
    canary.look(page)
    for place in ("#live-chart .u-over", "#layer-heatmap"):
        box = page.locator(place).bounding_box()
        assert box is not None
        for part in np.linspace(0.02, 0.98, 12):
            page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] * part)
            canary.look(page)
    over_everything(page, "#live-chart .mark, #event-list button, #threshold-history li")
    for choice in ("#threshold-rule", "#stream-choice"):
        options = page.locator(f"{choice} option").count()
        if page.locator(choice).is_visible() and options > 1:
            page.locator(choice).select_option(index=options - 1)
            until_drawn(page)
            canary.look(page)
    page.locator("#layer-search").fill("canary")
    canary.look(page)
    page.locator("#layer-search").fill("/<x-(canary/")
    canary.look(page)


def through_compare(canary: Canary, page: Page, runs: list[str]) -> None:
    page.goto(f"{canary.url}/compare?runs={','.join(runs)}")
    eventually(lambda: page.evaluate("window.gradhelm?.compare?.lines > 0"), PATIENCE / 1000)
    canary.look(page)
    page.get_by_label("Also what is equal").check()
    columns = page.locator("#compare-column-place select")
    for n in range(min(8, columns.locator("option").count())):
        columns.select_option(index=n)
        canary.look(page)
    over_everything(page, "#compare-runs [role=listitem], #compare-chart .mark")
    box = page.locator("#compare-chart .u-over").bounding_box()
    assert box is not None
    for part in np.linspace(0.05, 0.95, 8):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + 40)
        canary.look(page)
    page.locator("#find-run").fill("<")
    expect(page.locator("#find-list")).to_be_visible()
    canary.look(page)


def test_the_table_of_runs(canary: Canary, named: Named) -> None:
    page = canary.page()
    through_runs(canary, page)
    assert len(canary.seen & set(ALL)) >= 20, "the names were not shown at all"
    canary.nothing_happened()


def test_a_runs_page(canary: Canary, named: Named) -> None:
    page = canary.page()
    # The first run has all of them; the others, which have each in another place, where the policy
    # would not hide what is wrong.
    for run in named.runs if canary.bare else named.runs[:1]:
        through_run(canary, page, run)
    if canary.bare:
        shown = "\n".join(canary.seen)
        missing = [name for name in ALL if name.strip() and name.strip() not in shown]
        assert len(missing) < len(ALL) / 4, missing
    canary.nothing_happened()


def test_runs_compared(canary: Canary, named: Named) -> None:
    page = canary.page()
    for n in range(0, len(named.runs), 5):
        through_compare(canary, page, named.runs[n : n + 5])
    assert any("<x-canary>" in text for text in canary.seen)
    canary.nothing_happened()


ADDRESSES = (
    "/?q={value}&status={value}&project={value}&tag={value}&sort={value}",
    "/runs/{value}",
    "/runs/{run}?stream={value}&layer={value}&lane={value}&steps={value}&window={value}&scale={value}"
    "&map={value}",
    "/compare?runs={value}&column={value}&axis={value}",
    "/{value}",
    "/login#{value}",
    "/login?next={value}#error={value}",
)


@pytest.mark.parametrize("canary", ["without any policy"], indirect=True)
def test_addresses_that_hold_such_names(canary: Canary, named: Named) -> None:
    """The query, the path and the fragment come from whoever made the link."""
    page = canary.page()
    excused = ("404", "422", "400")  # what the console says of answers to what cannot be found
    texts = [*joined(200), *WHOLE]
    for n, address in enumerate(ADDRESSES):
        for text in texts[n % 2 :: 2]:
            value = quote(text, safe="")
            page.goto(canary.url + address.format(value=value, run=named.plain[0]))
            page.wait_for_timeout(300)  # and what its scripts make of it
            canary.look(page)
    canary.complaints = [
        text for text in canary.complaints if not any(code in text for code in excused)
    ]
    canary.nothing_happened()
    page.goto(canary.url)
    assert page.url.startswith(canary.url)


def test_normal_use_violates_no_policy(chrome: Browser, named: Named) -> None:
    context = chrome.new_context(
        storage_state=named.cookies,  # type: ignore[arg-type]
        viewport={"width": 1440, "height": 1600},
    )
    canary = Canary(context, named.program.url)
    page = canary.page()
    through_runs(canary, page)
    through_run(canary, page, named.plain[0])
    page.locator("#theme-toggle").click()
    page.locator("#keys-open").click()
    page.locator("#keys-close").click()
    page.locator("#map-export summary").click()
    with page.expect_download():
        page.get_by_role("menuitem", name="PNG picture").click()
    through_compare(canary, page, named.plain)
    for path in ("/nothing", "/login"):
        page.goto(canary.url + path)
        page.wait_for_timeout(1000)
    canary.complaints = [text for text in canary.complaints if "404" not in text]
    canary.nothing_happened()
    assert "plain 1" in "\n".join(canary.seen)
    context.close()


def test_what_is_taken_along_is_no_formula(canary: Canary, named: Named, tmp_path: Path) -> None:
    page = canary.page()
    page.goto(f"{canary.url}/runs/{named.runs[0]}")
    until_drawn(page)
    canary.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=canary.url)
    cells: list[str] = []
    for menu in ("#charts-export", "#map-export"):
        page.locator(f"{menu} summary").click()
        with page.expect_download() as taken:
            page.get_by_role("menuitem", name="CSV file").click()
        assert re.fullmatch(r"[\w.-]+\.csv", taken.value.suggested_filename)
        path = tmp_path / f"{menu[1:]}.csv"
        taken.value.save_as(path)
        with path.open(encoding="utf-8", newline="") as file:
            cells += [cell for row in csv.reader(file, strict=True) for cell in row]
        page.locator(f"{menu} summary").click()
        page.get_by_role("menuitem", name="Copy values").click()
        expect(page.locator("#toasts")).to_contain_text("rows copied")
        pasted = page.evaluate("navigator.clipboard.readText()")
        cells += [cell for line in pasted.split("\n") for cell in line.split("\t")]
    text = "\n".join(cells)
    for formula in FORMULAS[:4]:
        assert formula in text or formula.replace('"', '""') in text
    assert [cell for cell in cells if is_formula(cell)] == []
    canary.nothing_happened()


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would work it out; a number is none."""
    if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?|-?Infinity", cell):
        return False
    return cell.strip('"').startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


def test_a_terminal_is_not_moved(named: Named) -> None:
    program = named.program
    run = named.runs[0]
    for words in (
        ["runs", "--limit", "100"], ["show", run], ["token", "list"],
        ["audit", "list", "--limit", "400"], ["set", run, "max_norm=0.5"], ["show", "<x-canary>"], ["show", run, "--advice"],
        ["show", "\x1b[2J"], ["prune", "--dry-run"],
    ):  # fmt: skip
        done = program.run(*words)
        said = done.stdout + done.stderr
        assert said
        assert [c for c in said if not c.isprintable() and c != "\n"] == [], words
        assert not re.search(r"^Set-Cookie", said, re.MULTILINE)


def test_the_canary_would_sing(chrome: Browser, named: Named) -> None:
    """Put into a page as markup, these names do run, are seen, and violate the policy."""
    for bypass in (True, False):
        context = chrome.new_context(storage_state=named.cookies, bypass_csp=bypass)  # type: ignore[arg-type]
        canary = Canary(context, named.program.url)
        page = canary.page()
        page.goto(f"{canary.url}/login")
        page.evaluate(
            """all => document.body.replaceChildren(...all.map((html) =>
                 Object.assign(document.createElement("div"), { innerHTML: html })))""",
            list(MARKUP),
        )
        heard = canary.fired if bypass else canary.violations
        for _ in range(100):
            page.wait_for_timeout(
                100
            )  # what a page calls is heard only while something is asked of it
            if len(heard) > 3:
                break
        assert len(heard) > 3
        assert bypass or canary.fired == []
        canary.look(page)
        assert len(canary.grown) > 10
        context.close()
