"""How a person looks at a run: what a link holds, what is shown besides, what is taken along."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support import Program, eventually

from .conftest import Open
from .test_page import fits, open_run, until


def choose(page: Page, control: str, text: str) -> None:
    page.locator(f"#{control}").get_by_text(text, exact=True).click()


def shown(page: Page) -> dict[str, Any]:
    """What is shown, as somebody sees it."""
    found: dict[str, Any] = page.evaluate("""() => ({
        view: gradhelm.view,
        layers: [...document.querySelectorAll('.hot[aria-pressed=true]')].map((b) => b.title.split(',')[0]).sort(),
        lanes: [...document.querySelectorAll('.lane .name')].map((e) => e.textContent),
        choices: ['window', 'scale', 'heat'].map((n) => document.querySelector(`#${n}-choice input:checked`).value),
        smooth: document.getElementById('smooth-value').textContent,
    })""")
    return found


def test_a_link_holds_the_whole_view(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    choose(page, "scale-choice", "Linear")
    choose(page, "heat-choice", "vs. own median")
    page.locator("#display-menu summary").click()
    page.get_by_label("loss", exact=True).check()
    page.locator("#smooth-choice").fill("0.6")
    page.locator("#goto-step").fill("60")
    page.locator("#goto-step").press("Enter")
    page.locator(".kind", has_text="No lines").click()
    page.locator("#layer-search").fill("/^decoder/")
    expect(page.locator(".hot")).to_have_count(2)
    page.locator(".hot").first.click()
    page.locator("#layer-search").fill("")
    until(page, "location.search.includes('layer=decoder') && location.search.includes('steps=')")
    before = shown(page)
    assert before["view"]["low"] == 0
    assert before["lanes"] == ["loss"]
    assert len(before["layers"]) == 1
    assert before["choices"] == ["1000", "linear", "relative"]
    other = open_run(open_page, training + page.evaluate("location.search"))
    until(
        other,
        f"gradhelm.view?.high === {before['view']['high']} && document.querySelector('.lane')",
    )
    assert shown(other) == before


def test_a_scalar_gets_a_lane_and_loses_it(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    page.locator("#display-menu summary").click()
    page.get_by_label("lr", exact=True).check()
    lane = page.locator(".lane")
    expect(lane).to_have_count(1)
    expect(lane.locator(".num")).to_have_text(re.compile(r"\d"))
    # It shares the axis and the cursor with the chart above.
    page.keyboard.press("Escape")
    box = page.locator("#live-chart .u-over").bounding_box()
    below = lane.locator(".u-over").bounding_box()
    assert box is not None
    assert below is not None
    assert (box["x"], box["width"]) == (below["x"], below["width"])
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50)
    expect(page.locator("#legend-readout")).to_contain_text("lr ")
    lane.get_by_label("Hide lr").click()
    expect(lane).to_have_count(0)
    until(page, "!location.search.includes('lane=')")


def test_the_norms_are_taken_along_as_a_table_and_a_picture(
    open_page: Open, training: str, tmp_path: Path
) -> None:
    page = open_run(open_page, f"{training}?steps=0-40&lane=loss")
    until(page, "gradhelm.view?.high === 40")
    page.locator("#charts-export summary").click()
    with page.expect_download() as taken:
        page.get_by_role("menuitem", name="CSV file").click()
    assert taken.value.suggested_filename == "demo-norms-0-40.csv"
    path = tmp_path / "norms.csv"
    taken.value.save_as(path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(41))
    series = page.evaluate(
        "id => fetch(`/api/v1/runs/${id}/series?columns=global_norm,loss&first=0&last=40`)"
        ".then(r => r.json())",
        training,
    )["columns"]
    for name in ("global_norm", "loss"):
        told = [float(row[name]) if row[name] else None for row in rows]
        assert told == series[name]["mean"]
    page.locator("#map-export summary").click()
    with page.expect_download() as picture:
        page.get_by_role("menuitem", name="PNG picture").click()
    path = tmp_path / "map.png"
    picture.value.save_as(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#map-export summary").click()
    page.get_by_role("menuitem", name="Copy values").click()
    expect(page.locator("#toasts")).to_contain_text("rows copied")
    lines = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert lines[0].split("\t")[:3] == ["parameter", "0", "1"]
    assert len(lines) == 1 + len(page.locator(".hot").all())
    # Beside what is shown, all that was recorded.
    page.locator("#charts-export summary").click()
    with page.expect_download() as whole:
        page.get_by_role("menuitem", name="Whole run, all columns").click()
    assert whole.value.suggested_filename == f"demo-{training[-8:]}.csv"
    expect(page.get_by_role("menuitem", name="Whole run, all columns")).to_be_hidden()
    path = tmp_path / "whole.csv"
    whole.value.save_as(path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert len(rows) > 41
    assert [float(row["global_norm"]) for row in rows[:41]] == pytest.approx(
        series["global_norm"]["mean"], rel=1e-6
    )
    assert {"norm/lstm.weight_hh_l0", "loss", "lr"} <= rows[0].keys()


def test_the_distribution_says_how_many_norms_lie_above_the_threshold(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, f"{training}?steps=0-40")
    until(page, "gradhelm.view?.high === 40")
    words = page.locator("#distribution-words")
    expect(words).to_contain_text("above the threshold")
    expect(page.locator("#distribution-of")).to_have_text("41 steps")
    series = page.evaluate(
        "id => fetch(`/api/v1/runs/${id}/series?columns=global_norm,threshold&first=0&last=40`)"
        ".then(r => r.json())",
        training,
    )["columns"]
    norms = [norm for norm in series["global_norm"]["mean"] if norm]
    above = sum(norm > series["threshold"]["mean"][-1] for norm in norms) / len(norms)
    expect(words).to_contain_text(f"above the threshold {above:.1%}".replace("%", " %"))


LIFE = """
import sys, time, torch, gradhelm
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
first, last = int(sys.argv[2]), int(sys.argv[3])
more = {"run_id": sys.argv[1], "resume": True, "start_step": first} if first else {}
run = gradhelm.attach(model, optimizer, max_norm=1.0, name="lost", **more)
print(run.id, flush=True)
for step in range(first, last):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    time.sleep(0.01)
if not first:
    time.sleep(60)
