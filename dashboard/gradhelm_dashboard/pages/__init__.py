"""Which page an address shows. Names and numbers are filled in by the page's scripts."""

from __future__ import annotations

import re
from urllib.parse import unquote

from dash.development.base_component import Component

from . import compare, missing, run, runs, settings

_RUN = re.compile(r"/runs/([^/]+)/?")


def tables(pathname: str) -> bool:
    """Whether the page at ``pathname`` draws a table with the grid."""
    return pathname in ("/", "/runs", "/runs/")


def page_for(pathname: str, search: str = "") -> Component:
    """The page at ``pathname``; ``search`` is the query that came with it."""
    if tables(pathname):
        return runs.page(search)
    if pathname.rstrip("/") == "/compare":
        return compare.page(search)
    if pathname.rstrip("/") == "/settings":
        return settings.page()
    if match := _RUN.fullmatch(pathname):
        return run.page(unquote(match[1]), search)
    return missing.page(pathname)
