"""Change features and see what the model says: beside it as it is, and beside a random direction as long."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dash import Dash, Input, NoUpdate, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from interp.errors import UserError
from interp.features.read.prompts import Continuation, Live
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, Query, address, search_of, whole_number
from interp.views.explorer.pages.prompt import EXAMPLE, prompt_box
from interp.views.explorer.parts import below, feature_link, graph, note, section
from interp.views.feature_figures import next_token_bars
from interp.views.token_text import visible

MOST = 8  # features at once
NEW, NEW_MOST = 20, 60
HINTS = {
    "empty": "Write a prompt, and which features to hold at which activation.",
    "changed": "At every token but attention sinks; what the SAE misses is left as it is.",
    "writes": "The likeliest token each time. The random direction is, at every token, as long as the change there: "
    "any push of that size does something.",
}


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """The prompt, the changes, and the three continuations."""
    text, told, live = query.get("text", ""), query.get("set", ""), context.live
    assert live is not None
    form = html.Div(
        [
            prompt_box("steer", text, "change it"),
            html.Label(
                [
                    "set features to activations ",
                    dcc.Input(
                        id="steer-set", value=told, placeholder="1866=60, 12=0", maxLength=200, className="changes"
                    ),
                ]
            ),
            html.Span("feature=activation, parted by commas; 0 takes a feature away", className="unit"),
        ],
        className="form",
    )
    head = [html.H1("Steer"), form]
    if not text or not told:
        suggestion = _suggestion(context)
        href = address("steer", text=text or EXAMPLE, set=suggestion)
        example = dcc.Link(f"{suggestion} on “{visible(text or EXAMPLE)[:60]}”", href=href)
        return html.Div([*head, note(HINTS["empty"]), html.P(["for example: ", example])])
    return below(head, lambda: _changed(context, live, text, query))


def _changed(context: Context, live: Live, text: str, query: Query) -> list[Component]:
    changes = read_changes(query.get("set", ""), len(context.index))
    found = live.change(text, changes, new_tokens=whole_number(query, "new", NEW, 1, NEW_MOST))
    labels, strongest = context.index.labels, context.index["maximum"]
    what = [
        html.Li(feature_link(f, labels[f], f" held at {value:g}; its strongest on this text is {strongest[f]:.3g}"))
        for f, value in changes.items()
    ]
    said = html.Div([_said(text, one) for one in found], className="three")
    likely = next_token_bars([(one.condition, one.next) for one in found])
    return [
        section("Changed", html.Ul(what, className="links"), hint=HINTS["changed"]),
        section("What the model writes", said, hint=HINTS["writes"]),
        section("What comes next", graph(likely, "steered")),
    ]


def _said(prompt: str, one: Continuation) -> Component:
    """The prompt in grey, and what one condition made of it."""
    text = [html.Span(visible(prompt), className="given"), html.Span(visible(one.text))]
    return html.Div([html.H3(one.condition), html.P(text, className="tokens")], className="said")


def _suggestion(context: Context) -> str:
    """A feature of some strength whose label says something."""
    best = context.best_named
    return f"{best}={float(context.index['maximum'][best]):.3g}"


def read_changes(text: str, n: int) -> dict[int, float]:
    """`1866=60, 12=0` as {1866: 60.0, 12: 0.0}. Raises UserError for anything else."""
    changes: dict[int, float] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        found = re.fullmatch(r"(\d{1,9})\s*[=:]\s*(-?\d+(?:\.\d*)?(?:e[+-]?\d{1,2})?)", piece)
        if not found:
            raise UserError(
                f"{piece[:40]!r} is no change; expected FEATURE=ACTIVATION with a feature from 0 to {n - 1}"
            )
        if int(found[1]) >= n:
            raise UserError(f"there is no feature {found[1]}; expected 0 to {n - 1}")
        changes[int(found[1])] = float(found[2])
    if not 0 < len(changes) <= MOST:
        raise UserError(f"{len(changes)} changes came; expected 1 to {MOST}, such as 1866=60, 12=0")
    return changes


def register(app: Dash, context: Context) -> None:
    """Prompt and changes go to the address."""

    @app.callback(
        Output("address", "search", allow_duplicate=True),
        Input("steer-go", "n_clicks"),
        Input("steer-set", "n_submit"),
        State("steer-text", "value"),
        State("steer-set", "value"),
        prevent_initial_call=True,
    )
    def change(clicks: int | None, times: int | None, text: str | None, told: str | None) -> str | NoUpdate:
        return search_of(text=text, set=told) if clicks or times else no_update


PAGE = Page("steer", "steer", layout, register, needs_model=True)
