"""The table of runs: found, put in order, renamed, deleted, taken back and chosen to be compared."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support import Program, eventually

from .conftest import PATIENCE, Open
from .test_page import fits, until

SCRIPT = """
import sys, torch, gradhelm
name, project, tags, lr, steps = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=lr)
with gradhelm.attach(
    model, optimizer, max_norm=lr, name=name, project=project, tags=[t for t in tags.split(",") if t],
    config={"lr": lr, "batch": 8, "optimizer": {"name": "SGD"}},
) as run:
    print(run.id, flush=True)
    for step in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 4)
        if step == 20 and "bad" in name:
            inputs[0, 0] = float("nan")
        loss = model(inputs).square().mean()
        loss.backward()
        if not loss.isfinite():
            before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        if not loss.isfinite():
            with torch.no_grad():
                for p, was in zip(model.parameters(), before):
                    p.copy_(was)
        run.log(loss=loss)
"""
HOSTILE = "<img src=x onerror=alert(1)>bad"


def train(up: Program, name: str, project: str, tags: str, lr: float, steps: int) -> str:
    """A run of its own that has ended; its id."""
    words = [sys.executable, "-c", SCRIPT, name, project, tags, str(lr), str(steps)]
    done = subprocess.run(
        words, env=up.environment, check=True, timeout=120, capture_output=True, text=True
    )
    run = done.stdout.split()[0]
    eventually(lambda: up.json("show", run)["status"] == "finished", 30, "a finished run")
    return run


@pytest.fixture(scope="module")
def three(up: Program, training: str) -> dict[str, str]:
    """Finished runs beside the live one."""
    return {
        "first": train(up, "first of all", "here", "sweep,small", 0.1, 30),
        "second": train(up, "second of all", "here", "sweep", 0.5, 60),
        "bad": train(up, HOSTILE, "elsewhere", "odd", 0.01, 40),
    }


def open_runs(open_page: Open, search: str = "", **more: object) -> Page:
    page = open_page(f"/{search}", **more)
    until(page, "window.gradhelm?.drawn > 1")
    return page


def row(page: Page, name: str) -> Locator:
    return page.locator("#runs-table .ag-row", has_text=name)


def names(page: Page) -> list[str]:
    """As they stand, from top to bottom."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('#runs-table .ag-row')]
            .sort((a, b) => Number(a.getAttribute('row-index')) - Number(b.getAttribute('row-index')))
            .map((row) => row.querySelector('.run-name')?.textContent)"""
    )
    return found


def shown(page: Page, *wanted: str) -> None:
    eventually(lambda: names(page) == list(wanted), PATIENCE / 1000, f"{wanted}")


def test_filters_hold_together_and_live_in_the_address(
    open_page: Open, three: dict[str, str]
) -> None:
    page = open_runs(open_page)
    assert len(names(page)) >= 4
    expect(page.locator("#runs-project")).to_contain_text("here (2)")
    page.locator("#runs-project").select_option(label="here (2)")
    shown(page, "second of all", "first of all")
    page.locator("#runs-tag").select_option(label="small (1)")
    shown(page, "first of all")
    page.locator("#runs-search").fill("second")
    expect(page.locator("#runs-none")).to_be_visible()
    page.locator("#runs-search").fill("OF first")
    shown(page, "first of all")
    page.locator("#runs-status").get_by_text("Finished").click()
    until(page, "location.search.includes('status=finished') && location.search.includes('q=OF')")
    other = open_runs(open_page, page.evaluate("location.search"))
    shown(other, "first of all")
    expect(other.locator("#runs-search")).to_have_value("OF first")
    expect(other.locator("#runs-status input:checked")).to_have_value("finished")
    other.locator("#runs-search").fill("nothing at all")
    other.locator("#runs-clear").click()
    eventually(lambda: len(names(other)) >= 4)
    expect(other.locator("#runs-search")).to_have_value("")
    until(other, "location.search === ''")


def test_an_order_is_kept_while_rows_change_and_in_the_address(
    open_page: Open, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?project=here&sort=threshold.asc")
    shown(page, "first of all", "second of all")
    drawn = page.evaluate("gradhelm.drawn")
    until(page, f"gradhelm.drawn > {drawn} + 1")
    shown(page, "first of all", "second of all")
    header = page.locator(".ag-header-cell[col-id=last_step]")
    header.focus()
    header.press("Enter")
    header.press("Enter")
    shown(page, "second of all", "first of all")
    until(page, "location.search.includes('sort=last_step.desc')")


def test_what_is_not_finite_has_a_column_and_names_are_text(
    open_page: Open, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?tag=odd")
    shown(page, HOSTILE)
    cell = row(page, HOSTILE).locator("[col-id=nonfinite]")
    expect(cell).to_have_text(re.compile(r"^\s*[1-9]\d*$"))
    expect(cell.locator(".bad-text .icon-triangle-alert")).to_be_visible()
    expect(row(page, HOSTILE).locator(".run-name")).to_have_attribute("title", HOSTILE)
    page = open_runs(open_page, "?q=first")
    expect(row(page, "first of all").locator("[col-id=nonfinite]")).to_have_text("0")


def test_name_tags_and_note_are_changed_by_keyboard_and_shown_on_the_runs_page(
    open_page: Open, up: Program, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?q=second")
    shown(page, "second of all")
    cell = page.locator("#runs-table .ag-row [col-id=status]")
    cell.focus()
    cell.press("e")
    dialog = page.locator("#edit-dialog")
    expect(dialog).to_be_visible()
    expect(page.locator("#edit-name")).to_be_focused()
    page.keyboard.type("second <i>renamed</i>")
    page.keyboard.press("Tab")
    for _ in range(2):  # past what removes the one tag
        if page.evaluate("document.activeElement.id") != "edit-tags":
            page.keyboard.press("Tab")
    page.keyboard.type("good, wide")
    page.keyboard.press("Enter")
    expect(dialog.locator(".tag")).to_have_count(3)
    dialog.get_by_role("button", name="Remove the tag sweep").click()
    page.locator("#edit-note").fill("It held.\nTry lr 0.4 next.")
    page.keyboard.press("Control+Enter")
    expect(dialog).to_be_hidden()
    expect(row(page, "second <i>renamed</i>")).to_be_visible()
    expect(row(page, "second").locator(".run-note")).to_have_attribute("title", re.compile("held"))
    until(page, "document.activeElement.closest('#runs-table') !== null")
    found = up.json("show", three["second"])
    assert (found["tags"], found["note"]) == (["good", "wide"], "It held.\nTry lr 0.4 next.")
    page = open_page(f"/runs/{three['second']}")
    expect(page.locator("#run-note")).to_have_text("It held.\nTry lr 0.4 next.")
    page = open_page(f"/runs/{three['first']}")
    expect(page.locator("#run-name")).to_have_text("first of all")
    expect(page.locator("#run-note")).to_be_hidden()


def test_a_name_that_the_server_refuses_stays_in_the_dialog(
    open_page: Open, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?q=first", excuse="422")
    row(page, "first").locator(".row-menu").click()
    page.get_by_role("menuitem", name="Name, tags").click()
    page.locator("#edit-name").fill("  ")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#edit-dialog .told")).to_contain_text("needs a name")
    page.route(
        "**/api/v1/runs/*",
        lambda route: (
            route.fulfill(
                status=422,
                json={"error": {"code": "x", "message": "not this name", "details": {}}},
            )
            if route.request.method == "PATCH"
            else route.continue_()
        ),
    )
    page.locator("#edit-name").fill("other")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#edit-dialog .told")).to_have_text("not this name")
    page.keyboard.press("Escape")
    expect(page.locator("#edit-dialog")).to_be_hidden()
    shown(page, "first of all")


def test_a_run_is_deleted_and_taken_back(
    open_page: Open, up: Program, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?project=here")
    eventually(lambda: len(names(page)) == 2)
    cell = row(page, "first of all").locator("[col-id=name]")
    cell.focus()
    cell.press("Delete")
    expect(row(page, "first of all")).to_have_count(0)
    toast = page.locator(".toast", has_text="first of all")
    expect(toast).to_contain_text("is deleted")
    assert three["first"] not in [run["id"] for run in up.json("runs")["runs"]]
    toast.get_by_role("button", name="Undo").click()
    expect(row(page, "first of all")).to_be_visible()
    assert up.json("show", three["first"])["steps"] == 30
    # The same by keyboard alone.
    cell = row(page, "first of all").locator("[col-id=name]")
    cell.focus()
    cell.press("Delete")
    expect(row(page, "first of all")).to_have_count(0)
    page.keyboard.press("Control+z")
    expect(row(page, "first of all")).to_be_visible()
    drawn = page.evaluate("gradhelm.drawn")
    until(page, f"gradhelm.drawn > {drawn} + 1")
    expect(row(page, "first of all")).to_be_visible()


def test_several_are_selected_compared_and_deleted(
    open_page: Open, up: Program, three: dict[str, str]
) -> None:
    page = open_runs(open_page, "?project=here")
    eventually(lambda: len(names(page)) == 2)
    expect(page.locator("#runs-bulk")).to_be_hidden()
    cell = row(page, "first of all").locator("[col-id=name]")
    cell.focus()
    cell.press("Space")
    expect(page.locator("#runs-bulk")).to_contain_text("1 selected")
    expect(page.locator("#bulk-compare")).to_have_attribute("aria-disabled", "true")
    page.locator("#bulk-compare").click(force=True)
    expect(page.locator(".toast")).to_contain_text("2 to 8 runs")
    row(page, "second").get_by_role("checkbox").check()
    expect(page.locator("#runs-bulk")).to_contain_text("2 selected")
    # What is filtered away is not selected any more: it must not be deleted unseen.
    page.locator("#runs-search").fill("first")
    expect(page.locator("#runs-bulk")).to_contain_text("1 selected")
    page.locator("#runs-search").fill("")
    eventually(lambda: len(names(page)) == 2)
    page.get_by_role("checkbox", name="Select all runs shown").check()
    expect(page.locator("#runs-bulk")).to_contain_text("2 selected")
    page.locator("#bulk-delete").click()
    expect(page.locator(".toast", has_text="2 runs are deleted")).to_be_visible()
    expect(page.locator("#runs-bulk")).to_be_hidden()
    page.get_by_role("button", name="Undo").click()
    eventually(lambda: len(names(page)) == 2)
    for name in ("first of all", "second"):
        row(page, name).get_by_role("checkbox").check()
    page.locator("#bulk-compare").click()
    page.wait_for_url(re.compile(r"/compare\?runs="))
    assert set(page.url.partition("runs=")[2].split(",")) == {three["first"], three["second"]}


def test_a_viewer_compares_and_changes_nothing(
    browser: Browser, up: Program, three: dict[str, str]
) -> None:
    made = up.json("token", "create", "--role", "viewer")["token"]
    headers = {"Authorization": f"Bearer {made}"}
    refused = httpx.post(f"{up.url}/api/v1/runs/{three['first']}/restore", headers=headers)
    assert refused.status_code == 403
    context = browser.new_context(extra_http_headers=headers)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{up.url}/?project=here")
    until(page, "window.gradhelm?.drawn > 1")
    for name in ("first of all", "second"):
        row(page, name).get_by_role("checkbox").check()
    expect(page.locator("#bulk-compare")).to_be_visible()
    expect(page.locator("#bulk-delete")).to_be_hidden()
    row(page, "first of all").locator(".row-menu").click()
    expect(page.get_by_role("menuitem")).to_have_count(1)
    expect(page.get_by_role("menuitem")).to_contain_text("id")
    page.keyboard.press("Escape")
    cell = row(page, "first of all").locator("[col-id=name]")
    cell.focus()
    cell.press("e")
    cell.press("Delete")
    expect(page.locator("#edit-dialog")).to_have_count(0)
    expect(row(page, "first of all")).to_be_visible()
    context.close()


def test_the_table_fits_a_phone_with_its_actions(open_page: Open, three: dict[str, str]) -> None:
    page = open_runs(open_page, "?project=here", width=390, height=844, has_touch=True)
    eventually(lambda: len(names(page)) == 2)
    row(page, "first of all").get_by_role("checkbox").check()
    expect(page.locator("#runs-bulk")).to_be_visible()
    assert fits(page)
    row(page, "first of all").locator(".row-menu").click()
    expect(page.get_by_role("menuitem", name="Delete")).to_be_in_viewport()
