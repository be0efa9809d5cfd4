"""One run: its gradients live, and its threshold in reach."""

from __future__ import annotations

import dash_mantine_components as dmc  # type: ignore[import-untyped]
from dash import html
from dash.development.base_component import Component

from ..parts import aria, card, data, figure, icon

EVENT_KINDS = (
    ("clip_burst", "Clip bursts", "scissors"),
    ("spike", "Spikes", "zap"),
    ("nonfinite", "Non-finite", "triangle-alert"),
    ("threshold", "Threshold changes", "sliders-horizontal"),
    ("gap", "Gaps", "unplug"),
    ("status", "Status", "radio"),
)


def page(run: str) -> Component:
    return html.Div(
        [
            html.Div(id="run-state", className="state", hidden=True, role="status"),
            html.Div(
                [
                    _title(),
                    html.Div(id="run-banner", className="banner", hidden=True, role="status"),
                    _strip(),
                    html.Div(
                        [
                            html.Div([_charts(), _events()], className="left"),
                            html.Aside([_threshold(), _hottest(), _cost()], className="rail"),
                        ],
                        className="columns",
                    ),
                ],
                id="run-body",
            ),
        ],
        id="run-page",
        className="wrap loading",
        **data(run=run),
    )


def _title() -> Component:
    return html.Div(
        [
            html.Div(
                [
                    html.Nav(
                        [
                            html.A("Runs", href="/"),
                            icon("chevron-right"),
                            html.Span("", id="run-crumb", **aria(current="page")),
                        ],
                        className="crumbs",
                        **aria(label="Breadcrumb"),
                    ),
                    html.Div(
                        [
                            html.H1("", id="run-name"),
                            html.Span(id="run-status", className="chip"),
                            html.Span(id="run-tags", className="tags"),
                        ],
                        className="name-line",
                    ),
                ]
            ),
            html.Div(
                [
                    # Only for a run with several optimizers.
                    html.Label(
                        ["Optimizer", html.Select(id="stream-choice", className="field")],
                        id="stream-field",
                        className="chooser",
                        hidden=True,
                    ),
                    html.Button(
                        [icon("pause"), html.Span("Pause view")],
                        id="pause-view",
                        type="button",
                        className="button",
                        **aria(pressed="false"),
                    ),
                ],
                className="choices",
            ),
        ],
        className="title-line",
    )


def _strip() -> Component:
    return html.Section(
        [
            figure("fig-step", "Step", bar=True, beside=True),
            figure("fig-norm", "Global grad norm"),
            figure("fig-threshold", "Clip threshold"),
            figure("fig-clip", "Clip fraction, last 500"),
            figure("fig-nonfinite", "Non-finite steps"),
            figure("fig-rate", "Throughput"),
            # Only where the training script logs one.
            figure("fig-loss", "Loss", beside=True, hidden=True),
        ],
        className="strip six",
        **aria(label="Figures"),
    )


def _charts() -> Component:
    return card(
        html.Div(
            [
                html.H2("Gradient norms"),
                html.Div(
                    [
                        html.Button(
                            [icon("rotate-ccw"), html.Span("Back to live")],
                            id="back-to-live",
                            type="button",
                            className="button small",
                            hidden=True,
                        ),
                        dmc.SegmentedControl(
                            id="window-choice",
                            value="1000",
                            data=[
                                {"value": "500", "label": "500"},
                                {"value": "1000", "label": "1k"},
                                {"value": "2000", "label": "2k steps"},
                                {"value": "all", "label": "All"},
                            ],
                            size="xs",
                            **aria(label="Steps shown"),
                        ),
                        dmc.SegmentedControl(
                            id="scale-choice",
                            value="log",
                            data=[
                                {"value": "log", "label": "Log"},
                                {"value": "linear", "label": "Linear"},
                            ],
                            size="xs",
                            **aria(label="Scale of the norm axis"),
                        ),
                    ],
                    className="choices",
                ),
            ],
            className="card-head",
        ),
        html.Div(id="chart-legend", className="legend"),
        html.Div(
            id="live-chart",
            role="img",
            **aria(label="Global gradient norm, layer norms and clip threshold by step"),
        ),
        html.Div(
            [
                html.H2("Layers × time"),
                html.Div(
                    [
                        html.Span("Norm", className="faint"),
                        html.Span("", id="heat-low", className="mono"),
                        html.Canvas(id="heat-key"),
                        html.Span("", id="heat-high", className="mono"),
                    ],
                    className="heat-scale",
                    **aria(hidden="true"),
                ),
                dmc.SegmentedControl(
                    id="heat-choice",
                    value="absolute",
                    data=[
                        {"value": "absolute", "label": "Absolute"},
                        {"value": "relative", "label": "vs. own median"},
                    ],
                    size="xs",
                    **aria(label="Colours of the layer map"),
                ),
            ],
            className="card-head heat-head",
        ),
        html.Div(
            id="layer-heatmap",
            role="img",
            **aria(label="Gradient norm of every layer by step"),
        ),
        html.Div(id="view-note", className="view-note", hidden=True, role="status"),
        id="charts-card",
        label="Gradient norms",
    )


