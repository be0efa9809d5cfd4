"""The page for addresses that lead nowhere."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from ..parts import icon


def page(pathname: str) -> Component:
    return html.Div(
        html.Div(
            [
                icon("unplug"),
                html.H1("Nothing here"),
                html.P(["There is no page at ", html.Code(pathname[:200]), "."]),
                html.A("See all runs", href="/", className="button primary"),
            ],
            className="state",
        ),
        id="missing-page",
        className="wrap",
    )
