"""A run with several optimizers and several rules, as a person steers it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from support import ROOT, Program, eventually

from .conftest import PATIENCE, Open
from .test_page import until


@pytest.fixture(scope="module")
def gan(up: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example with two optimizers, training; its run's id."""
    log = tmp_path_factory.mktemp("gan") / "log"
    with log.open("w") as output:
        job = subprocess.Popen(
            [sys.executable, "examples/gan.py", "--steps", "1000000", "--pause", "0.03"],
            cwd=ROOT,
            env=up.environment,
            stdout=output,
            stderr=output,
        )
    try:

        def steps() -> str | None:
            assert job.poll() is None, log.read_text()
            runs = up.json("runs")["runs"]
            return next((r["id"] for r in runs if r["name"] == "gan" and r["steps"] > 20), None)

        found = eventually(steps, 60, "a run with steps")
        assert isinstance(found, str)
        yield found
    finally:
        job.terminate()
        job.wait()


def test_each_optimizer_has_its_own_charts_and_threshold(open_page: Open, gan: str) -> None:
    page = open_page(f"/runs/{gan}")
    until(page, "window.gradhelm?.frames > 2 && gradhelm.drawn > 2 && gradhelm.steps > 20")
    found = page.evaluate("({...gradhelm})")
    assert found["steps"] == found["lastStep"] - found["firstStep"] + 1
    expect(page.locator("#stream-field")).to_be_visible()
    page.get_by_label("Optimizer").select_option("disc")
    page.wait_for_url(f"**/runs/{gan}?stream=disc")
    until(page, f"window.gradhelm?.frames > 2 && gradhelm.lastStep > 1.5 * {found['lastStep']}")
    found = page.evaluate("({...gradhelm})")
    assert found["steps"] == found["lastStep"] - found["firstStep"] + 1
    expect(page.locator("#threshold-kind")).to_have_text("clip_value")
    expect(page.locator("#fig-threshold-note")).to_have_text("clip_value, Value")
    expect(page.locator("#threshold-rule-field")).to_be_hidden()
    page.get_by_label(re.compile("^Exact value")).fill("0.01")
    page.locator("#threshold-apply").click()
    status = page.locator("#threshold-status")
    expect(status).to_have_attribute("data-step", re.compile(r"\d+"), timeout=PATIENCE)
    step = int(status.get_attribute("data-step") or "")
    assert step > found["lastStep"] - 5
    expect(page.locator("#threshold-history")).to_contain_text("disc")
    expect(page.locator("#event-list")).to_contain_text("clip_value 0.02 → 0.01")


def test_each_rule_is_steered_by_itself(open_page: Open, gan: str) -> None:
    page = open_page(f"/runs/{gan}")
    until(page, "window.gradhelm?.frames > 2 && gradhelm.drawn > 2")
    rule = page.get_by_label("Applies to")
    assert rule.locator("option").all_inner_texts() == ["gen.4.* (GlobalNorm)", "* (GlobalNorm)"]
    expect(page.locator("#threshold-applied")).to_have_text("0.10")
    rule.select_option(label="* (GlobalNorm)")
    expect(page.locator("#threshold-applied")).to_have_text("0.30")
    page.get_by_label(re.compile("^Exact value")).fill("0.5")
    # By the norms of the rule's own parameters, as the server has them.
    expect(page.locator("#whatif-text")).to_contain_text("0.50 would have clipped")
    page.get_by_role("button", name="Whole run").click()
    expect(page.locator("#curve-plot")).to_have_attribute(
        "aria-label", re.compile(r"Proposed, 0\.50: \d")
    )
    asked = page.evaluate(
        """id => fetch(`/api/v1/runs/${id}/advice?match=*`).then(r => r.json())""", gan
    )
    assert asked["steps"] > 20
    page.locator("#advice-menu > summary").click()
    expect(page.locator(".advice")).to_have_count(len(asked["suggestions"]))
    page.locator("#threshold-apply").click()
    status = page.locator("#threshold-status")
    expect(status).to_contain_text("Applied at step", timeout=PATIENCE)
    expect(page.locator("#threshold-applied")).to_have_text("0.50")
    expect(page.locator("#threshold-history li").first.locator(".tag")).to_have_text("*")
    expect(page.locator("#fig-threshold-note")).to_have_text("max_norm, *")
    rule.select_option(label="gen.4.* (GlobalNorm)")
    expect(page.locator("#threshold-applied")).to_have_text("0.10")
    expect(page.locator("#threshold-proposed")).to_have_text("0.10")
