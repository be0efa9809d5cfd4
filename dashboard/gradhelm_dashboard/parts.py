"""Small pieces that several pages are made of."""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

Content = str | Component | list[str | Component]


def aria(**names: str) -> dict[str, Any]:
    """``**aria(label="x")`` where a component takes ``aria-label``."""
    return {f"aria-{name}": value for name, value in names.items()}


def data(**names: str) -> dict[str, Any]:
    """``**data(run="x")`` where a component takes ``data-run``."""
    return {f"data-{name}": value for name, value in names.items()}


def icon(name: str) -> Component:
    """A lucide icon in the colour of the text around it; decoration, so hidden from readers."""
    return html.Span(className=f"icon icon-{name}", **aria(hidden="true"))


def card(*children: Component, id: str, label: str, className: str = "") -> Component:
    """A panel that screen readers can jump to."""
    return html.Section(
        list(children), id=id, className=f"card {className}".strip(), **aria(label=label)
    )


def figure(
    id: str,
    label: str,
    *,
    symbol: str | None = None,
    bar: bool = False,
    beside: bool = False,
    hidden: bool = False,
) -> Component:
    """One figure of a strip: a label, the number, and a line under it."""
    number: list[str | Component] = [html.Span("–", id=f"{id}-value", className="figure-value")]
    if beside:
        number.append(html.Span("", id=f"{id}-beside", className="figure-beside"))
    under: Component = html.Div("", id=f"{id}-note", className="figure-note")
    if bar:
        under = html.Div(
            [under, html.Div(html.Div(id=f"{id}-bar"), className="bar", id=f"{id}-track")]
        )
    title: list[str | Component] = [icon(symbol), label] if symbol else [label]
    return html.Div(
        [html.Div(title, className="figure-label"), html.Div(number), under],
        className="figure",
        id=id,
        hidden=hidden,
    )
