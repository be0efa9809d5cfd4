"""Which page an address shows. Names and numbers are filled in by the page's scripts."""

from __future__ import annotations

import re
from urllib.parse import unquote

from dash.development.base_component import Component

from . import missing, run, runs

_RUN = re.compile(r"/runs/([^/]+)/?")


def tables(pathname: str) -> bool:
    """Whether the page at ``pathname`` draws a table with the grid."""
    return pathname in ("/", "/runs", "/runs/")


def page_for(pathname: str) -> Component:
    """The page at ``pathname``."""
    if tables(pathname):
        return runs.page()
    if match := _RUN.fullmatch(pathname):
        return run.page(unquote(match[1]))
    return missing.page(pathname)
