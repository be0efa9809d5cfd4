"""All runs that report to this server, newest first."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

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
    _column("Status", "status", cellRenderer="GradhelmStatus", width=116),
    _column("Run", "name", cellRenderer="GradhelmRun", flex=3, minWidth=120),
    _column(
        "Global norm, last 500",
        "sparkline",
        cellRenderer="GradhelmSparkline",
        flex=1.8,
        minWidth=150,
        sortable=False,
    ),
    _column("Norm", "global_norm", cellRenderer="GradhelmNorm", type="rightAligned", width=92),
    _column(
        "Threshold", "threshold", cellRenderer="GradhelmThreshold", type="rightAligned", width=104
    ),
    _column("Clip fraction", "clip_fraction", cellRenderer="GradhelmClip", width=152),
    _column(
        "Non-finite", "nonfinite", cellRenderer="GradhelmNonfinite", type="rightAligned", width=104
    ),
    _column("Steps", "last_step", cellRenderer="GradhelmProgress", flex=1, minWidth=140),
    _column("Age", "created_at", cellRenderer="GradhelmAge", width=136),
    _column(
        "",
        "menu",
        cellRenderer="GradhelmMenu",
        width=52,
        sortable=False,
        headerTooltip="More",
        cellClass="menu-cell",
    ),
]
STATUSES = ("live", "stale", "failed", "finished", "stopped")


def page(search: str) -> Component:
    """``search``: the address's query, in which the filters of a link are."""
    asked = parse_qs(search.removeprefix("?"))
    words = asked.get("q", [""])[0][:200]
    status = next((s for s in asked.get("status", []) if s in STATUSES), "all")
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
                            value=words,
                            placeholder="Filter runs",
                            leftSection=icon("search"),
                            debounce=False,
                            className="search",
                            **aria(label="Filter runs by name, project, tag or note"),
                        ),
                        dmc.SegmentedControl(
                            id="runs-status",
                            value=status,
                            data=[
                                {"value": value, "label": value.capitalize()}
                                for value in dict.fromkeys(("all", status))
                            ],
                            **aria(label="Filter runs by status"),
                        ),
                        # Filled by the page's scripts: what can be chosen there depends on the runs.
                        html.Div(id="runs-choosers", className="choices"),
                        html.Div(
                            id="runs-bulk",
                            className="bulk",
                            role="group",
                            hidden=True,
                            **aria(label="The selected runs"),
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
                        "rowSelection": {
                            "mode": "multiRow",
                            "checkboxes": True,
                            "headerCheckbox": True,
                            "selectAll": "filtered",
                            "enableClickSelection": False,
                        },
                        "localeText": {"ariaHeaderSelection": "Select all runs shown"},
                        "selectionColumnDef": {
                            "width": 46,
                            "resizable": False,
                            "suppressMovable": True,
                        },
                    },
                    style={"width": "100%", "height": None},
                ),
                html.Div(
                    [
                        html.P("No run matches the filter."),
                        html.Button(
                            "Show all runs", id="runs-clear", type="button", className="button"
                        ),
                    ],
                    id="runs-none",
                    hidden=True,
                ),
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
                            " first; the token is made in the ",
                            html.A("settings", href="/settings#tokens"),
                            " or by ",
                            html.Code("gradhelm token create --role ingest"),
                            ".",
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
