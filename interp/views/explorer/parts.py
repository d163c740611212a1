"""Pieces that several pages show: tokens with their activation, terms explained, tables, links, figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from interp.errors import UserError
from interp.features.read.feature import Example, Label
from interp.views.explorer.page import address
from interp.views.style import faded
from interp.views.token_text import visible

SHADE = "#E69F00"  # dark text on it keeps a contrast above 7
GRAPH: Any = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": "", "responsive": True}
GRAPH |= {"modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]]}


def graph(figure: go.Figure, name: str) -> Component:
    """A figure on a page."""
    height = int(figure.to_dict()["layout"].get("height", 300))
    return dcc.Graph(id=name, figure=figure, config=GRAPH, style={"height": f"{height}px"})


def token(text: str, share: float, told: str, *, peak: bool = False) -> Component:
    """One token, shaded by its share of the strongest activation."""
    style = {"backgroundColor": faded(SHADE, round(min(max(share, 0.0), 1.0) * 0.9, 3))} if share > 0 else {}
    return html.Span(visible(text), className="token peak" if peak else "token", style=style, title=told or None)


@dataclass(frozen=True)
class Group:
    """Examples under one title. `link` gives the address of an example's whole document; `level` is the title's."""

    examples: Sequence[Example]
    title: str = ""
    hint: str = ""
    empty: str = ""
    level: int = 2
    link: Callable[[Example], str] | None = None
    values: Sequence[str] | None = None
    """What stands before each example: by default the activation at its token."""


def examples(name: str, groups: Sequence[Group], top: float) -> Component:
    """Contexts, their tokens shaded up to the activation `top`; `assets/examples.js` draws them in the browser."""
    told = {"top": top, "groups": [_told(group) for group in groups]}
    return html.Div([dcc.Store(id={"examples": name}, data=told), html.Div(id={"drawn": name}, className="drawn")])


def _told(group: Group) -> dict[str, Any]:
    link = group.link or (lambda one: "")
    values = group.values or [f"{one.activations[one.peak]:.2f}" for one in group.examples]
    shown = [
        {
            "tokens": [visible(text) for text in one.tokens],
            "activations": [round(value, 4) for value in one.activations],
            "peak": one.peak if value else -1,
            "value": value,
            "link": link(one),
        }
        for one, value in zip(group.examples, values, strict=True)
    ]
    texts = {"title": group.title, "hint": group.hint, "empty": group.empty, "level": group.level}
    return texts | {"examples": shown}


def feature_link(number: int, label: Label, more: str = "") -> Component:
    """A link to a feature: its number, its name, and what stands behind them."""
    link = dcc.Link(str(number), href=address("feature", number), className="number")
    pieces = [link, " ", html.Span(visible(label.text)), html.Span(more, className="unit")]
    return html.Span(pieces, className="feature-link")


def explained(term: str, meaning: str) -> Component:
    """A term that tells its meaning when pointed at or focused."""
    return html.Abbr(term, title=meaning, tabIndex=0, **aria(f"{term}: {meaning}"))


def labelled(name: str, control: Component) -> Component:
    """A control with a name that is read out and not shown."""
    return html.Label([html.Span(name, className="hidden"), control])


def aria(label: str) -> Any:
    """What a part of a page is called when it is read out."""
    return {"aria-label": label}


def facts(rows: Sequence[tuple[Component | str, Component | str | Sequence[Component | str]]]) -> Component:
    """Names and values, one pair a line."""
    return html.Dl([piece for name, value in rows for piece in (html.Dt(name), html.Dd(value))], className="facts")


def note(text: str, kind: str = "note") -> Component:
    """A line that says what goes on."""
    return html.P(text, className=kind, role="status")


def note_with_link(text: str, link: str, href: str) -> Component:
    """A line that says what goes on, and where to go."""
    return html.P([text, dcc.Link(link, href=href)], className="note")


def problem(text: str) -> Component:
    """A line that says what went wrong."""
    return html.P(text, className="problem", role="alert")


def below(head: Sequence[Component], make: Callable[[], Sequence[Component]]) -> Component:
    """A page's head, and below it what `make` returns, or in one line why it cannot: what was written stays there."""
    try:
        return html.Div([*head, *make()])
    except UserError as error:
        return html.Div([*head, problem(str(error))])


def section(title: str, *children: Component | str | None, hint: str = "") -> Component:
    """A titled part of a page."""
    head = [html.H2(title), html.P(hint, className="hint") if hint else None]
    return html.Section([*head, *children])