def _events() -> Component:
    return card(
        html.Div(
            [
                html.H2("Events"),
                html.Div(
                    [
                        html.Button(
                            [icon("check"), html.Span(label), html.Span("", className="count")],
                            type="button",
                            className="filter-chip",
                            hidden=True,
                            **data(kind=kind),
                            **aria(pressed="true"),
                        )
                        for kind, label, _ in EVENT_KINDS
                    ],
                    id="event-filters",
                    role="group",
                    **aria(label="Kinds of events shown"),
                ),
            ],
            className="card-head",
        ),
        html.Div(id="event-list"),
        id="events-card",
        label="Events",
        className="flush",
    )


def _threshold() -> Component:
    return card(
        html.Div(
            [
                html.H2("Clip threshold"),
                html.Span("", id="threshold-kind", className="tag", hidden=True),
            ],
            className="card-head",
        ),
        # Only for a run whose clip has several rules.
        html.Label(
            ["Applies to", html.Select(id="threshold-rule", className="field")],
            id="threshold-rule-field",
            className="chooser",
            hidden=True,
        ),
        html.Div(id="threshold-closed", className="closed", hidden=True, role="status"),
        html.Div(
            [
                html.Div(
                    [
                        html.Div("Applied", className="figure-label"),
                        html.Div("–", id="threshold-applied", className="big"),
                    ]
                ),
                icon("chevron-right"),
                html.Div(
                    [
                        html.Div("Proposed", className="figure-label"),
                        html.Div("–", id="threshold-proposed", className="big"),
                    ]
                ),
            ],
            className="from-to",
        ),
        html.Div(
            [
                dmc.Slider(
                    id="threshold-slider",
                    min=-2,
                    max=2,
                    step=0.01,
                    value=0,
                    label=None,
                    updatemode="drag",
                    marks=[],
                    thumbSize=20,
                    thumbLabel="Proposed threshold, logarithmic",
                ),
                dmc.NumberInput(
                    id="threshold-input",
                    label="Exact value",
                    allowNegative=False,
                    clampBehavior="none",
                    debounce=False,
                    step=0.01,
                    min=0,
                ),
                html.Div(
                    [
                        html.P("", id="whatif-text"),
                        html.Div(id="whatif-bars"),
                    ],
                    id="whatif",
                    className="whatif",
                    **aria(live="polite"),
                ),
                dmc.TextInput(
                    id="threshold-reason",
                    label="Reason",
                    placeholder="Optional, kept in the history",
                    debounce=False,
                ),
                html.Div(
                    [
                        html.Button(
                            "Apply to run",
                            id="threshold-apply",
                            type="button",
                            className="button primary",
                        ),
                        html.Button(
                            "Reset", id="threshold-reset", type="button", className="button"
                        ),
                    ],
                    className="actions",
                ),
            ],
            id="threshold-form",
        ),
        html.Div("", id="threshold-status", role="status"),
        html.Div(id="threshold-history"),
        id="threshold-card",
        label="Clip threshold",
    )


def _hottest() -> Component:
    return card(
        html.Div(
            [html.H2("Hottest layers"), html.Span("share of norm²", className="faint small")],
            className="card-head",
        ),
        html.Div(id="hot-list"),
        html.P("Click a layer to draw or hide its line.", className="hint"),
        id="hot-card",
        label="Hottest layers",
    )


def _cost() -> Component:
    return card(
        html.Div([html.H2("What monitoring costs")], className="card-head"),
        html.Dl(id="cost-list"),
        id="cost-card",
        label="What monitoring costs",
    )