"""
"""A training job that is killed, and its second life, which begins some steps later."""


def test_what_is_missing_is_hatched_and_a_change_is_marked_with_who_and_why(
    open_page: Open, up: Program
) -> None:
    def life(run: str, first: int, last: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", LIFE, run, str(first), str(last)],
            env=up.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    killed = life("", 0, 60)
    run = killed.stdout.readline().strip()  # type: ignore[union-attr]
    eventually(lambda: up.json("show", run)["last_step"] == 59, 30, "60 steps")
    page = open_page(f"/runs/{run}")
    until(page, "gradhelm.lastStep === 59")
    page.locator("#threshold-input").fill("0.5")
    page.locator("#threshold-reason").fill("<i>because</i>")
    page.locator("#threshold-apply").click()
    # The trainer takes no step any more: it has the change, or will be given it in its next life.
    expect(page.locator("#threshold-status")).to_have_attribute(
        "data-status", re.compile("^(pending|delivered)$")
    )
    killed.kill()
    killed.communicate()
    again = life(run, 100, 160)
    again.communicate(timeout=60)
    until(page, "gradhelm.lastStep === 159")
    gap = page.locator(".marks .gap")
    expect(gap).to_have_count(1)
    expect(gap).to_have_attribute("aria-label", re.compile("From step 60 on: the process was lost"))
    gap.hover()
    expect(gap.locator(".tip")).to_be_visible()
    mark = page.locator(".marks .mark.info")
    expect(mark).to_have_attribute(
        "aria-label", re.compile(r"Step \d+: max_norm 1\.00 → 0\.50, by .+: <i>because</i>")
    )
    mark.focus()
    expect(mark.locator(".tip")).to_contain_text("<i>because</i>")
    mark.press("Enter")
    expect(page.locator("#back-to-live")).to_be_visible()


def test_everything_can_be_done_by_keys(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    page.keyboard.press("?")
    dialog = page.locator("#keys-dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("l")
    until(page, "location.search.includes('scale=linear')")
    page.keyboard.press("0")
    until(page, "location.search.includes('window=all')")
    page.keyboard.press("p")
    expect(page.locator("#view-note")).to_contain_text("View paused")
    page.keyboard.press("p")
    chart = page.locator("#live-chart")
    chart.focus()
    page.keyboard.press("+")
    expect(page.locator("#back-to-live")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#chart-told")).to_contain_text(re.compile(r"Step [\d,]+: "))
    page.keyboard.press("End")
    expect(page.locator("#back-to-live")).to_be_hidden()
    # What is typed is text, and single keys can be turned off.
    page.locator("#layer-search").fill("l0")
    page.locator("#layer-search").press("p")
    expect(page.locator("#view-note")).to_be_hidden()
    page.locator("#keys-open").click()
    page.get_by_label("Single keys act at once").uncheck()
    page.locator("#keys-close").click()
    page.keyboard.press("p")
    page.keyboard.press("l")
    until(page, "location.search.includes('scale=linear')")
    expect(page.locator("#view-note")).to_be_hidden()


def test_layers_are_found_grouped_and_an_expression_that_is_wrong_is_told(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, training)
    expect(page.locator("#layer-count")).to_have_text("11")
    page.locator("#layer-search").fill("/(/")
    expect(page.locator("#layer-wrong")).not_to_be_empty()
    expect(page.locator("#layer-search")).to_have_attribute("aria-invalid", "true")
    page.locator("#layer-search").fill("no such layer")
    expect(page.locator("#layer-nothing")).to_be_visible()
    page.locator("#layer-search").fill("lstm")
    expect(page.locator("#layer-count")).to_have_text("8 of 11")
    page.locator("#layer-search").fill("")
    page.locator("#layer-sort").select_option("name")
    expect(page.locator(".hot .name").first).to_have_text("decoder.bias")
    expect(page.locator(".hot .spark-small path").first).to_have_attribute("d", re.compile("^M"))


def test_a_phone_shows_the_threshold_before_the_events(open_page: Open, training: str) -> None:
    page = open_run(open_page, training, width=390, height=844, has_touch=True, is_mobile=True)
    tops = [
        page.locator(name).bounding_box()["y"]  # type: ignore[index]
        for name in ("#charts-card", "#threshold-card", "#layers-card", "#events-card")
    ]
    assert tops == sorted(tops)
    page.locator("#display-menu summary").tap()
    page.get_by_label("loss", exact=True).check()
    expect(page.locator(".lane")).to_have_count(1)
    assert fits(page)
