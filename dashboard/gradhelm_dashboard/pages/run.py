"""One run: its gradients live, and its threshold in reach."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, quote

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


WINDOWS = (("500", "500"), ("1000", "1k"), ("2000", "2k steps"), ("all", "All"))
SCALES = (("log", "Log"), ("linear", "Linear"))
MAPS = (("absolute", "Absolute"), ("relative", "vs. own median"))

KEYS = (
    ("P", "pause the view, or go on"),
    ("F", "follow the newest steps"),
    ("1 2 3 0", "show 500, 1,000, 2,000 or all steps"),
    ("L", "logarithmic or linear"),
    ("M", "layer map absolute, or against each layer's own median"),
    ("T", "to the threshold"),
    ("G", "go to a step"),
    ("/", "find a layer"),
    ("?", "this list"),
)
CHART_KEYS = (
    ("← →", "the cursor along the points"),
    ("Shift ← →", "earlier or later steps"),
    ("+ −", "fewer or more steps"),
    ("Home End", "to the first steps, to the newest"),
)


def page(run: str, search: str) -> Component:
    """``search``: the address's query, in which the choices of a link are."""
    asked = parse_qs(search.removeprefix("?"))
    return html.Div(
        [
            html.Div(id="run-state", className="state", hidden=True, role="status"),
            html.Div(
                [
                    _title(run),
                    html.Div(id="run-banner", className="banner", hidden=True, role="status"),
                    _strip(),
                    html.Div(
                        [
                            html.Div(
                                [
                                    _charts(asked),
                                    html.Div([_distribution(), _ratios()], className="pair"),
                                    _events(),
                                ],
                                className="left",
                            ),
                            html.Aside([_threshold(), _layers(), _cost()], className="rail"),
                        ],
                        className="columns",
                    ),
                    _keys(),
                ],
                id="run-body",
            ),
        ],
        id="run-page",
        className="wrap loading",
        **data(run=run),
    )


