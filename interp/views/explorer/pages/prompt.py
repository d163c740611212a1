"""A prompt of the user's: what fires where, what comes next, and what speaks for a token that may come next."""

from __future__ import annotations

from collections.abc import Sequence

from dash import Dash, Input, NoUpdate, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from interp.errors import UserError
from interp.features.read.prompts import Live, NextToken, PromptReading
from interp.views.explorer.context import Context
from interp.views.explorer.page import Page, Query, address, search_of
from interp.views.explorer.parts import below, feature_link, graph, labelled, note, note_with_link, section, token
from interp.views.feature_figures import attribution_bars, next_token_bars, prompt_heat
from interp.views.token_text import visible

EXAMPLE = "Here is a fact. The capital of France is"
ROWS = 14  # features in the heat map
EACH = 4  # features listed at a token
ATTRIBUTED = 14
LONGEST = 4000  # characters
HINTS = {
    "fires": "Darker tokens have a stronger feature; point at one to see which. Attention sinks are left out: their "
    "vectors are a hundred times longer and say little.",
    "next": "Choose a token to see what speaks for it.",
}


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """The prompt's box, and what the model makes of it."""
    text, live = query.get("text", ""), context.live
    assert live is not None
    head = [html.H1("A prompt"), prompt_box("prompt", text, "read it")]
    if not text:
        return html.Div(
            [
                *head,
                note(f"Write a prompt and press Ctrl+Enter. {live.name} reads it, nothing leaves this machine."),
                _example(),
            ]
        )
    return below(head, lambda: _read(context, live, text, query))


def _read(context: Context, live: Live, text: str, query: Query) -> list[Component]:
    reading = live.read(text)
    chosen = _chosen(live, reading, query)
    most = largest(reading)
    strongest = sorted(most, key=lambda feature: (-most[feature], feature))[:ROWS]
    heat = graph(prompt_heat(reading, strongest, context.names), "heat")
    likely = graph(next_token_bars([("", reading.next)]), "next")
    return [
        section("What fires where", _tokens(context, reading), heat, hint=HINTS["fires"]),
        section("What comes next", likely, _choices(text, reading, chosen), hint=HINTS["next"]),
        _speaks(context, live, text, chosen),
        html.P(dcc.Link("steer this prompt", href=address("steer", text=text))),
    ]


def prompt_box(name: str, text: str, button: str, label: str = "prompt") -> Component:
    """A box for a prompt, and its button; Ctrl+Enter presses it."""
    box = dcc.Textarea(id=f"{name}-text", value=text, maxLength=LONGEST, rows=3, spellCheck=False, className="prompt")
    return html.Div(
        [labelled(label, box), html.Button(button, id=f"{name}-go", n_clicks=0, type="button")], className="box"
    )


def _example() -> Component:
    return html.P(["for example: ", dcc.Link(EXAMPLE, href=address("prompt", text=EXAMPLE))])


def largest(reading: PromptReading) -> dict[int, float]:
    """The largest activation over the prompt of every feature that fires on it."""
    most: dict[int, float] = {}
    for active in reading.features:
        for one in active:
            most[one.feature] = max(most.get(one.feature, 0.0), one.activation)
    return most


def _tokens(context: Context, reading: PromptReading) -> Component:
    top = max((active[0].activation for active in reading.features if active), default=0.0)
    shown = []
    for text, sink, active in zip(reading.tokens, reading.is_sink, reading.features, strict=True):
        told = "; ".join(
            f"{one.feature} {context.names.get(one.feature, '')} ({one.activation:.3g})" for one in active[:EACH]
        )
        shown.append(
            token(
                text, active[0].activation / top if active and top else 0.0, "attention sink" if sink else visible(told)
            )
        )
    return html.P(shown, className="tokens prompt-tokens")


def _chosen(live: Live, reading: PromptReading, query: Query) -> NextToken:
    """The next token that is asked about: the address', else the likeliest."""
    text = query.get("next", "")
    if not text:
        return reading.next[0]
    known = next((one for one in reading.next if one.text == text), None)
    return known or NextToken(live.token_id(text), text, float("nan"))


def _choices(text: str, reading: PromptReading, chosen: NextToken) -> Component:
    links = [
        dcc.Link(visible(one.text).replace(" ", "␣"), href=address("prompt", text=text, next=one.text),
                 className="choice here" if one.token == chosen.token else "choice")
        for one in reading.next
    ]  # fmt: skip
    other = dcc.Input(
        id="next-token",
        placeholder="another token",
        maxLength=80,
        className="short",
    )
    return html.Div([*links, labelled("another next token", other)], className="choices")


def _speaks(context: Context, live: Live, text: str, chosen: NextToken) -> Component:
    parts = live.attribute(text, chosen.token, ATTRIBUTED)
    labels = context.index.labels
    links = [
        html.Li(feature_link(one.feature, labels[one.feature], f" {one.effect:+.3f} nats"))
        for one in parts
        if one.feature is not None
    ]
    return section(
        f"What speaks for “{visible(chosen.text)}”",
        _with_blank(live, text, chosen),
        graph(attribution_bars(parts, context.names), "attribution"),
        html.Ul(links, className="links"),
        hint="Each part is taken away at all tokens, alone, and the log-probability is measured again: to the right it "
        "spoke for the token. In grey what no feature stands for. The parts were picked by gradient times activation.",
    )


def _with_blank(live: Live, text: str, chosen: NextToken) -> Component | None:
    """A word typed without its blank is another token than the one that follows in running text."""
    blank = f" {chosen.text}"
    if not chosen.text[:1].isalnum() or text[-1:].isspace():
        return None
    try:
        live.token_id(blank)
    except UserError:
        return None
    href = address("prompt", text=text, next=blank)
    return note_with_link("This token begins without a blank. ", f"Ask about “{visible(blank)}”", href)


def register(app: Dash, context: Context) -> None:
    """A prompt goes to the address, and so does a token that is typed."""

    @app.callback(
        Output("address", "search", allow_duplicate=True),
        Input("prompt-go", "n_clicks"),
        State("prompt-text", "value"),
        prevent_initial_call=True,
    )
    def ask(clicks: int | None, text: str | None) -> str | NoUpdate:
        return search_of(text=text) if clicks and text else no_update

    @app.callback(
        Output("address", "search", allow_duplicate=True),
        Input("next-token", "n_submit"),
        State("next-token", "value"),
        State("prompt-text", "value"),
        prevent_initial_call=True,
    )
    def other(times: int | None, token_text: str | None, text: str | None) -> str | NoUpdate:
        return search_of(text=text, next=token_text) if times and token_text else no_update


PAGE = Page("prompt", "prompt", layout, register, needs_model=True)
