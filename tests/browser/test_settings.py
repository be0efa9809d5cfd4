"""The settings and signing in: tokens, people, passwords, sessions, and what each role sees of a page."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect
from support import Program, eventually

from .conftest import PATIENCE, Open
from .test_page import fits, until

PASSWORD = "a quiet green lighthouse"
UNAUTHORIZED = "the server responded with a status of 401"
HOSTILE = "<img src=x onerror=alert(1)>"


def add(rest: httpx.Client, name: str, password: str | None = PASSWORD, **grants: str) -> str:
    """Somebody with these roles, ``everywhere`` standing for all projects; the account's id."""
    named = {"*" if project == "everywhere" else project: role for project, role in grants.items()}
    body: dict[str, Any] = {"name": name, "grants": named}
    if password is not None:
        body["password"] = password
    answer = rest.post("users", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def link(rest: httpx.Client, user: str) -> str:
    """Where somebody comes in, once: a path of the server."""
    code = rest.post("login-links", json={"user": user}).json()["code"]
    return f"/login#{code}"


def settings(open_page: Open, part: str = "", **more: Any) -> Page:
    """The settings, with everything there that they show."""
    page = open_page(f"/settings{part}", **more)
    until(page, "window.gradhelm?.drawn > 0")
    return page


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.locator("#name").fill(name)
    page.locator("#password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def signed_in(open_page: Open, name: str, path: str = "/", **more: Any) -> Page:
    """A page of somebody who signed in with the usual password."""
    page = open_page(f"/login?next={quote(path, safe='')}", signed_in=False, **more)
    sign_in(page, name)
    page.wait_for_url(lambda url: "/login" not in url, timeout=PATIENCE)
    return page


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))


def confirm(page: Page, action: str) -> None:
    page.locator("dialog.confirm").get_by_role("button", name=action, exact=True).click()


def test_a_token_is_made_shown_once_used_and_revoked(open_page: Open, up: Program) -> None:
    page = settings(open_page, "#tokens")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("nightly report")
    dialog.get_by_label("Role").select_option("viewer")
    expect(dialog.locator("#token-role-hint")).to_have_text("A program with it may look at runs.")
    dialog.get_by_label("Expires").select_option("in 30 days")
    dialog.get_by_role("button", name="Create the token").click()
    once = page.locator("#token-once")
    expect(once.get_by_role("heading")).to_be_focused()
    expect(once).to_contain_text("not shown again")
    token = once.locator("code").first.inner_text()
    assert token.startswith("gh_")
    use = once.locator("code").nth(1).inner_text()
    assert use == f"export GRADHELM_TOKEN={token}\nexport GRADHELM_SERVER={up.url}"
    once.get_by_role("button", name="Copy: The token").click()
    expect(once).to_contain_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == token
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{up.url}/api/v1/runs", headers=bearer).status_code == 200
    assert httpx.get(f"{up.url}/api/v1/users", headers=bearer).status_code == 403
    once.get_by_role("button", name="I have it").click()
    expect(once).to_be_hidden()
    page.reload()
    made = row(page, "nightly report")
    expect(made).to_contain_text("Active")
    expect(made).to_contain_text("in 30 days")
    assert token not in page.content()
    made.get_by_role("button", name="Revoke").click()
    question = page.locator("dialog.confirm")
    expect(question).to_contain_text("Programs that look at runs with it are shut out.")
    question.get_by_role("button", name="Cancel").click()
    expect(made).to_contain_text("Active")
    made.get_by_role("button", name="Revoke").click()
    confirm(page, "Revoke the token")
    expect(made).to_contain_text("Revoked")
    expect(made.get_by_role("button")).to_have_count(0)

    def refused() -> bool:
        return httpx.get(f"{up.url}/api/v1/runs", headers=bearer).status_code == 401

    eventually(refused, 10, "the token to be worth nothing")


