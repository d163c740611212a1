"""The Dash app: a header, and below it the page that the address names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from dash import MATCH, ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from interp.errors import UserError, nearest
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, address, prefix
from interp.views.explorer.pages import compare, feature, features, prompt, runs, steer
from interp.views.explorer.parts import aria, note, problem

PAGES: tuple[Page, ...] = (features.PAGE, feature.PAGE, prompt.PAGE, steer.PAGE, compare.PAGE, runs.PAGE)
HOW_TO_ADD_A_MODEL = "needs a model: start the explorer with --model NAME"
HELP = "keys: / searches, j or → the next feature, k or ← the previous one, Tab and arrows move, Enter opens a row"
OFF: Any = {"aria-disabled": "true"}
LONGEST = 20_000  # characters of an address


def build_app(context: Context) -> Dash:
    """The explorer of an index, ready to be served. Needs no torch: what needs a model is behind `context.live`."""
    app = Dash(
        "interp.views.explorer",
        title="interp explorer",
        update_title="",  # a changing title is read out again and again
        serve_locally=True,
        suppress_callback_exceptions=True,  # pages come and go
        assets_folder="assets",
        include_pages_meta=False,
    )
    app.index_string = app.index_string.replace("{%favicon%}", '<link rel="icon" href="data:,">')
    app.layout = html.Div(
        [
            dcc.Location(id="address", refresh="callback-nav"),
            html.A("to the content", href="#page", className="skip"),
            html.Header([_told(context), html.Nav(id="menu", **aria("pages"))]),
            html.P(id="trouble", className="problem", role="alert", hidden=True),  # filled in by explorer.js
            dcc.Loading(
                html.Main(id="page", tabIndex=-1),
                id="loading",
                delay_show=250,
                overlay_style={"visibility": "visible", "opacity": 0.4},
                custom_spinner=html.P("one moment …", role="status"),
            ),
            html.Footer(HELP),
        ]
    )

    @app.callback(
        Output("page", "children"),
        Output("menu", "children"),
        Input("address", "pathname"),
        Input("address", "search"),
    )
    def show(path: str | None, search: str | None) -> tuple[Component, list[Component]]:
        path = (path or "/").removeprefix(prefix())
        return page_at(context, path, search or ""), _menu(context, _parts(path))

    app.clientside_callback(
        ClientsideFunction("explorer", "examples"),
        Output({"drawn": MATCH}, "title"),
        Input({"examples": MATCH}, "data"),
        State({"drawn": MATCH}, "id"),
    )
    for page in PAGES:
        page.register(app, context)
    return app


def page_at(context: Context, path: str, search: str) -> Component:
    """What the address shows; what cannot be shown is said in one line."""
    try:
        if len(path) + len(search) > LONGEST:
            raise UserError(f"the address has over {LONGEST:,} characters; expected fewer; shorten the prompt")
        word, *rest = _parts(path) or [PAGES[0].word]
        page = next((page for page in PAGES if page.word == word), None)
        if page is None:
            near = ", ".join(nearest(word, [p.word for p in PAGES], 2))
            raise UserError(f"there is no page {word!r}; expected one of the menu; nearest: {near}")
        if page.needs_model and context.live is None:
            return html.Div([html.H1(page.title), note(f"This page {HOW_TO_ADD_A_MODEL}.")])
        return page.layout(context, rest, dict(parse_qsl(search.removeprefix("?"))))
    except UserError as error:
        return problem(str(error))
    except Exception as error:
        logging.getLogger(__name__).exception("a page failed")
        return problem(f"This page could not be made ({type(error).__name__}: {str(error)[:200]}). Please report it.")


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.split("/") if part]


def _told(context: Context) -> Component:
    """What is being looked at, in one line."""
    plan, sizes = context.index.record["plan"], context.index.sizes
    of = f"{plan['capture']['model']['name']} · {plan['sae']['site']}"
    told = f"{of} · {len(context.index):,} features · {sizes['row']:,} tokens"
    return html.P([dcc.Link("interp", href=prefix(), className="brand"), html.Span(told)], className="told")


def _menu(context: Context, parts: Sequence[str]) -> list[Component]:
    here = parts[0] if parts else PAGES[0].word
    out: list[Component] = []
    for page in PAGES:
        if not page.in_menu:
            continue
        if page.needs_model and context.live is None:
            out.append(html.Span(page.title, className="off", title=HOW_TO_ADD_A_MODEL, **OFF))
        else:
            out.append(dcc.Link(page.title, href=address(page.word), className="here" if page.word == here else ""))
    return out
