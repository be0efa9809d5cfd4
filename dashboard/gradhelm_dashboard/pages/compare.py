"""Several runs over one another: their scalars, their layers, and how they were set up."""

from __future__ import annotations

from urllib.parse import parse_qs

import dash_mantine_components as dmc  # type: ignore[import-untyped]
from dash import html
from dash.development.base_component import Component

from ..parts import aria, card, icon
from .run import SCALES

AXES = (("step", "Step"), ("time", "Time since start"))


def page(search: str) -> Component:
    """``search``: the address's query, in which the runs and the choices of a link are."""
    asked = parse_qs(search.removeprefix("?"))
    return html.Div(
        [
            html.Div(
                [
                    html.Nav(
                        [
                            html.A("Runs", href="/"),
                            icon("chevron-right"),
                            html.Span("Compare", **aria(current="page")),
                        ],
                        className="crumbs",
                        **aria(label="Breadcrumb"),
                    ),
                    html.H1("Compare runs"),
                ],
                className="title-block",
            ),
            html.Div(id="compare-notice", className="banner", hidden=True, role="status"),
            card(
                html.Div(id="compare-runs", role="list", **aria(label="The runs compared")),
                html.Div(id="compare-finder"),
                id="compare-chosen",
                label="Runs",
            ),
            html.Div(id="compare-state", className="state card", hidden=True),
            html.Div([_chart(asked), _maps(), _table()], id="compare-body", hidden=True),
        ],
        id="compare-page",
        className="wrap",
    )


def _choice(
    id: str, choices: tuple[tuple[str, str], ...], asked: list[str], label: str
) -> Component:
    values = [value for value, _ in choices]
    control: Component = dmc.SegmentedControl(
        id=id,
        value=asked[0] if asked and asked[0] in values else values[0],
        data=[{"value": value, "label": text} for value, text in choices],
        size="xs",
        **aria(label=label),
    )
    return control


def _chart(asked: dict[str, list[str]]) -> Component:
    return card(
        html.Div(
            [
                # The choice of the scalar is made by the page's scripts, of what the runs have.
                html.H2("", id="compare-column-place"),
                html.Div(
                    [
                        html.Button(
                            [icon("rotate-ccw"), html.Span("Show all")],
                            id="compare-all",
                            type="button",
                            className="button small",
                            hidden=True,
                        ),
                        _choice("compare-axis", AXES, asked.get("x", []), "Horizontal axis"),
                        _choice(
                            "compare-scale", SCALES, asked.get("scale", []), "Scale of the values"
                        ),
                        html.Div(id="compare-smooth-place"),
                        html.Span(id="compare-export"),
                    ],
                    className="choices",
                ),
            ],
            className="card-head",
        ),
        html.Div(
            [
                html.Div(
                    id="compare-chart",
                    tabIndex="0",
                    role="group",
                    **aria(label="The runs over one another", describedby="compare-help"),
                ),
                html.Div(id="compare-none", className="view-note over", hidden=True, role="status"),
            ],
            className="chart-place",
        ),
        html.P(
            "Arrow keys move the cursor, with Shift they move the view, plus and minus zoom, "
            "0 shows everything.",
            id="compare-help",
            className="unseen",
        ),
        html.Div("", id="compare-told", className="unseen", **aria(live="polite")),
        html.Div("", id="compare-hint", className="view-note", hidden=True, role="status"),
        id="compare-chart-card",
        label="Chart",
    )


def _maps() -> Component:
    return card(
        html.Div(
            [
                html.H2("Layers × time"),
                html.Div(
                    [
                        html.Span("Norm", className="faint"),
                        html.Span("", id="compare-low", className="mono"),
                        html.Canvas(id="compare-key"),
                        html.Span("", id="compare-high", className="mono"),
                    ],
                    className="heat-scale",
                    **aria(hidden="true"),
                ),
            ],
            className="card-head heat-head",
        ),
        html.Div(id="compare-maps"),
        id="compare-maps-card",
        label="Layer norms of each run",
    )


def _table() -> Component:
    return card(
        html.Div(
            [html.H2("Set up and outcome"), html.Div(id="compare-every")],
            className="card-head",
        ),
        html.Div(
            id="compare-table",
            className="sideways",
            tabIndex="0",
            role="region",
            **aria(label="Set up and outcome of each run"),
        ),
        id="compare-table-card",
        label="Set up and outcome",
        className="flush",
    )