def test_somebody_is_invited_sets_a_password_and_comes_back_by_it(
    open_page: Open, up: Program
) -> None:
    page = settings(open_page, "#people")
    page.get_by_role("button", name="Add somebody").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("They need a name to sign in with.")
    expect(dialog.get_by_label("Name")).to_be_focused()
    dialog.get_by_label("Name").fill("bea")
    dialog.get_by_label("Role", exact=True).select_option("operator")
    dialog.get_by_label("Project; empty for all").fill("vision")
    dialog.get_by_role("button", name="Another project").click()
    dialog.get_by_label("Project; empty for all").nth(1).fill("vision")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("The project vision is named twice.")
    dialog.get_by_label("Project; empty for all").nth(1).fill("audio")
    dialog.get_by_role("button", name="Add", exact=True).click()
    once = page.locator("#people-once")
    expect(once).to_contain_text("works once, for ten minutes")
    invitation = once.locator("code").inner_text()
    assert invitation.startswith(f"{up.url}/login#")
    bea = row(page, "bea")
    expect(bea).to_contain_text("operator in the project vision, viewer in the project audio")
    expect(bea).to_contain_text("Invited")

    hers = open_page("/login", signed_in=False, excuse="Failed to load resource")
    hers.goto(invitation)
    hers.wait_for_url(f"{up.url}/settings#password", timeout=PATIENCE)
    expect(hers.locator("#password-new")).to_be_focused()
    expect(hers.locator("#you-who")).to_have_text("You are signed in as bea.")
    expect(hers.locator("#you-rights")).to_contain_text("Operator in the project vision")
    expect(hers.locator("#people")).to_be_hidden()
    expect(hers.locator("#nav-people")).to_be_hidden()
    expect(hers.locator("#password-old")).to_be_hidden()
    hers.locator("#password-new").fill("too short")
    hers.locator("#password-new").press("Enter")
    expect(hers.locator("#password-wrong")).to_have_text("At least 12 characters; these are 9.")
    hers.locator("#password-new").fill("bea bea bea bea")
    hers.locator("#password-new").press("Enter")
    expect(hers.locator("#password-wrong")).to_contain_text("password:")  # the server's own reason
    hers.locator("#password-new").fill(PASSWORD)
    hers.locator("#password-new").press("Enter")
    expect(hers.locator("#password")).to_contain_text("The password is set.")
    hers.locator(".account summary").click()
    expect(hers.locator("#user-name")).to_contain_text("bea · operator")
    hers.get_by_role("button", name="Sign out").first.click()
    hers.wait_for_url(f"{up.url}/login", timeout=PATIENCE)

    sign_in(hers, "bea", "not her password")
    expect(hers.locator("#wrong")).to_have_text("Name or password is wrong.")
    expect(hers.locator("#password")).to_be_focused()
    sign_in(hers, "nobody at all", "not her password")
    expect(hers.locator("#wrong")).to_have_text("Name or password is wrong.")
    sign_in(hers, "bea")
    hers.wait_for_url(f"{up.url}/", timeout=PATIENCE)
    page.reload()
    expect(bea).to_contain_text("Active")
    expect(bea).to_contain_text("password")


