"""All runs that report to this server, newest first."""

from __future__ import annotations

from typing import Any

import dash_ag_grid as dag  # type: ignore[import-untyped]
import dash_mantine_components as dmc  # type: ignore[import-untyped]
from dash import html
from dash.development.base_component import Component

from ..parts import aria, card, figure, icon

ATTACH = """# pip install gradhelm
import gradhelm
run = gradhelm.attach(model, optimizer, max_norm=1.0)"""

_PLAIN: dict[str, Any] = {
    "sortable": True,
    "cellDataType": False,
    "resizable": False,
    "suppressMovable": True,
}


def _column(title: str, field: str, **more: Any) -> dict[str, Any]:
    return {"headerName": title, "field": field, "colId": field} | _PLAIN | more


COLUMNS = [
    _column("Status", "status", cellRenderer="GradhelmStatus", width=124),
    _column("Run", "name", cellRenderer="GradhelmRun", flex=3, minWidth=130),
    _column("Progress", "last_step", cellRenderer="GradhelmProgress", flex=1.6, minWidth=160),
    _column(
        "Global norm, last 500",
        "sparkline",
        cellRenderer="GradhelmSparkline",
        flex=1.8,
        minWidth=190,
        sortable=False,
    ),
    _column("Norm", "global_norm", cellRenderer="GradhelmNorm", type="rightAligned", width=96),
    _column(
        "Threshold", "threshold", cellRenderer="GradhelmThreshold", type="rightAligned", width=112
    ),
    _column("Clip fraction", "clip_fraction", cellRenderer="GradhelmClip", width=158),
    _column("Steps", "steps", cellRenderer="GradhelmSteps", type="rightAligned", width=100),
    _column("Last signal", "last_heard_at", cellRenderer="GradhelmHeard", width=126),
]


def page() -> Component:
    return html.Div(
        [
            html.Div(
                [
                    html.H1("Runs"),
                    html.P("Training jobs reporting to this server", className="sub"),
                ],
                className="title-block",
            ),
            html.Section(
                [
                    figure("sum-live", "Live", symbol="radio"),
                    figure("sum-clip", "Clip fraction, all live", symbol="scissors"),
                    figure("sum-bad", "Non-finite gradients", symbol="triangle-alert"),
                    figure("sum-ingest", "Ingest", symbol="activity"),
                ],
                className="strip four",
                **aria(label="All runs together"),
            ),
            html.Div(id="runs-notice", role="status"),
            card(
                html.Div(
                    [
                        dmc.TextInput(
                            id="runs-search",
                            placeholder="Filter runs",
                            leftSection=icon("search"),
                            debounce=False,
                            className="search",
                            **aria(label="Filter runs by name, project or tag"),
                        ),
                        dmc.SegmentedControl(
                            id="runs-status",
                            value="all",
                            data=[{"value": "all", "label": "All"}],
                            **aria(label="Filter runs by status"),
                        ),
                    ],
                    className="toolbar",
                ),
                dag.AgGrid(
                    id="runs-table",
                    columnDefs=COLUMNS,
                    rowData=[],
                    getRowId="params.data.id",
                    dashGridOptions={
                        "domLayout": "autoHeight",
                        "rowHeight": 56,
                        "headerHeight": 40,
                        "suppressCellFocus": False,
                        "suppressRowHoverHighlight": False,
                        "animateRows": False,
                        "rowClass": "run-row",
                    },
                    style={"width": "100%", "height": None},
                ),
                html.Div("No run matches the filter.", id="runs-none", hidden=True),
                id="runs-card",
                label="Runs",
                className="flush",
            ),
            html.Section(
                [
                    icon("plug"),
                    html.H2("No run yet"),
                    html.P(
                        "This attaches a training job; its loop stays as it is. The run appears here by itself."
                    ),
                    html.Div(
                        [
                            html.Pre(html.Code(ATTACH, id="attach-code")),
                            html.Button(
                                [icon("copy"), "Copy"],
                                id="attach-copy",
                                type="button",
                                className="button small",
                            ),
                        ],
                        className="snippet",
                    ),
                    html.P(
                        [
                            "From another machine, set ",
                            html.Code("GRADHELM_SERVER", id="attach-server"),
                            " and ",
                            html.Code("GRADHELM_TOKEN"),
                            " first; ",
                            html.Code("gradhelm token create --role ingest"),
                            " makes one.",
                        ]
                    ),
                    html.P(
                        ["Nothing to train at hand? ", html.Code("gradhelm demo"), " shows one."]
                    ),
                ],
                id="runs-empty",
                className="state card",
                hidden=True,
            ),
        ],
        id="runs-page",
        className="wrap",
    )
