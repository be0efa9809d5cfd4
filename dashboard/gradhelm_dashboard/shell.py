"""What surrounds every page: the document, the header, the theme."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import dash_mantine_components as dmc  # type: ignore[import-untyped]
from dash import dcc, html
from dash.development.base_component import Component
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

from .parts import aria, data, icon

ASSETS: Final = Path(__file__).parent / "assets"

# early.js sets the colours before the first paint; it is a file because the page's content
# security policy lets no inline script run but Dash's own.
# main.js begins to fetch a run's data before Dash has put the page together, and its modules are
# asked for together instead of one after the other has been read.
INDEX: Final = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>{%title%}</title>
<link rel="icon" type="image/svg+xml" href="/assets/logo.svg">
<script src="/assets/early.js"></script>
<script src="/assets/cells.js"></script>
<script type="module" async src="/assets/main.js"></script>
<!--modules-->
{%css%}
<link rel="stylesheet" href="/assets/vendor/fonts.css">
<link rel="stylesheet" href="/assets/vendor/icons.css">
<link rel="stylesheet" href="/assets/vendor/uplot.css">
<link rel="stylesheet" href="/assets/page.css">
<link rel="stylesheet" href="/assets/run.css">
<link rel="stylesheet" href="/assets/compare.css">
<link rel="stylesheet" href="/assets/settings.css">
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
""".replace(
    "<!--modules-->",
    "\n".join(
        f'<link rel="modulepreload" href="/assets/{file.relative_to(ASSETS).as_posix()}">'
        for file in sorted([*ASSETS.glob("*.js"), *ASSETS.glob("vendor/*.js")])
        if file.name not in ("early.js", "cells.js", "main.js")
    ),
)

ACCENT: Final = [
    "#eef0ff", "#dfe2fd", "#bcc2f8", "#98a1f4", "#7984f0",
    "#6672f0", "#5563e3", "#4653cf", "#3c48b8", "#313ca0",
]  # fmt: skip


class CheckedFiles(StaticFiles):
    """Static files that a browser keeps, but asks about each time."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def layout(version: str) -> Component:
    """The shell; ``page`` is filled by the address."""
    shell: Component = dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh=False),
            html.A("Skip to the page", href="#page", className="skip"),
            _header(version),
            _assets_warning(),
            html.Main(id="page", tabIndex="-1", children=html.Div(className="loading-page")),
            html.Div(id="toasts", role="status", **aria(live="polite")),
        ],
        defaultColorScheme="auto",
        theme={
            "primaryColor": "accent",
            "primaryShade": {"light": 6, "dark": 5},
            "colors": {"accent": ACCENT},
            "fontFamily": "var(--font)",
            "fontFamilyMonospace": "var(--mono)",
            "defaultRadius": 8,
            "cursorType": "pointer",
            "respectReducedMotion": True,
        },
    )
    return shell


def _header(version: str) -> Component:
    return html.Header(
        [
            html.A(
                [html.Span(className="logo", **aria(hidden="true")), "gradhelm"],
                href="/",
                className="brand",
                title=f"gradhelm {version}",
            ),
            html.Nav(html.A("Runs", href="/", id="nav-runs"), **aria(label="Main")),
            html.Div(
                [
                    html.Span(className="dot"),
                    html.Span("Connecting…", id="connection-word"),
                ],
                id="connection-state",
                role="status",
                **data(state="connecting"),
            ),
            dmc.ColorSchemeToggle(
                id="theme-toggle",
                lightIcon=icon("sun"),
                darkIcon=icon("moon"),
                variant="subtle",
                color="gray",
                size=34,
                **aria(label="Dark or light"),
            ),
            html.Details(
                [
                    html.Summary("··", id="user-initials", **aria(label="··, the account")),
                    html.Div(
                        [
                            html.Div("", id="user-name"),
                            html.A("Settings", href="/settings", id="nav-settings"),
                            html.Button("Sign out", id="sign-out", type="button"),
                        ],
                        className="account-menu",
                    ),
                ],
                className="account",
            ),
        ],
        className="top",
    )


def _assets_warning() -> Component | None:
    """In a checkout that was never built there is no chart library; say so instead of breaking."""
    if (ASSETS / "vendor" / "stamp").is_file():
        return None
    return html.Div(
        [
            icon("triangle-alert"),
            html.Span(
                [
                    "The page's assets are not built, so charts and icons are missing. In the "
                    "source tree run ",
                    html.Code("pip install -e '.[all]'"),
                    " (or ",
                    html.Code("python dashboard/hatch_build.py"),
                    ") and reload.",
                ]
            ),
        ],
        className="banner bad",
        role="alert",
        id="assets-missing",
    )