def test_a_password_is_changed_with_the_old_one_which_ends_the_other_sessions(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    add(rest, "carl", everywhere="viewer")
    other = signed_in(open_page, "carl", excuse=UNAUTHORIZED)
    page = signed_in(open_page, "carl", "/settings", excuse="status of 403")
    until(page, "window.gradhelm?.drawn > 0")
    expect(page.locator("#session-table tbody tr")).to_have_count(2)
    page.locator("#password-new").fill("another quiet lighthouse")
    page.locator("#password-new").press("Enter")
    expect(page.locator("#password-wrong")).to_have_text("Type your current password, too.")
    page.locator("#password-old").fill("not the password")
    page.locator("#password-old").press("Enter")
    expect(page.locator("#password-wrong")).to_have_text("That is not your current password.")
    expect(page.locator("#password-old")).to_be_focused()
    page.locator("#password-old").fill(PASSWORD)
    page.locator("#password-old").press("Enter")
    expect(page.locator("#password")).to_contain_text("Your other sessions are ended.")
    expect(page.locator("#session-table tbody tr")).to_have_count(1)
    eventually(lambda: not still_in(other, up), 10, "the other session to be over")
    assert still_in(page, up)


def still_in(page: Page, up: Program) -> bool:
    return bool(page.request.get(f"{up.url}/api/v1/server").ok)


def test_a_session_is_ended_from_another_one(
    open_page: Open, rest: httpx.Client, up: Program, training: str
) -> None:
    add(rest, "dora", everywhere="viewer")
    path = f"/runs/{training}?window=all"
    phone = signed_in(open_page, "dora", path, user_agent="pocket/1.0", excuse=UNAUTHORIZED)
    until(phone, "window.gradhelm?.frames > 2")
    page = signed_in(open_page, "dora", "/settings#sessions")
    here = page.locator("#session-table tbody tr").filter(has_text="This one")
    expect(here).to_have_count(1)
    expect(here).to_contain_text("Chrome")
    there = page.locator("#session-table tbody tr").filter(has_text="pocket/1.0")
    there.get_by_role("button", name="End the session of pocket/1.0").click()
    expect(there).to_have_count(0)
    expect(page.locator("#toasts")).to_contain_text("The session of pocket/1.0 is ended.")
    # The socket is closed, and the page that has lost it asks why.
    phone.wait_for_url(f"{up.url}/login?next={quote(path, safe='')}", timeout=PATIENCE)
    here.get_by_role("button", name="sign out").click()
    page.wait_for_url(re.compile("/login"), timeout=PATIENCE)


def test_other_roles_and_a_disabled_account_are_felt_at_once(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    add(rest, "ed", everywhere="viewer")  # so that there is a password when emil is disabled
    add(rest, "emil", vision="viewer")
    his = signed_in(open_page, "emil", "/settings#tokens", excuse=UNAUTHORIZED)
    until(his, "window.gradhelm?.drawn > 0")
    his.get_by_role("button", name="New token").click()
    assert his.locator("#token-role option").all_inner_texts() == ["viewer"]
    assert his.locator("#token-project option").all_inner_texts() == ["vision"]

    page = settings(open_page, "#people")
    emil = row(page, "emil")
    emil.get_by_role("button", name="What can be done with emil").click()
    page.get_by_role("menuitem", name="Change the roles…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Roles of emil")
    dialog.get_by_label("Role", exact=True).select_option("operator")
    dialog.get_by_role("button", name="Save").click()
    expect(emil).to_contain_text("operator in the project vision")
    expect(emil.get_by_role("button")).to_be_focused()

    def knows() -> bool:
        his.reload()
        until(his, "window.gradhelm?.drawn > 0")
        return "Operator in the project vision" in his.locator("#you-rights").inner_text()

    eventually(knows, 20, "the new role")
    his.get_by_role("button", name="New token").click()
    assert his.locator("#token-role option").all_inner_texts() == ["viewer", "operator", "ingest"]
    his.get_by_role("button", name="Create the token").click()
    token = his.locator("#token-once code").first.inner_text()

    emil.get_by_role("button", name="What can be done with emil").click()
    page.get_by_role("menuitem", name="Disable…").click()
    expect(page.locator("dialog.confirm")).to_contain_text("Their API tokens stop as well")
    confirm(page, "Disable")
    expect(emil).to_contain_text("Disabled")
    eventually(lambda: not still_in(his, up), 10, "the session to be over")
    headers = {"Authorization": f"Bearer {token}"}

    def refused() -> bool:
        return httpx.get(f"{up.url}/api/v1/server", headers=headers).status_code == 401

    eventually(refused, 10, "the token to be over")
    his.get_by_role("button", name="I have it").click()
    his.goto(f"{up.url}/login")
    sign_in(his, "emil")
    expect(his.locator("#wrong")).to_have_text("Name or password is wrong.")
    emil.get_by_role("button", name="What can be done with emil").click()
    page.get_by_role("menuitem", name="Enable").click()
    expect(emil).to_contain_text("Active")
    sign_in(his, "emil")
    his.wait_for_url(f"{up.url}/", timeout=PATIENCE)
    his.close()
    emil.get_by_role("button", name="What can be done with emil").click()
    page.get_by_role("menuitem", name="Remove…").click()
    confirm(page, "Remove")
    expect(emil).to_have_count(0)
    expect(page.locator("#people-new")).to_be_focused()


def test_the_menu_of_a_row_opens_beside_its_button_on_a_page_that_is_scrolled(
    open_page: Open, rest: httpx.Client
) -> None:
    add(rest, "karl", everywhere="viewer")
    for width in (1440, 390):
        page = settings(open_page, "#people", width=width, height=500)
        before = page.evaluate("scrollY")
        assert before > 0
        button = row(page, "karl").get_by_role("button")
        button.scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        button.click()
        at, menu = button.bounding_box(), page.get_by_role("menu").bounding_box()
        assert at is not None
        assert menu is not None
        below = menu["y"] - (at["y"] + at["height"])
        above = at["y"] - (menu["y"] + menu["height"])
        assert min(abs(below), abs(above)) <= 8
        assert 0 <= menu["x"] <= width - menu["width"]
        assert page.evaluate("scrollY") == before
        page.keyboard.press("Escape")
        expect(button).to_be_focused()


def test_what_an_admin_may_not_do_to_themselves_is_said(
    open_page: Open, rest: httpx.Client
) -> None:
    add(rest, "ada", everywhere="admin")
    page = signed_in(open_page, "ada", "/settings#people", excuse="status of 409")
    until(page, "window.gradhelm?.drawn > 0")
    ada = row(page, "ada")
    expect(ada).to_contain_text("You")
    ada.get_by_role("button", name="What can be done with ada").click()
    page.get_by_role("menuitem", name="Disable…").click()
    confirm(page, "Disable")
    expect(page.locator("#people-told")).to_contain_text("this is your own account")
    expect(ada).to_contain_text("Active")


def test_a_name_is_text_whatever_stands_in_it(open_page: Open, rest: httpx.Client) -> None:
    user = add(rest, HOSTILE, **{f"{HOSTILE}project": "viewer"})
    rest.post("tokens", json={"role": "ingest", "name": HOSTILE, "project": HOSTILE})
    page = settings(open_page, "#people")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    expect(page.locator("#people-table")).to_contain_text(HOSTILE)
    expect(page.locator("#token-table")).to_contain_text(HOSTILE)
    row(page, HOSTILE).last.get_by_role("button").click()
    page.get_by_role("menuitem", name="Remove…").click()
    confirm(page, "Remove")
    expect(page.locator("#toasts")).to_contain_text(HOSTILE)
    assert page.locator("#page img").count() == 0
    assert rest.get(f"users/{user}").status_code == 404


def test_the_local_administrator_and_colours_and_keys(open_page: Open) -> None:
    page = settings(open_page, color_scheme="dark")
    expect(page.locator("#you-who")).to_contain_text("local administrator of this server")
    expect(page.locator("#password")).to_be_hidden()
    expect(page.locator("#session-table")).to_contain_text("This one")
    html = page.locator("html")
    expect(html).to_have_attribute("data-mantine-color-scheme", "dark")
    page.get_by_role("radio", name="Light").check()
    expect(html).to_have_attribute("data-mantine-color-scheme", "light")
    page.locator("#theme-toggle").click()
    expect(page.get_by_role("radio", name="Dark")).to_be_checked()
    page.get_by_role("radio", name="Light").check()
    page.get_by_role("checkbox", name="Single keys act at once").uncheck()
    page.reload()
    until(page, "window.gradhelm?.drawn > 0")
    expect(html).to_have_attribute("data-mantine-color-scheme", "light")
    expect(page.get_by_role("radio", name="Light")).to_be_checked()
    expect(page.get_by_role("checkbox", name="Single keys act at once")).not_to_be_checked()
    page.get_by_role("radio", name="As the system").check()
    expect(html).to_have_attribute("data-mantine-color-scheme", "dark")


def test_a_part_that_cannot_be_loaded_says_so_and_is_asked_for_again(open_page: Open) -> None:
    page = open_page("/settings", excuse="Failed to load resource")
    until(page, "window.gradhelm?.drawn > 0")
    page.route("**/api/v1/tokens", lambda route: route.abort())
    page.reload()
    told = page.locator("#tokens-place").get_by_role("alert")
    expect(told).to_contain_text("The server could not be reached.")
    expect(page.locator("#session-table")).to_be_visible()
    page.unroute("**/api/v1/tokens")
    told.get_by_role("button", name="Try again").click()
    expect(page.locator("#token-table")).to_be_visible()
    page.route("**/api/v1/server", lambda route: route.abort())
    page.reload()
    expect(page.locator("#settings-told")).to_contain_text("The server could not be reached.")
    expect(page.locator("#tokens")).to_be_hidden()
    page.unroute("**/api/v1/server")
    page.locator("#settings-told").get_by_role("button", name="Try again").click()
    expect(page.locator("#token-table")).to_be_visible()


@pytest.mark.parametrize("part", ["you", "tokens", "people", "appearance"])
def test_an_address_leads_to_a_part_on_a_phone_too(open_page: Open, part: str) -> None:
    page = settings(open_page, f"#{part}", width=390, height=844)
    assert fits(page)
    expect(page.locator(f"#{part}")).to_be_in_viewport()
    page.locator(".account summary").click()
    expect(page.get_by_role("link", name="Settings")).to_be_visible()


def test_the_dialogs_fit_on_a_phone(open_page: Open) -> None:
    page = settings(open_page, width=390, height=844)
    for button, name in (("Add somebody", "Another project"), ("New token", "Create the token")):
        page.get_by_role("button", name=button).click()
        expect(page.get_by_role("dialog").get_by_role("button", name=name)).to_be_visible()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name=button)).to_be_focused()


