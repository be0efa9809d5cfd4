"""Runs compared: what is drawn of them, what a link holds, and what is said where something lacks."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from support import Program, eventually

from .conftest import PATIENCE, Open
from .test_page import fits, until
from .test_runs import HOSTILE, train

UNKNOWN = "01990000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def two(up: Program, training: str) -> tuple[str, str]:
    return (
        train(up, "plain", "compare", "", 0.1, 50),
        train(up, HOSTILE, "compare", "", 0.5, 80),
    )


def open_compare(
    open_page: Open,
    runs: tuple[str, ...],
    more: str = "",
    lines: int | None = None,
    **options: object,
) -> Page:
    """The page with a line for each run."""
    page = open_page(f"/compare?runs={','.join(runs)}{more}", **options)
    until(page, f"window.gradhelm?.compare?.lines === {len(runs) if lines is None else lines}")
    return page


def item(page: Page, run: str) -> Locator:
    return page.locator(f"#compare-runs [data-run='{run}']")


def head(page: Page) -> list[str]:
    return page.locator("#compare-table thead .name").all_inner_texts()


def value_of(page: Page, key: str) -> list[str]:
    row = page.locator("#compare-table tr").filter(
        has=page.get_by_role("rowheader", name=key, exact=True)
    )
    return row.locator("td").all_inner_texts()


def test_runs_are_over_one_another_with_their_layers_and_differences(
    open_page: Open, up: Program, two: tuple[str, str]
) -> None:
    page = open_compare(open_page, two)
    expect(page.locator(".map-row canvas")).to_have_count(2)
    expect(page.locator("#compare-chart canvas")).to_be_visible()
    for run, letter in zip(two, "AB", strict=True):
        expect(item(page, run).locator(".badge")).to_have_text(letter)
        norm = up.json("show", run)["global_norm"]
        expect(item(page, run).locator(".value")).to_have_text(re.compile(r"\d"))
        assert float(item(page, run).locator(".value").inner_text()) == pytest.approx(norm, rel=0.1)
    assert head(page) == ["plain", HOSTILE]
    assert value_of(page, "lr") == ["0.1", "0.5"]
    assert value_of(page, "Steps") == ["50", "80"]
    assert value_of(page, "Threshold") == ["max_norm 0.10", "max_norm 0.50"]
    assert value_of(page, "Status") == ["Finished", "Finished"]
    assert int(value_of(page, "Non-finite steps")[1]) > 0
    # Only what differs, until somebody wants it all.
    assert value_of(page, "batch") == []
    page.get_by_label("Also what is equal").check()
    expect(page.get_by_role("rowheader", name="optimizer.name", exact=True)).to_be_visible()
    assert value_of(page, "batch") == ["8", "8"]
    expect(page.locator("#compare-hint")).to_contain_text("not finite")


def test_a_link_holds_the_comparison(open_page: Open, two: tuple[str, str]) -> None:
    page = open_compare(open_page, two)
    page.locator("#compare-column").select_option("loss")
    page.locator("#compare-axis").get_by_text("Time since start", exact=True).click()
    page.locator("#compare-scale").get_by_text("Linear", exact=True).click()
    page.locator("#compare-smooth").fill("0.5")
    item(page, two[0]).locator(".compared-toggle").click()
    until(
        page,
        "['y=loss','x=time','scale=linear','smooth=0.5','hide='].every((w) => location.search.includes(w))",
    )
    search = page.evaluate("location.search")
    other = open_page(f"/compare{search}")
    until(other, "window.gradhelm?.compare?.drawn > 0")
    expect(other.locator("#compare-column")).to_have_value("loss")
    expect(other.locator("#compare-axis input:checked")).to_have_value("time")
    expect(other.locator("#compare-scale input:checked")).to_have_value("linear")
    expect(other.locator("#compare-smooth")).to_have_value("0.5")
    expect(item(other, two[0]).locator(".compared-toggle")).to_have_attribute(
        "aria-pressed", "false"
    )
    expect(item(other, two[1]).locator(".compared-toggle")).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(other.locator(".map-row")).to_have_count(1)


def test_a_part_is_chosen_by_keys_and_by_pointer_and_given_up_again(
    open_page: Open, two: tuple[str, str]
) -> None:
    page = open_compare(open_page, two)
    chart = page.locator("#compare-chart")
    chart.focus()
    chart.press("ArrowLeft")
    expect(page.locator("#compare-told")).to_contain_text(re.compile(r"Step \d+\. A plain: "))
    chart.press("+")
    until(page, "location.search.includes('range=')")
    expect(page.locator("#compare-all")).to_be_visible()
    chart.press("0")
    expect(page.locator("#compare-all")).to_be_hidden()
    until(page, "!location.search.includes('range=') && !gradhelm.compare.busy")
    box = page.locator("#compare-chart .u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=5)
    page.mouse.up()
    until(page, "location.search.includes('range=')")
    low, high = map(int, re.search(r"range=(\d+)-(\d+)", page.evaluate("location.search")).groups())
    assert 15 <= low < 25 < high <= 45
    page.locator("#compare-all").click()
    until(page, "!location.search.includes('range=')")


def test_runs_come_and_go_by_keyboard_and_keep_their_colours(
    open_page: Open, two: tuple[str, str]
) -> None:
    page = open_compare(open_page, two[:1])
    expect(page.locator("#compare-notice")).to_contain_text("one run only")
    field = page.get_by_role("combobox", name="Add a run by its name")
    field.fill("<img src")
    option = page.locator("#find-list").get_by_role("option").filter(has_text=HOSTILE)
    expect(option.first).to_be_visible()
    field.press("ArrowDown")
    expect(page.locator("#find-list").get_by_role("option").first).to_have_attribute(
        "aria-selected", "true"
    )
    field.press("Enter")
    expect(page.locator("#compare-runs .compared")).to_have_count(2)
    expect(page.locator("#compare-notice")).to_be_hidden()
    expect(page.locator(".map-row")).to_have_count(2)
    second = page.locator("#compare-runs .compared").nth(1)
    colour = second.locator(".badge").evaluate("e => getComputedStyle(e).backgroundColor")
    close = item(page, two[0]).get_by_role("button", name="Take the run out")
    close.focus()
    close.press("Enter")
    expect(page.locator("#compare-runs .compared")).to_have_count(1)
    left = page.locator("#compare-runs .compared .badge")
    expect(left).to_have_text("B")
    assert left.evaluate("e => getComputedStyle(e).backgroundColor") == colour
    # Who works by keyboard is not thrown back to the top.
    assert page.evaluate("document.activeElement.closest('#compare-runs') !== null")
    field.fill("nobody is called so")
    expect(page.locator("#find-list")).to_have_text("No other run is called so.")


def test_a_live_run_keeps_up_and_its_changes_are_marked(
    open_page: Open, training: str, two: tuple[str, str]
) -> None:
    page = open_compare(open_page, (training, two[0]))
    steps = int(value_of(page, "Steps")[0].replace(",", ""))
    eventually(
        lambda: int(value_of(page, "Steps")[0].replace(",", "")) > steps + 20, PATIENCE / 1000
    )
    done = page.evaluate(
        """async id => {
            const now = await (await fetch(`/api/v1/runs/${id}/control`)).json();
            const answer = await fetch(`/api/v1/runs/${id}/control`, {
                method: "PUT", body: JSON.stringify({max_norm: 7, match: null, reason: "for comparison"}),
                headers: {"Content-Type": "application/json", "If-Match": `"${now.version}"`}});
            return answer.status;
        }""",
        training,
    )
    assert done == 202
    mark = page.locator(".marks .mark", has_text="for comparison")
    expect(mark).to_have_attribute(
        "aria-label", re.compile(r"^A demo\. Step [\d,]+: max_norm .* 7\.00")
    )


def test_what_cannot_be_compared_is_said(open_page: Open, two: tuple[str, str]) -> None:
    page = open_page(f"/compare?runs={two[0]},{UNKNOWN}", excuse="404")
    expect(page.locator("#compare-notice")).to_contain_text("One run does not exist")
    expect(item(page, UNKNOWN)).to_contain_text("No such run")
    expect(page.locator("#compare-table thead .name")).to_have_text(["plain"])
    item(page, UNKNOWN).get_by_role("button", name="Take the run out").click()
    expect(page.locator("#compare-notice")).to_contain_text("one run only")
    page = open_page(f"/compare?runs={UNKNOWN}")
    expect(page.locator("#compare-state")).to_contain_text("None of these runs exists")
    page = open_page("/compare")
    expect(page.locator("#compare-state")).to_contain_text("No runs to compare yet")
    many = ",".join([two[0], *(f"{i}" for i in range(10))])
    page = open_page(f"/compare?runs={many}")
    expect(page.locator("#compare-notice")).to_contain_text(
        "the last 3 of the address are left out"
    )
    expect(page.locator("#compare-runs .compared")).to_have_count(8)
    page = open_compare(open_page, two, "&y=nothing/such", lines=0)
    expect(page.locator("#compare-none")).to_contain_text(
        "None of the runs that are drawn has nothing/such"
    )
    page.locator("#compare-column").select_option("global_norm")
    expect(page.locator("#compare-none")).to_be_hidden()
    for run in two:
        item(page, run).locator(".compared-toggle").click()
    expect(page.locator("#compare-none")).to_contain_text("All runs are hidden")


def test_what_is_shown_is_taken_along(
    open_page: Open, two: tuple[str, str], tmp_path: Path
) -> None:
    page = open_compare(open_page, two, "&y=loss")
    until(page, "document.querySelectorAll('.map-row canvas').length === 2")
    page.locator("#compare-export summary").click()
    with page.expect_download() as taken:
        page.get_by_role("menuitem", name="CSV file").click()
    taken.value.save_as(tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["step", "loss: plain", f"loss: {HOSTILE}"]
    assert len(rows) == 1 + 80
    assert rows[1][0] == "0"
    assert float(rows[1][1]) > 0
    assert rows[60][1] == ""
    page.locator("#compare-export summary").click()
    with page.expect_download() as taken:
        page.get_by_role("menuitem", name="PNG picture").click()
    taken.value.save_as(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_fits_a_phone(open_page: Open, two: tuple[str, str]) -> None:
    page = open_compare(open_page, two, width=390, height=844, has_touch=True)
    expect(page.locator(".map-row canvas")).to_have_count(2)
    assert fits(page)