def _title(run: str) -> Component:
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
                    html.P("", id="run-note", className="note", hidden=True),
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
                    html.A(
                        [icon("chart-spline"), "Compare"],
                        href=f"/compare?runs={quote(run)}",
                        title="Draw this run and others over one another",
                        className="button",
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


def _choice(
    id: str, choices: tuple[tuple[str, str], ...], asked: list[str] | None, default: str, label: str
) -> Component:
    """A few choices of which one holds: the one that the address asks for, or the ``default``."""
    values = [value for value, _ in choices]
    control: Component = dmc.SegmentedControl(
        id=id,
        value=asked[0] if asked and asked[0] in values else default,
        data=[{"value": value, "label": text} for value, text in choices],
        size="xs",
        **aria(label=label),
    )
    return control


def _charts(asked: Mapping[str, list[str]]) -> Component:
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
                        _choice(
                            "window-choice", WINDOWS, asked.get("window"), "1000", "Steps shown"
                        ),
                        _choice(
                            "scale-choice",
                            SCALES,
                            asked.get("scale"),
                            "log",
                            "Scale of the norm axis",
                        ),
                        html.Div(id="display-place"),
                        html.Span(id="charts-export"),
                        html.Button(
                            icon("keyboard"),
                            id="keys-open",
                            type="button",
                            className="tool",
                            title="Keys",
                            **aria(label="Keys"),
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
            tabIndex="0",
            role="group",
            **aria(
                label="Global gradient norm, layer norms and clip threshold by step",
                describedby="chart-help",
            ),
        ),
        html.P(
            "Arrow keys move the cursor, with Shift they move the view, plus and minus zoom.",
            id="chart-help",
            className="unseen",
        ),
        html.Div("", id="chart-told", className="unseen", **aria(live="polite")),
        html.Div(id="lanes", hidden=True),
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
                _choice(
                    "heat-choice", MAPS, asked.get("map"), "absolute", "Colours of the layer map"
                ),
                html.Span(id="map-export"),
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


def _distribution() -> Component:
    return card(
        html.Div(
            [html.H2("Distribution"), html.Span("", id="distribution-of", className="faint small")],
            className="card-head",
        ),
        html.Div(
            [
                html.Div(
                    id="distribution", role="img", **aria(label="Distribution of the global norm")
                ),
                html.Div(id="distribution-threshold", hidden=True, title="The threshold in force"),
            ],
            className="distribution",
        ),
        html.Div(id="distribution-axis", className="distribution-axis", **aria(hidden="true")),
        html.Div(id="distribution-words", className="distribution-words"),
        id="distribution-card",
        label="Distribution of the global norm",
    )


def _ratios() -> Component:
    return card(
        html.Div(
            [html.H2("Update ÷ weight"), html.Span("", id="ratio-of", className="faint small")],
            className="card-head",
        ),
        html.P(
            [
                "How far each step moves a layer, beside the size of its weights. Not measured in "
                "this run: attach it with ",
                html.Code("measure_every=100"),
                ".",
            ],
            id="ratio-none",
            className="hint",
            hidden=True,
        ),
        html.Div(id="ratio-list", role="table"),
        id="ratio-card",
        label="Update to weight ratios",
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
        # Straight above the slider, over the same range: the curve is what the slider moves along.
        html.Div(id="threshold-curve", hidden=True),
        html.Div(
            [
                html.Div(id="threshold-range"),
                html.Div(id="threshold-exact", className="labelled"),
                html.Div(
                    [
                        html.P("", id="whatif-text"),
                        html.Div(id="whatif-bars"),
                    ],
                    id="whatif",
                    className="whatif",
                    **aria(live="polite"),
                ),
                html.Div(id="threshold-more"),
                html.Div(id="threshold-why", className="labelled"),
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
        html.Div("", id="threshold-rest"),
        html.Div(id="threshold-conflict", hidden=True, role="alert"),
        html.Button(
            [icon("rotate-ccw"), html.Span("", id="threshold-undo-words")],
            id="threshold-undo",
            type="button",
            className="button small",
            hidden=True,
        ),
        html.Div(
            [html.H3("", id="effect-title"), html.Div(id="effect-body")],
            id="threshold-effect",
            hidden=True,
        ),
        html.Div(id="threshold-advice"),
        html.Div(id="threshold-levers"),
        html.H3("History", id="history-head", hidden=True),
        html.Ol(id="threshold-history", **aria(label="Changes, newest first")),
        html.Button("", id="history-more", type="button", className="button small", hidden=True),
        id="threshold-card",
        label="Clip threshold",
    )


def _layers() -> Component:
    return card(
        html.Div(
            [html.H2("Layers"), html.Span("", id="layer-count", className="faint small num")],
            className="card-head",
        ),
        html.Div(id="layer-tools"),
        html.Div(id="layer-list"),
        html.P("No layer is called so.", id="layer-nothing", className="hint", hidden=True),
        html.Button("", id="layer-more", type="button", className="button small", hidden=True),
        html.P(
            "Press a layer to draw or hide its line. In percent: its share of the squared norm.",
            className="hint",
        ),
        id="layers-card",
        label="Layers",
    )


def _cost() -> Component:
    return card(
        html.Div([html.H2("What monitoring costs")], className="card-head"),
        html.Dl(id="cost-list"),
        id="cost-card",
        label="What monitoring costs",
    )


def _keys() -> Component:
    def listed(keys: tuple[tuple[str, str], ...]) -> Component:
        return html.Dl(
            [
                part
                for key, text in keys
                for part in (
                    html.Dt([html.Kbd(one) for one in key.split(" ")]),
                    html.Dd(text),
                )
            ]
        )

    dialog: Component = html.Dialog(
        [
            html.H2("Keys"),
            listed(KEYS),
            html.H3("With the chart in focus"),
            listed(CHART_KEYS),
            html.Div(id="keys-choice"),
            html.Button("Close", id="keys-close", type="button", className="button"),
        ],
        id="keys-dialog",
        **aria(label="Keys"),
    )
    return dialog
