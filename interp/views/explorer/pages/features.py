"""All features: a table to sort, filter and search, and two maps of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from dash_ag_grid import AgGrid

from interp.errors import UserError, unknown
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, Query, address
from interp.views.explorer.parts import graph, labelled, note
from interp.views.explorer.table import BY_KEY, COLUMNS, find_rows, row_of
from interp.views.feature_figures import COLOURS, feature_map, rate_against_effect

VIEWS = {"": "table", "map": "map of directions", "effect": "how often against effect"}
BLOCK = 100


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """Search box, tabs, and what the chosen tab shows."""
    view = parts[0] if parts else ""
    if view not in VIEWS:
        raise unknown("view", view, [name for name in VIEWS if name])
    text = query.get("q", "")
    box = dcc.Input(
        id="search", value=text, type="search", placeholder="search labels, tokens and examples: capital cities",
        maxLength=200,
    )  # fmt: skip
    tabs = html.Nav(
        [
            dcc.Link(title, href=address("features", name, q=text),
                     className="choice here" if name == view else "choice")
            for name, title in VIEWS.items()
        ],
        className="choices",
    )  # fmt: skip
    body = _table(query) if view == "" else _map(context, view, text, query)
    return html.Div(
        [
            dcc.Store(id="search-text", data=text),  # what was typed last, told by assets/explorer.js
            dcc.Store(id="search-state"),
            dcc.Store(id="map-state"),
            html.H1("Features", className="hidden"),
            html.Div([labelled("search features", box), tabs], className="bar"),
            body,
        ]
    )


def _table(query: Query) -> Component:
    sort, _, way = query.get("sort", "").partition(":")
    heads: list[dict[str, Any]] = []
    for column in COLUMNS:
        one: dict[str, Any] = {
            "field": column.key, "headerName": column.head, "headerTooltip": column.meaning, "width": column.width,
            "filter": "agNumberColumnFilter", "type": "rightAligned",
        }  # fmt: skip
        heads.append(one | ({"sort": "asc" if way == "asc" else "desc"} if sort == column.key else {}))
    name = {"field": "label", "headerName": "label", "tooltipField": "label", "flex": 2, "minWidth": 220,
            "sortable": False, "cellClassRules": {"weak": "params.data && params.data.weak"},
            "filter": "agTextColumnFilter", "filterParams": {"filterOptions": ["contains"], "maxNumConditions": 1},
            "headerTooltip": "a rule that was made from the firings, or what a language model said"}  # fmt: skip
    typical = {"field": "tokens", "headerName": "fires most on", "tooltipField": "tokens", "flex": 1,
               "minWidth": 160, "sortable": False, "filter": False,
               "headerTooltip": "tokens with most of its activation"}  # fmt: skip
    grid = AgGrid(
        id="grid",
        columnDefs=[heads[0], name, *heads[1:], typical],
        defaultColDef={"sortable": True, "resizable": True, "wrapHeaderText": True, "autoHeaderHeight": True},
        rowModelType="infinite",
        filterModel=_filters(query),
        dashGridOptions={
            "cacheBlockSize": BLOCK, "infiniteInitialRowCount": 1, "maxBlocksInCache": 20, "rowHeight": 34,
            "animateRows": False, "tooltipShowDelay": 300,
            "ensureDomOrder": True,
        },
        style={"height": "calc(100vh - 215px)", "minHeight": "320px"},
    )  # fmt: skip
    return html.Div([html.P(id="found", className="note", role="status"), grid, dcc.Store(id="grid-state")])


def _filters(query: Query) -> dict[str, Any]:
    """The grid's filters as the address holds them. Raises UserError for what is none."""
    text = query.get("filter", "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("the filter in the address is no JSON; open the table anew") from error
    if not isinstance(found, dict) or any(key not in {*BY_KEY, "label"} for key in found):
        raise UserError("the filter in the address names columns that there are not; open the table anew")
    return found


def _map(context: Context, view: str, text: str, query: Query) -> Component:
    shown = find_rows(context.index, text) if text.strip() else None
    if shown is not None and len(shown) == 0:
        return note(nothing_found(text))
    if view == "effect":
        figure = rate_against_effect(context.index, shown)
        told = "Each dot is a feature; click one to open it. The band is what random directions as long do to the loss."
        return html.Div([note(told), graph(figure, "map")])
    colour = query.get("colour", "rate")
    chooser = html.Div(
        [html.Span("colour: "), *(
            dcc.Link(kind.title, href=address("features", "map", q=text, colour=name),
                     className="choice here" if name == colour else "choice")
            for name, kind in COLOURS.items()
        )],
        className="choices",
    )  # fmt: skip
    told = (
        "Each dot is a feature; click one to open it. Near dots point in like directions, as far as a plane can show."
    )
    return html.Div([chooser, note(told), graph(feature_map(context.index, shown, colour), "map")])


def nothing_found(text: str) -> str:
    """What to do when a search found nothing."""
    return f"Nothing like “{text[:80]}” in labels, tokens or examples. Try one word, or another spelling."


def register(app: Dash, context: Context) -> None:
    """The grid asks for blocks of rows; a click on a dot opens the feature."""

    @app.callback(
        Output("grid", "getRowsResponse"),
        Output("found", "children"),
        Output("found", "className"),
        Input("grid", "getRowsRequest"),
        State("search-text", "data"),
        prevent_initial_call=True,
    )
    def rows(asked: dict[str, Any] | None, text: str | None) -> tuple[Any, Any, Any]:
        if not asked:
            return no_update, no_update, no_update
        try:
            chosen = find_rows(context.index, text or "", asked.get("sortModel") or [], asked.get("filterModel"))
        except UserError as error:
            return {"rowData": [], "rowCount": 0}, str(error), "problem"
        start, stop = int(asked["startRow"]), min(int(asked["endRow"]), int(asked["startRow"]) + 10 * BLOCK)
        block = [row_of(context.index, int(number)) for number in chosen[start:stop]]
        return {"rowData": block, "rowCount": len(chosen)}, _counted(context, chosen, text or "", asked), "note"

    app.clientside_callback(
        ClientsideFunction("explorer", "searched"), Output("search-state", "data"), Input("search-text", "data"),
        State("address", "pathname"), prevent_initial_call=True,
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("explorer", "arranged"), Output("grid-state", "data"), Input("grid", "columnState"),
        Input("grid", "filterModel"), prevent_initial_call=True,
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("explorer", "dot"), Output("map-state", "data"), Input("map", "clickData"),
        prevent_initial_call=True,
    )  # fmt: skip


def _counted(context: Context, chosen: np.ndarray[Any, Any], text: str, asked: dict[str, Any]) -> str:
    n, total = len(chosen), len(context.index)
    if n == 0 and text.strip():
        return nothing_found(text)
    if n == 0:
        return "No feature passes these filters. Loosen or remove one."
    told = f"{n:,} of {total:,} features" if n < total else f"{total:,} features"
    return told + (", best fit first" if text.strip() and not asked.get("sortModel") else "")


PAGE = Page("features", "features", layout, register)
