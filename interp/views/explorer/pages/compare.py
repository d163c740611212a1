"""Two prompts under one SAE, or two SAEs on the same text: what fires here and not there."""

from __future__ import annotations

from collections.abc import Sequence

from dash import Dash, Input, NoUpdate, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from interp.features.read.compare import match_features
from interp.features.read.index import Index
from interp.features.read.prompts import Live
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, Query, address, search_of, whole_number
from interp.views.explorer.pages.prompt import largest, prompt_box
from interp.views.explorer.parts import Group, below, examples, feature_link, graph, labelled, note, section
from interp.views.feature_figures import next_token_bars, prompt_heat
from interp.views.token_text import visible

FIRST, SECOND = "a miniature tower stood there", "a large tower stood there"
MOST = 12
EXAMPLES = 5
DIFFER = "By each feature's largest activation over the prompt, attention sinks left out."
NEEDS = (
    "Two prompts need a model: start the explorer with --model NAME. Two SAEs need a second index of the same text: "
    "--beside INDEX."
)


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """Prompts side by side with a model, dictionaries side by side with a second index."""
    shown: list[Component] = [html.H1("Compare")]
    if context.live is None and context.beside is None:
        return html.Div([*shown, note(NEEDS)])
    if context.beside is not None:
        shown.append(_dictionaries(context, context.beside, query))
    if context.live is not None:
        shown.append(_prompts(context, query))
    return html.Div(shown)


def _prompts(context: Context, query: Query) -> Component:
    assert context.live is not None
    one, other = query.get("a", ""), query.get("b", "")
    form = html.Div(
        [prompt_box("first", one, "compare", "first prompt"), prompt_box("second", other, "compare", "second prompt")],
        className="two",
    )
    if not one or not other:
        href = address("compare", a=FIRST, b=SECOND)
        return section(
            "Two prompts", form, html.P(["for example: ", dcc.Link(f"“{FIRST}” beside “{SECOND}”", href=href)])
        )
    live = context.live
    return below([html.H2("Two prompts"), form], lambda: _differ(context, live, one, other))


def _differ(context: Context, live: Live, one: str, other: str) -> list[Component]:
    readings = [live.read(text) for text in (one, other)]
    most = [largest(reading) for reading in readings]
    gap = {f: most[0].get(f, 0.0) - most[1].get(f, 0.0) for f in {*most[0], *most[1]}}
    order = sorted(gap, key=lambda f: (-abs(gap[f]), f))[:MOST]
    labels = context.index.labels
    rows = [
        html.Tr([html.Td(feature_link(f, labels[f])), *(html.Td(number, className="figure") for number in numbers)])
        for f in order
        for numbers in [[*(f"{m.get(f, 0.0):.3g}" for m in most), f"{gap[f]:+.3g}".replace("-", "−")]]
    ]
    head = html.Tr([html.Th("feature"), html.Th("first prompt"), html.Th("second prompt"), html.Th("difference")])
    heats = [graph(prompt_heat(reading, order, context.names), f"heat-{i}") for i, reading in enumerate(readings)]
    both = [(visible(text)[-40:], reading.next) for text, reading in zip((one, other), readings, strict=True)]
    table = html.Div(html.Table([html.Thead(head), html.Tbody(rows)]), className="scroll")
    return [
        section("The features that differ most", table, html.Div(heats, className="two"), hint=DIFFER),
        section("What comes next", graph(next_token_bars(both), "next-both")),
    ]


def _dictionaries(context: Context, beside: Index, query: Query) -> Component:
    ours, number = context.index, whole_number(query, "feature", 0, 0, len(context.index) - 1)
    box = dcc.Input(
        id="compare-feature",
        value=str(number),
        type="text",
        inputMode="numeric",
        className="short",
    )
    found, sae = match_features(ours, number, beside, MOST), beside.record["plan"]["sae"]
    labels = beside.labels
    rows = [
        html.Li(
            [
                html.Span(f"{one.feature} {visible(labels[one.feature].text)}"),
                html.Span(f" correlation {one.closeness:.2f}, both on {one.count:,} tokens", className="unit"),
            ]
        )
        for one in found
    ]
    here = ours.feature(number, top=EXAMPLES)
    columns = [html.Div([html.H3("here"), feature_link(number, ours.labels[number]), _examples(ours, number, "here")])]
    if found:
        best = found[0].feature
        columns.append(
            html.Div(
                [
                    html.H3("its best match there"),
                    html.Span(f"{best} {visible(labels[best].text)}"),
                    _examples(beside, best, "there"),
                ]
            )
        )
    told = (
        note("No feature of the other dictionary fires where this one does.")
        if here.firings
        else note("This feature never fires on this text.")
    )
    return section(
        "Two SAEs",
        labelled(f"feature of {len(ours):,}", box),
        html.Ol(rows, className="links") if rows else told,
        html.Div(columns, className="two"),
        hint=f"The {len(beside):,} features of the second index ({sae['kind']} at {sae['site']}) by the correlation of "
        "their firing with this one's, on the same tokens.",
    )


def _examples(index: Index, number: int, name: str) -> Component:
    feature = index.feature(number, top=EXAMPLES)
    return examples(name, [Group(feature.top)], feature.maximum)


def register(app: Dash, context: Context) -> None:
    """Both prompts go to the address, and so does the feature."""

    @app.callback(
        Output("address", "search", allow_duplicate=True),
        Input("first-go", "n_clicks"),
        Input("second-go", "n_clicks"),
        State("first-text", "value"),
        State("second-text", "value"),
        State("compare-feature", "value", allow_optional=True),
        prevent_initial_call=True,
    )
    def compare(
        first: int | None, second: int | None, one: str | None, other: str | None, feature: str | None
    ) -> str | NoUpdate:
        return search_of(a=one, b=other, feature=feature) if first or second else no_update

    @app.callback(
        Output("address", "search", allow_duplicate=True),
        Input("compare-feature", "n_submit"),
        State("compare-feature", "value"),
        State("first-text", "value", allow_optional=True),
        State("second-text", "value", allow_optional=True),
        prevent_initial_call=True,
    )
    def choose(times: int | None, feature: str | None, one: str | None, other: str | None) -> str | NoUpdate:
        return search_of(a=one, b=other, feature=feature) if times else no_update


PAGE = Page("compare", "compare", layout, register)