def test_who_may_control_other_projects_only_is_told_so_on_the_pages_of_a_run(
    open_page: Open, rest: httpx.Client, training: str
) -> None:
    project = rest.get(f"runs/{training}").json()["project"]
    add(rest, "finn", vision="operator", **{project: "viewer"})
    page = signed_in(open_page, "finn", f"/runs/{training}")
    until(page, "window.gradhelm?.frames > 2")
    closed = page.locator("#threshold-closed")
    expect(closed).to_contain_text("You are signed in as finn, who may change runs in the project")
    expect(closed).to_contain_text(f"vision. This one is in the project {project}")
    expect(page.locator("#threshold-form")).to_be_hidden()
    # Among many runs it may stand below what is in view.
    page.goto(page.url.replace(f"/runs/{training}", f"/?q={training}"))
    until(page, "window.gradhelm?.drawn > 1")
    mine = page.locator(f"#runs-table .ag-row[row-id='{training}']")
    mine.locator("[col-id=menu] button").click()
    expect(page.get_by_role("menuitem", name="Copy the run's id")).to_be_visible()
    expect(page.get_by_role("menuitem", name="Delete")).to_have_count(0)
    page.keyboard.press("Escape")
    mine.locator(".ag-selection-checkbox input").check()
    expect(page.locator("#bulk-delete")).to_have_attribute("aria-disabled", "true")
    page.locator("#bulk-delete").click(force=True)  # it says why it does nothing
    expect(page.locator("#toasts")).to_contain_text("where you may look")
    expect(mine).to_be_visible()


