"""What a person does with the page, done by Chromium; it waits for counters, never for time."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from playwright.sync_api import Browser, Page, Route, WebSocket, expect
from support import Program, eventually

from .conftest import PATIENCE, Open

FIRST_VALUE, NEXT_VALUE = "3", "0.25"


def open_run(open_page: Open, run: str, **more: Any) -> Page:
    """A run's page on which live points are being drawn."""
    page = open_page(f"/runs/{run}", **more)
    until(page, "window.gradhelm?.frames > 2 && gradhelm.drawn > 2 && gradhelm.steps > 20")
    return page


def until(page: Page, expression: str) -> None:
    """Waits until JavaScript says so (wait_for_function would need eval, which the CSP forbids)."""
    eventually(lambda: page.evaluate(expression), PATIENCE / 1000, expression)


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_login_link_works_once(browser: Browser, up: Program) -> None:
    done = up.run("link")
    assert done.returncode == 0, done.stderr
    link = re.search(r"http\S+", done.stdout)[0]
    first = browser.new_context().new_page()
    first.goto(link)
    first.wait_for_url(f"{up.url}/", timeout=PATIENCE)
    second = browser.new_context().new_page()
    second.goto(link)
    expect(second.locator("#refused")).to_be_visible(timeout=PATIENCE)
    expect(second.locator("#refused")).to_contain_text("gradhelm link")
    second.goto(f"{up.url}/runs/anything")
    second.wait_for_url(f"{up.url}/login?next=/runs/anything", timeout=PATIENCE)
    expect(second.locator("#explain")).to_be_visible()
    for page in (first, second):
        page.context.close()


def test_a_run_is_in_the_table_and_opens(open_page: Open, training: str) -> None:
    page = open_page("/")
    row = page.locator(f"#runs-table .ag-row[row-id='{training}']")
    expect(row).to_contain_text("demo")
    expect(row).to_contain_text("Live")
    expect(page.locator("#connection-state")).to_contain_text("Connected")
    page.locator("#runs-search").fill("no run is called this")
    expect(page.locator("#runs-none")).to_be_visible()
    page.locator("#runs-search").fill("")
    before = page.evaluate("gradhelm.drawn")
    until(page, f"gradhelm.drawn > {before} + 1")
    row.locator("[col-id=global_norm]").click()
    page.wait_for_url(f"**/runs/{training}")
    until(page, "gradhelm.drawn > 0")
    page.get_by_role("link", name="Compare").click()
    expect(page.locator("#compare-runs")).to_contain_text("demo")


