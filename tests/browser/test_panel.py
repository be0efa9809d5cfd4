"""The threshold panel as a person uses it: proposals, conditions, the way back, the other levers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support import Program, eventually

from .conftest import PATIENCE, Open
from .test_page import until

SCRIPT = """
import sys, time, torch, gradhelm
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
control = gradhelm.Control(lr=True, stop=True, min=0.01, max=100)
with gradhelm.attach(model, optimizer, max_norm=1.0, name=sys.argv[1], control=control) as run:
    while not run.should_stop:
        optimizer.zero_grad()
        scale = 1 + 20 * torch.rand(()) ** 8
        loss = (scale * model(torch.randn(8, 16))).square().mean() + 1
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
        time.sleep(0.02)
"""


@pytest.fixture
def steered(up: Program, request: pytest.FixtureRequest) -> Iterator[str]:
    """A job of this test's own whose trainer allows everything; its run's id."""
    name = request.node.name[:60]
    job = subprocess.Popen([sys.executable, "-c", SCRIPT, name], env=up.environment)
    try:

        def steps() -> str | None:
            assert job.poll() is None
            runs = up.json("runs")["runs"]
            return next((r["id"] for r in runs if r["name"] == name and r["steps"] > 60), None)

        found = eventually(steps, 60, "a run with steps")
        assert isinstance(found, str)
        yield found
    finally:
        job.terminate()
        job.wait()


def open_steered(open_page: Open, run: str, **more: object) -> Page:
    page = open_page(f"/runs/{run}", **more)
    until(page, "window.gradhelm?.frames > 2 && gradhelm.drawn > 2 && gradhelm.steps > 20")
    expect(page.locator("#threshold-input")).not_to_have_value("")
    return page


def documents(page: Page, run: str) -> tuple[dict, list[dict]]:
    """The control document and the history, as REST has them now."""
    return page.evaluate(
        """id => Promise.all(["control", "control/history"].map(
            what => fetch(`/api/v1/runs/${id}/${what}`).then(r => r.json())
        )).then(([control, {versions}]) => [control, versions])""",
        run,
    )


def apply(page: Page, value: str) -> int:
    """Applies it, and waits until it has taken hold; the step."""
    status = page.locator("#threshold-status")
    before = status.get_attribute("data-step")
    page.locator("#threshold-input").fill(value)
    page.locator("#threshold-apply").click()
    expect(page.locator("#threshold-applied")).to_have_text(f"{float(value):.2f}")
    expect(status).to_have_attribute("data-step", re.compile(r"\d+"))
    until(page, f"document.querySelector('#threshold-status').dataset.step !== '{before}'")
    return int(status.get_attribute("data-step") or "")


def test_the_curve_says_what_each_threshold_would_have_clipped_and_proposes(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    plot = page.locator("#curve-plot")
    expect(plot).to_have_attribute("aria-label", re.compile(r"Applied, 1\.00: \d"))
    expect(page.locator(".curve-mark.applied")).to_be_visible()
    expect(page.locator(".curve-mark.proposed")).to_be_hidden()
    # Of the whole run it says what the server does.
    page.get_by_role("button", name="Whole run").click()
    expect(page.locator("#curve-note")).to_contain_text("Of all")
    box = plot.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30)
    page.mouse.down()
    expect(page.locator("#threshold-proposed")).to_have_text("10.00")  # 0.01 to 100, three quarters
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 30, steps=4)
    page.mouse.up()
    expect(page.locator("#threshold-proposed")).to_have_text("0.10")
    expect(page.locator("#threshold-input")).to_have_value("0.1")
    expect(plot).to_have_attribute("aria-label", re.compile(r"Proposed, 0\.10"))
    expect(page.locator(".curve-mark.proposed")).to_be_visible()
    expect(page.locator("#whatif-text")).to_contain_text("would have clipped")
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 30)  # let go of: it proposes nothing
    expect(page.locator("#threshold-proposed")).to_have_text("0.10")
    slider = page.get_by_label("Proposed threshold, logarithmic")
    track = slider.bounding_box()
    mark = page.locator(".curve-mark.proposed").bounding_box()
    assert track
    assert mark
    # The curve's mark stands over the middle of the slider's thumb, which is 20 px wide.
    thumb = track["x"] + 10 + (track["width"] - 20) * 0.25
    assert float(slider.input_value()) == pytest.approx(-1)
    assert abs(thumb - mark["x"]) < 3


def test_advice_fills_a_value_in_and_what_is_outside_the_limits_cannot_be(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    page.locator("#advice-menu > summary").click()
    item = page.locator(".advice", has_text="90th percentile")
    expect(item).to_contain_text("Tuning Playbook")
    use = item.get_by_role("button")
    value = use.inner_text()
    use.click()
    expect(page.locator("#threshold-proposed")).to_have_text(value)
    assert float(page.locator("#threshold-input").input_value()) == pytest.approx(
        float(value), rel=1e-2
    )
    page.locator("#advice-list summary").click()
    far = page.locator(".advice", has_text="CTC and RNNs")
    expect(far).to_contain_text("Outside 0.01 to 100")
    expect(far.get_by_role("button")).to_have_attribute("aria-disabled", "true")
    far.get_by_role("button").click(force=True)
    expect(page.locator("#threshold-proposed")).to_have_text(value)


def test_advice_says_what_is_wrong_and_proposes_what_would_mend_it(
    open_page: Open, steered: str, up: Program
) -> None:
    up.run("set", steered, "max_norm=0.01", "--wait")

    def found() -> dict[str, dict]:
        (told,) = up.json("show", steered, "--advice")["advice"]
        return {one["kind"]: one for one in told["warnings"]}

    eventually(lambda: "clips_most" in found(), 60, "most steps to be clipped")
    page = open_steered(open_page, steered)
    page.locator("#advice-menu > summary").click()
    item = page.locator(".finding", has_text="steps were clipped")
    expect(item).to_contain_text("smaller learning rate by another name")
    expect(item).to_contain_text("Tuning Playbook")
    use = item.get_by_role("button")
    value = use.inner_text().removeprefix("Propose ")
    use.click()
    expect(page.locator("#threshold-proposed")).to_have_text(value)
    usual = found()["clips_most"]["max_norm"]
    assert float(page.locator("#threshold-input").input_value()) == pytest.approx(usual, rel=0.2)


def test_a_change_for_some_steps_counts_down_and_goes_back(open_page: Open, steered: str) -> None:
    page = open_steered(open_page, steered)
    page.locator("#condition-menu > summary").click()
    ttl = page.get_by_label("For so many steps, then back")
    rest = page.locator("#threshold-rest")
    # What is in force for a while can be kept.
    ttl.fill("100000")
    apply(page, "0.9")
    expect(rest).to_contain_text("In force until step")
    page.get_by_role("button", name="Keep for good").click()
    expect(rest).not_to_contain_text("In force until")
    expect(page.locator("#threshold-apply")).to_have_text("Apply to run")
    assert documents(page, steered)[0]["applied"]["until"] is None
    apply(page, "1")
    ttl.fill("0")
    page.locator("#threshold-input").fill("0.5")
    page.locator("#threshold-apply").click()
    expect(page.locator("#condition-wrong")).to_contain_text("A whole number from 1")
    expect(ttl).to_be_focused()
    ttl.fill("300")
    page.get_by_label("if the loss or a norm is not finite").check()
    page.get_by_label("Within so many steps").fill("200")
    expect(page.locator("#condition-words")).to_contain_text("for 300 steps, taken back if")
    page.locator("#threshold-apply").click()
    expect(rest).to_contain_text(re.compile(r"In force until step [\d,]+: \d+ steps left"))
    expect(rest).to_contain_text("On trial for")
    expect(page.locator("#condition-words")).to_have_text("")
    control, versions = documents(page, steered)
    assert versions[0]["ttl_steps"] == 300
    trial = versions[0]["revert_if"]
    assert (trial["within"], trial["nonfinite"]) == (200, True)
    assert control["applied"]["until"] == versions[0]["step"] + 300
    expect(page.locator("#threshold-history li").first).to_contain_text("for 300 steps")
    expect(page.locator("#threshold-applied")).to_have_text("1.00", timeout=2 * PATIENCE)
    expect(page.locator("#threshold-status")).to_contain_text("Taken back by the trainer")
    expect(page.locator("#threshold-proposed")).to_have_text("1.00")
    row = page.locator("#threshold-history li").first
    expect(row).to_contain_text("Taken back")
    expect(row).to_contain_text(re.compile(r"steps [\d,]+ to [\d,]+"))


def test_a_change_that_waits_for_a_step_says_so_and_is_withdrawn(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    page.locator("#condition-menu > summary").click()
    page.get_by_label("Not before this step").fill("900000")
    page.locator("#threshold-input").fill("0.5")
    page.locator("#threshold-apply").click()
    status = page.locator("#threshold-status")
    expect(status).to_contain_text(re.compile(r"until step 900,000: [\d,]+ steps to go"))
    page.get_by_role("button", name="Withdraw the change that waits").click()
    dialog = page.get_by_role("dialog", name="Withdraw the change that waits?")
    expect(dialog).to_contain_text("stays as it is")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    expect(status).to_contain_text("until step 900,000")
    page.get_by_role("button", name="Withdraw the change that waits").click()
    dialog.get_by_role("button", name="Withdraw").click()
    expect(page.locator("#threshold-history li").nth(1)).to_contain_text("Superseded")
    expect(status).to_contain_text("Applied at step")
    expect(page.locator("#threshold-applied")).to_have_text("1.00")


def test_the_last_change_is_undone_after_it_is_said_what_it_will_become(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    undo = page.locator("#threshold-undo")
    expect(undo).to_be_hidden()
    apply(page, "0.5")
    apply(page, "2")
    expect(undo).to_have_text("Undo: back to 0.50")
    undo.click()
    dialog = page.get_by_role("dialog", name="Undo the last change?")
    expect(dialog).to_contain_text("max_norm from 2.00 to 0.50, as in version 1")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(undo).to_be_focused()
    undo.press("Enter")
    dialog.get_by_role("button", name="Undo").click()
    expect(page.locator("#threshold-applied")).to_have_text("0.50")
    _, versions = documents(page, steered)
    assert versions[0]["rolled_back_to"] == 1
    expect(page.locator("#threshold-history li").first).to_contain_text("back to version 1")
    expect(undo).to_have_text("Undo: back to 2.00")


def test_before_and_after_are_compared_when_there_are_steps_enough(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    until(page, "gradhelm.lastStep > 220")
    step = apply(page, "0.05")
    body = page.locator("#effect-body")
    expect(page.locator("#effect-title")).to_have_text(f"Before and after step {step:,}")
    expect(body).to_contain_text(re.compile(r"\d+ more steps? until"))
    expect(body).to_contain_text("200 before")
    expect(body.locator("table")).to_be_visible(timeout=2 * PATIENCE)
    expect(body).to_contain_text("no proof")
    shown = body.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in shown] == [
        "Median norm",
        "Clipped",
        "Non-finite",
        "Median loss",
    ]
    series = page.evaluate(
        """([id, first, last]) => fetch(`/api/v1/runs/${id}/series?columns=clipped&points=1000`
            + `&first=${first}&last=${last}`).then(r => r.json())""",
        [steered, step - 200, step + 199],
    )
    clipped = series["columns"]["clipped"]["mean"]
    assert len(clipped) == 400
    shares = [f"{sum(half) / 2:.1f} %" for half in (clipped[:200], clipped[200:])]
    assert shown[1].split("\t")[1:3] == shares


def test_learning_rates_are_multiplied_and_the_run_is_stopped_after_a_question(
    open_page: Open, steered: str
) -> None:
    page = open_steered(open_page, steered)
    factor = page.get_by_label("Factor of all learning rates")
    factor.fill("1000")
    factor.press("Enter")
    expect(page.locator("#threshold-status")).to_contain_text("from 0.01 to 100")
    page.get_by_role("button", name="Factor 0.5").click()
    page.locator("#lr-apply").click()
    expect(page.locator("#lr-now")).to_have_text("0.50")
    expect(page.locator("#threshold-history li").first).to_contain_text("learning rates × 1.00 →")
    expect(page.locator("#threshold-undo")).to_have_text("Undo: back to × 1.00")
    page.locator("#stop-run").click()
    dialog = page.get_by_role("dialog", name="Stop this run?")
    dialog.get_by_role("button", name="Cancel").click()
    page.locator("#stop-run").click()
    dialog.get_by_role("button", name="Stop the run").click()
    expect(page.locator("#threshold-closed")).to_contain_text(
        re.compile("has (finished|been stopped)"), timeout=PATIENCE
    )
    for part in ("#stop-lever", "#lr-form", "#threshold-form", "#threshold-undo"):
        expect(page.locator(part)).to_be_hidden()
    expect(page.locator("#threshold-history li").first).to_contain_text("Stop")
    # What it would have clipped can be looked at all the same, but not proposed.
    expect(page.locator("#curve-note")).not_to_contain_text("propose")


def test_a_viewer_is_told_who_they_are_and_why_nothing_can_be_changed(
    browser: Browser, up: Program, steered: str
) -> None:
    link = up.json("user", "add", "eve", "--role", "viewer", "--link")["link"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(link)
    page.wait_for_url(f"{up.url}/settings#password", timeout=PATIENCE)
    page.goto(f"{up.url}/runs/{steered}")
    closed = page.locator("#threshold-closed")
    expect(closed).to_contain_text("signed in as eve with the role viewer", timeout=PATIENCE)
    expect(closed).to_contain_text("operator")
    expect(page.locator("#threshold-form")).to_be_hidden()
    expect(page.locator("#threshold-undo")).to_be_hidden()
    page.locator("#advice-menu > summary").click()
    expect(page.locator(".advice .use").first).to_have_attribute("aria-disabled", "true")
    context.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_everything_opened_the_panel_fits(open_page: Open, steered: str, width: int) -> None:
    page = open_steered(open_page, steered, width=width, height=844, has_touch=width < 500)
    page.locator("#condition-menu > summary").click()
    page.locator("#advice-menu > summary").click()
    expect(page.locator(".advice")).not_to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    card = page.locator("#threshold-card")
    assert card.evaluate("card => card.scrollWidth <= card.clientWidth")