def test_after_signing_in_one_is_where_one_wanted_to_be_and_never_elsewhere(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    add(rest, "gina", everywhere="viewer")
    page = signed_in(open_page, "gina", "/settings#tokens")
    assert page.url == f"{up.url}/settings#tokens"
    for hostile in (
        "//evil.example/",
        "/\\evil.example",
        "https://evil.example",
        "/\t/evil.example",
    ):
        page = signed_in(open_page, "gina", hostile)
        page.wait_for_url(f"{up.url}/", timeout=PATIENCE)


def test_a_page_whose_session_is_over_leads_back_to_itself(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    add(rest, "hugo", everywhere="viewer")
    page = signed_in(open_page, "hugo", "/settings", excuse=UNAUTHORIZED)
    until(page, "window.gradhelm?.drawn > 0")
    assert page.request.post(f"{up.url}/logout", headers={"Origin": up.url}).ok
    page.get_by_role("button", name="New token").click()
    page.get_by_role("button", name="Create the token").click()
    page.wait_for_url(f"{up.url}/login?next=%2Fsettings", timeout=PATIENCE)
    sign_in(page, "hugo")
    page.wait_for_url(f"{up.url}/settings", timeout=PATIENCE)


def test_too_many_tries_count_down_to_the_next(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    add(rest, "ines", everywhere="viewer")
    for _ in range(10):
        answer = httpx.post(f"{up.url}/login", json={"name": "ines", "password": "wrong"})
        assert answer.status_code == 401
    page = open_page("/login", signed_in=False, excuse="status of 429")
    sign_in(page, "ines")
    expect(page.locator("#wrong")).to_contain_text("too many wrong tries")
    expect(page.locator("#wrong")).to_contain_text(re.compile(r"in 1\d minutes"))
    button = page.locator("#enter")
    expect(button).to_have_attribute("aria-disabled", "true")
    before = button.inner_text()
    assert re.fullmatch(r"Wait 1\d minutes( and \d+ seconds?)?", before)
    expect(button).not_to_have_text(before)
    assert page.url == f"{up.url}/login"


def test_a_service_that_signs_in_has_a_button_and_what_it_says_of_errors_is_text(
    open_page: Open, up: Program
) -> None:
    page = open_page("/login", signed_in=False)

    def with_service(route: Route) -> None:
        route.fulfill(json={"password": True, "oidc": {"name": "Example <b>ID</b>"}})

    page.route("**/login/ways", with_service)
    page.goto(f"{up.url}/login?next=/settings#error=access+denied+%3Cimg%20src=x%3E")
    service = page.get_by_role("link", name="Sign in with Example <b>ID</b>")
    assert service.get_attribute("href") == "/login/oidc?next=%2Fsettings"
    expect(page.locator("#why")).to_have_text("Signing in did not work: access denied <img src=x>")
    expect(page.locator("#by-password")).to_be_visible()
    expect(page.locator("#explain pre")).to_be_hidden()
    page.locator("#explain summary").click()
    expect(page.locator("#explain pre")).to_have_text("gradhelm link")
    page.reload()
    expect(page.locator("#by-password")).to_be_visible()
    expect(page.locator("#refused")).to_be_hidden()


def test_where_nobody_has_a_password_only_the_link_is_explained(open_page: Open) -> None:
    page = open_page("/login", signed_in=False)
    page.route("**/login/ways", lambda route: route.fulfill(json={"password": False, "oidc": None}))
    page.reload()
    expect(page.locator("#explain pre")).to_have_text("gradhelm link")
    expect(page.locator("#by-password")).to_be_hidden()
    expect(page.locator("#by-oidc")).to_be_hidden()
    expect(page.locator("#explain summary")).to_be_hidden()


def test_the_colours_that_were_chosen_are_the_login_pages_too(open_page: Open) -> None:
    page = settings(open_page, color_scheme="dark", excuse=UNAUTHORIZED)
    page.get_by_role("radio", name="Light").check()
    page.goto(f"{page.url.split('/settings')[0]}/login")
    body = page.locator("body")
    expect(body).to_have_css("background-color", "rgb(246, 247, 249)")
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(body).to_have_css("background-color", "rgb(11, 13, 18)")


def test_a_tokens_program_opened_in_a_browser_gets_no_password_to_change(
    open_page: Open, rest: httpx.Client, up: Program
) -> None:
    token = rest.post("tokens", json={"role": "viewer", "name": "kiosk"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    page = open_page("/settings", signed_in=False, extra_http_headers=headers)
    until(page, "window.gradhelm?.drawn > 0")
    expect(page.locator("#you-who")).to_have_text("You came in by the API token kiosk.")
    for id in ("password", "sessions", "people", "token-new"):
        expect(page.locator(f"#{id}")).to_be_hidden()
    expect(page.locator("#tokens-closed")).to_be_visible()


def test_the_keyboard_alone_makes_and_revokes_a_token(open_page: Open) -> None:
    page = settings(open_page, "#tokens")
    page.locator("#token-new").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#token-name")).to_be_focused()
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    expect(page.locator("#token-once h3")).to_be_focused()
    page.locator("#token-once").get_by_role("button", name="I have it").press("Enter")
    expect(page.locator("#token-new")).to_be_focused()
    made = row(page, "by keys")
    made.get_by_role("button", name="Revoke").press("Enter")
    confirm_button = page.locator("dialog.confirm").get_by_role("button", name="Revoke the token")
    page.keyboard.press("Tab")
    expect(confirm_button).to_be_focused()
    page.keyboard.press("Enter")
    expect(made).to_contain_text("Revoked")
    expect(page.locator("#token-new")).to_be_focused()