def test_points_arrive_and_are_drawn(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    counters = page.evaluate("({...gradhelm})")
    until(
        page,
        f"gradhelm.lastStep > {counters['lastStep']} + 10 && gradhelm.drawn > {counters['drawn']}",
    )
    expect(page.locator("#connection-state")).to_contain_text("Live")
    assert page.locator("#live-chart canvas").is_visible()
    assert page.locator("#layer-heatmap canvas").is_visible()
    # All steps from the first to the newest, history and live joined without a hole.
    found = page.evaluate("({...gradhelm})")
    assert found["steps"] == found["lastStep"] - found["firstStep"] + 1
    assert re.fullmatch(r"\S+ · demo · gradhelm", page.title())


def test_a_threshold_takes_hold_at_the_step_it_says(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    field = page.get_by_label(re.compile("^Exact value"))
    assert field.get_attribute("id") == "threshold-input"
    before = page.evaluate(
        "id => fetch(`/api/v1/runs/${id}/control`).then(r => r.json())", training
    )["desired"]["max_norm"]
    value = NEXT_VALUE if before != float(NEXT_VALUE) else FIRST_VALUE
    field.fill(value)
    expect(page.locator("#whatif-text")).to_contain_text("would have clipped")
    page.locator("#threshold-reason").fill("7")  # a reason, not a value
    page.locator("#threshold-reason").fill("tried by a test")
    page.locator("#threshold-apply").click()
    status = page.locator("#threshold-status")
    expect(status).to_have_attribute("data-step", re.compile(r"\d+"))
    expect(status).to_contain_text("Applied at step")
    step = int(status.get_attribute("data-step") or "")
    assert f"{step:,}" in status.inner_text()
    expect(page.locator("#threshold-history")).to_contain_text("tried by a test")
    expect(page.locator("#threshold-reason")).to_have_value("")
    expect(page.locator("#threshold-proposed")).to_have_text(f"{float(value):.2f}")
    until(page, f"gradhelm.lastStep > {step} + 5")
    series = page.evaluate(
        """([id, first, last]) => fetch(
            `/api/v1/runs/${id}/series?columns=threshold&first=${first}&last=${last}`
        ).then(r => r.json())""",
        [training, step - 5, step + 5],
    )
    assert series["stride"] == 1
    column = series["columns"]["threshold"]
    by_step = dict(zip(column["step"], column["mean"], strict=True))
    assert by_step == {
        at: before if at < step else float(value) for at in range(step - 5, step + 6)
    }


def test_the_slider_moves_by_keys_and_reset_puts_it_back(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    field = page.locator("#threshold-input")
    expect(field).not_to_have_value("")
    start = field.input_value()
    page.get_by_label("Proposed threshold, logarithmic").press("ArrowRight")
    expect(field).not_to_have_value(start)
    assert float(field.input_value()) > float(start)
    page.locator("#threshold-reset").click()
    expect(field).to_have_value(start)


def test_what_the_trainer_does_not_allow_is_said_with_the_range(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, training)
    field = page.locator("#threshold-input")
    expect(field).not_to_have_value("")
    start = field.input_value()
    status = page.locator("#threshold-status")
    field.fill("999999")
    field.press("Enter")
    expect(status).to_contain_text(re.compile(r"accepts .* to [\d,]+"))
    field.fill("0,5")
    expect(field).to_have_attribute("aria-invalid", "")
    expect(page.locator("#threshold-proposed")).to_have_text("–")
    field.press("Enter")
    expect(status).to_contain_text("not a number")
    field.fill("")
    field.press("Enter")
    expect(status).to_contain_text("Type a number first")
    page.locator("#threshold-reset").click()
    expect(field).to_have_value(start)
    expect(field).not_to_have_attribute("aria-invalid", "")
    field.press("ArrowUp")
    expect(field).not_to_have_value(start)
    assert float(field.input_value()) > float(start)
    field.press("ArrowDown")
    expect(field).to_have_value(start)


def test_a_change_made_meanwhile_is_shown_and_can_be_replaced(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, training, excuse="412")

    def outdated(route: Route) -> None:
        if route.request.method == "PUT":
            route.continue_(headers={**route.request.headers, "if-match": '"0"'})
        else:
            route.continue_()

    done = page.evaluate(
        """async id => {
            const now = await (await fetch(`/api/v1/runs/${id}/control`)).json();
            const answer = await fetch(`/api/v1/runs/${id}/control`, {
                method: "PUT", body: JSON.stringify({max_norm: 5, match: null, reason: ""}),
                headers: {"Content-Type": "application/json", "If-Match": `"${now.version}"`}});
            return answer.status;
        }""",
        training,
    )
    assert done == 202
    expect(page.locator("#threshold-applied")).to_have_text("5.00")
    page.route("**/control", outdated)
    field = page.locator("#threshold-input")
    field.fill("4")
    field.press("Enter")
    expect(page.locator("#threshold-status")).to_contain_text("Somebody set it to 5.00 meanwhile")
    expect(field).to_have_value("4")
    card = page.locator("#threshold-conflict")
    expect(card.locator(".conflict-value")).to_have_text(["5.00", "4.00"])
    expect(card.locator("#conflict-by")).to_contain_text("local")
    card.get_by_role("button", name="Keep theirs").click()
    expect(card).to_be_hidden()
    expect(field).to_have_value("5")
    field.fill("4")
    field.press("Enter")
    expect(card).to_be_visible()
    page.unroute("**/control")
    card.get_by_role("button", name="Apply mine").click()
    expect(card).to_be_hidden()
    expect(page.locator("#threshold-applied")).to_have_text("4.00")
    expect(page.locator("#threshold-status")).to_contain_text("Applied at step")


def test_the_view_pauses_and_zooms_while_steps_are_collected(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, training)
    page.locator("#pause-view").click()
    high = page.evaluate("gradhelm.view.high")
    until(page, f"gradhelm.lastStep > {high} + 5")
    assert page.evaluate("gradhelm.view.high") == high
    expect(page.locator("#view-note")).to_contain_text("View paused at step")
    page.locator("#pause-view").click()
    until(page, f"gradhelm.view.high > {high} + 5")
    box = page.locator("#live-chart .u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=5)
    page.mouse.up()
    expect(page.locator("#back-to-live")).to_be_visible()
    view = page.evaluate("gradhelm.view")
    last = page.evaluate("gradhelm.lastStep")
    until(page, f"gradhelm.lastStep > {last} + 10")
    assert page.evaluate("gradhelm.view") == view
    page.locator("#back-to-live").click()
    until(page, f"gradhelm.view.high > {view['high']}")


def test_layers_are_chosen_and_events_filtered(open_page: Open, training: str) -> None:
    page = open_run(open_page, training)
    hot = page.locator(".hot").first
    pressed = hot.get_attribute("aria-pressed")
    name = hot.locator(".name").inner_text()
    hot.click()
    other = "false" if pressed == "true" else "true"
    expect(page.locator(".hot", has_text=name)).to_have_attribute("aria-pressed", other)
    chip = page.locator(".filter-chip[data-kind=threshold]")
    expect(chip).to_be_visible()
    rows = page.locator("#event-list .e-kind", has_text="Threshold set")
    expect(rows).not_to_have_count(0)
    chip.click()
    expect(rows).to_have_count(0)
    chip.click()
    page.locator("#event-list .jump").first.click()
    expect(page.locator("#back-to-live")).to_be_visible()


def test_dark_and_light_are_remembered(open_page: Open, training: str) -> None:
    page = open_page("/", color_scheme="dark")
    root = page.locator("html")
    expect(root).to_have_attribute("data-mantine-color-scheme", "dark")
    page.locator("#theme-toggle").click()
    expect(root).to_have_attribute("data-mantine-color-scheme", "light")
    page.reload()
    expect(root).to_have_attribute("data-mantine-color-scheme", "light")


def test_a_phone_needs_no_sideways_scrolling(open_page: Open, training: str) -> None:
    page = open_page("/", width=390, height=844, has_touch=True)
    expect(page.locator("#runs-table .ag-row").first).to_be_visible()
    assert fits(page)
    norm = page.locator("#runs-table .ag-row [col-id=global_norm]").first.bounding_box()
    assert norm
    assert norm["x"] + norm["width"] <= 390
    page = open_run(open_page, training, width=390, height=844, has_touch=True)
    assert fits(page)


def test_a_run_that_ended_says_why_it_cannot_be_steered(
    open_page: Open, up: Program, training: str
) -> None:
    name = "<img src=x onerror=alert(1)>"
    script = f"""
import torch, gradhelm
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with gradhelm.attach(model, optimizer, max_norm=1.0, name={name!r}) as run:
    for _ in range(30):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
"""
    subprocess.run([sys.executable, "-c", script], env=up.environment, check=True, timeout=120)

    def ended() -> str | None:
        runs = up.json("runs")["runs"]
        return next((r["id"] for r in runs if r["name"] == name and r["steps"] == 30), None)

    run = eventually(ended, 30, "the short run")
    page = open_page(f"/runs/{run}")
    expect(page.locator("#run-name")).to_have_text(name)
    expect(page.locator("#run-status")).to_have_text("Finished")
    expect(page.locator("#threshold-closed")).to_contain_text("can no longer move")
    expect(page.locator("#threshold-form")).to_be_hidden()
    until(page, "gradhelm.steps === 30 && gradhelm.drawn > 0")


def test_a_run_that_does_not_exist_says_so(open_page: Open, training: str) -> None:
    page = open_page("/runs/01990000-0000-7000-8000-000000000000", excuse="404")
    expect(page.locator("#run-state")).to_contain_text("No such run")


def test_a_lost_server_is_said_and_what_was_missed_is_fetched(
    open_page: Open, up: Program, training: str
) -> None:
    page = open_run(open_page, training, excuse="ERR_")
    last = page.evaluate("gradhelm.lastStep")
    up.kill()
    expect(page.locator("#connection-state")).to_have_attribute("data-state", "closed")
    expect(page.locator("#run-banner")).to_contain_text("cannot be reached")
    up.start()
    expect(page.locator("#connection-state")).to_have_attribute("data-state", "live")
    until(page, f"gradhelm.lastStep > {last} + 40")
    until(page, "gradhelm.steps === gradhelm.lastStep - gradhelm.firstStep + 1")
    expect(page.locator("#run-banner")).to_be_hidden()


def look_away(page: Page, *, hidden: bool) -> None:
    """What a browser tells a page whose tab is put behind another one, or in front again."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            Object.defineProperty(document, "visibilityState",
                {value: hidden ? "hidden" : "visible", configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_tab_in_the_background_costs_nothing_and_catches_up(
    open_page: Open, training: str
) -> None:
    page = open_run(open_page, training)
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    asked: list[str] = []
    until(page, "gradhelm.connected")
    look_away(page, hidden=True)
    until(page, "!gradhelm.connected")  # the socket is given up, a little later
    before = page.evaluate("({...gradhelm})")
    page.on("request", lambda request: asked.append(request.url))
    changed = page.evaluate(
        """async id => {
            const now = await (await fetch(`/api/v1/runs/${id}/control`)).json();
            const answer = await fetch(`/api/v1/runs/${id}/control`, {
                method: "PUT",
                headers: {"Content-Type": "application/json", "If-Match": `"${now.version}"`},
                body: JSON.stringify(
                    {max_norm: 3.5, match: null, reason: "while nobody looked"})});
            return answer.status;
        }""",
        training,
    )
    assert changed == 202
    page.wait_for_timeout(4000)  # to be sure that nothing happens takes time
    after = page.evaluate("({...gradhelm})")
    for counter in ("frames", "points", "drawn", "lastStep"):
        assert after[counter] == before[counter], counter
    assert not sockets
    assert len(asked) == 2  # those of this test
    look_away(page, hidden=False)
    until(page, f"gradhelm.connected && gradhelm.lastStep > {before['lastStep']} + 60")
    until(page, "gradhelm.steps === gradhelm.lastStep - gradhelm.firstStep + 1")
    expect(page.locator("#threshold-applied")).to_have_text("3.50")
    expect(page.locator("#threshold-history")).to_contain_text("while nobody looked")
    expect(page.locator("#event-list")).to_contain_text("3.5")
    assert len(sockets) == 1
