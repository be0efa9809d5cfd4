"""Puts the page on the server's FastAPI app, so that one gate guards both.

The live data never passes through a Dash callback: the browser reads ``/api/v1`` itself.
"""

from __future__ import annotations

import re
from typing import Any, cast

from dash import ClientsideFunction, Dash, Input, Output, State
from dash.development.base_component import Component
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from .login import add_login
from .packed import Packed
from .pages import page_for, tables
from .shell import ASSETS, INDEX, CheckedFiles, layout
from .strict import Strict

CONTROLS = (
    "window-choice",
    "scale-choice",
    "heat-choice",
    "runs-search",
    "runs-status",
    "compare-axis",
    "compare-scale",
)
"""Controls whose ``value`` the page's scripts follow."""


UNUSED = re.compile(r'\s*<script src="[^"]*/(?:polyfill@|dash_table/)[^"]*"></script>')
"""What Dash brings for browsers of ten years ago, and a table that nobody draws with here."""
GRID = re.compile(r'\s*<script src="[^"]*/dash_ag_grid/[^"]*"></script>')


class _Lean(Dash):
    """Sends with each page only the scripts that it uses: they are most of what a page weighs."""

    def interpolate_index(self, **parts: Any) -> str:  # type: ignore[override]
        scripts = UNUSED.sub("", parts["scripts"])
        if not tables(self.backend.request_adapter().path):
            scripts = GRID.sub("", scripts)
        return str(super().interpolate_index(**parts | {"scripts": scripts}))  # type: ignore[no-untyped-call]


def build_ui(api: FastAPI, *, version: str) -> Dash:
    """Adds the page to ``api``, which must have its own routes already; returns the Dash app.

    Dash answers every GET that is left, so unknown paths under ``/api`` are refused here first.
    ``csp_hashes()`` of what is returned are the inline scripts that Dash itself needs.
    """

    async def unknown(path: str) -> JSONResponse:
        message = f"There is nothing at /api/{path}."
        error = {"code": "not_found", "message": message, "details": {}}
        return JSONResponse({"error": error}, 404)

    api.add_api_route("/api/{path:path}", unknown, include_in_schema=False)
    add_login(api)
    # Before Dash mounts its own: browsers must ask again, or an upgrade mixes old and new modules.
    api.mount("/assets", CheckedFiles(directory=ASSETS), name="assets")

    api.add_middleware(Packed)

    app: Any = _Lean(
        __name__,
        server=cast(Any, api),
        title="gradhelm",
        update_title="",
        index_string=INDEX,
        include_assets_files=False,
        suppress_callback_exceptions=True,
    )
    app.layout = layout(version)

    async def show(pathname: str | None, search: str | None) -> Component:
        return page_for(pathname or "/", search or "")

    app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))(show)

    for control in CONTROLS:
        app.clientside_callback(ClientsideFunction("gradhelm", "changed"), Input(control, "value"))
    # Lazily done otherwise, and a first visit to a deep link would come without callbacks.
    app._setup_server()
    api.add_middleware(Strict, page=app)
    return cast(Dash, app)
