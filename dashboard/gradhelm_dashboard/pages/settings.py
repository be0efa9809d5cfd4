"""Who one is here, the API tokens, the people, and how the page looks.

Each part has an id, so that an address such as ``/settings#tokens`` leads to it. Which of them
somebody sees is up to what they may do; the page's scripts fill them.
"""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from ..parts import aria, icon

PARTS = (
    ("you", "You"),
    ("tokens", "API tokens"),
    ("people", "People"),
    ("appearance", "Appearance"),
)


def page() -> Component:
    return html.Div(
        [
            html.Div(html.H1("Settings"), className="title-block"),
            html.Div(id="settings-told", hidden=True),
            html.Div(
                [
                    html.Nav(
                        [
                            html.A(title, href=f"#{id}", id=f"nav-{id}", hidden=id == "people")
                            for id, title in PARTS
                        ],
                        className="settings-nav",
                        **aria(label="Settings"),
                    ),
                    html.Div([_you(), _tokens(), _people(), _appearance()], className="parts"),
                ],
                className="settings",
            ),
        ],
        id="settings-page",
        className="wrap",
    )


def _part(id: str, *children: Component, hidden: bool = False) -> Component:
    return html.Section(
        list(children),
        id=id,
        className="card part",
        hidden=hidden,
        **aria(label=dict(PARTS)[id]),
    )


def _head(title: str, *actions: Component) -> Component:
    return html.Div([html.H2(title), *actions], className="card-head")


def _place(id: str) -> Component:
    """What a script fills once the server has answered."""
    return html.Div(html.P("Loading…", className="quiet"), id=id)


def _new(id: str, label: str, *, hidden: bool = False) -> Component:
    words: list[Component | str] = [icon("plus"), label]
    return html.Button(words, id=id, type="button", className="button small", hidden=hidden)


def _you() -> Component:
    return _part(
        "you",
        _head("You"),
        html.P("Loading…", id="you-who"),
        html.Ul(id="you-rights"),
        html.P(
            [
                "Give people accounts of their own under ",
                html.A("People", href="#people"),
                ": then the history says who changed what.",
            ],
            id="you-local",
            className="hint",
            hidden=True,
        ),
        html.Div(id="password", className="subpart", hidden=True),
        html.Div(
            [
                html.H3("Open sessions"),
                html.P(
                    "The browsers that are signed in as you. End those that you do not know.",
                    className="muted",
                ),
                _place("sessions-place"),
            ],
            id="sessions",
            className="subpart",
            hidden=True,
        ),
    )


def _tokens() -> Component:
    return _part(
        "tokens",
        _head("API tokens", _new("token-new", "New token", hidden=True)),
        html.P(
            "A training job on another machine, or a program that reads or steers runs, comes in "
            "by a token instead of a password.",
            className="muted",
        ),
        html.P(
            "Tokens are made by people who are signed in, for what they may do themselves.",
            id="tokens-closed",
            className="hint",
            hidden=True,
        ),
        html.Div(
            id="token-once",
            className="once",
            hidden=True,
            role="region",
            **aria(label="The new token"),
        ),
        _place("tokens-place"),
    )


def _people() -> Component:
    return _part(
        "people",
        _head("People", _new("people-new", "Add somebody")),
        html.P(
            "Who may come in, and what they may do in which project. Of projects that somebody has "
            "no role in they see nothing.",
            className="muted",
        ),
        html.P("", id="people-told", className="told bad-text", role="alert"),
        html.Div(
            id="people-once",
            className="once",
            hidden=True,
            role="region",
            **aria(label="The link"),
        ),
        _place("people-place"),
        hidden=True,
    )


def _appearance() -> Component:
    return _part(
        "appearance",
        _head("Appearance"),
        html.P("In this browser.", className="muted"),
        html.Div(id="appearance-place"),
    )
