"""One feature: what it fires on, how often, with what, what it does; and the same for what the dictionary misses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dash import dcc, html
from dash.development.base_component import Component

from interp.features.read.feature import Example, Feature
from interp.features.read.index import ERROR
from interp.views.explorer.context import WEAK, Context
from interp.views.explorer.page import Page, Query, address, whole_number
from interp.views.explorer.pages.prompt import EXAMPLE
from interp.views.explorer.parts import Group, aria, examples, explained, facts, feature_link, graph, note, section
from interp.views.feature_figures import activation_histogram, cofiring_bars, logit_bars
from interp.views.feature_words import HINTS, MEANINGS, band_title
from interp.views.token_text import visible

WINDOW = 14
SHOWN = 12  # of the strongest examples
Fact = tuple[Component | str, Component | str]


def layout(context: Context, parts: Sequence[str], query: Query) -> Component:
    """The feature that the path names; `doc` in the query opens a whole document."""
    index = context.index
    wanted = parts[0] if parts else str(context.best_named)
    if wanted == ERROR:
        return _error(context)
    number = index.check(wanted)
    feature = index.feature(number, window=WINDOW, top=SHOWN)
    whole = query.get("doc", "")
    if whole:
        document = whole_number(query, "doc", 0, 0, index.sizes["document"] - 1)
        return html.Div([_head(context, feature), _document(context, feature, document)])
    return html.Div([_head(context, feature), html.Div([_left(feature), _right(context, feature)], className="two")])


def _head(context: Context, feature: Feature) -> Component:
    n, label = len(context.index), feature.label
    before, after = (feature.number - 1) % n, (feature.number + 1) % n
    by = f" · named by {visible(label.by)}"
    score = "not known" if math.isnan(label.score) else f"{label.score:.2f}"
    return html.Div(
        [
            html.Nav(
                [
                    dcc.Link("‹ previous", href=address("feature", before), id="previous"),
                    dcc.Link("next ›", href=address("feature", after), id="next"),
                    dcc.Link("what no feature covers", href=address("feature", ERROR)),
                ],
                className="steps",
                **aria("features"),
            ),
            html.H1(
                [html.Span(f"feature {feature.number} ", className="number"), visible(label.text)],
                className="weak" if label.score < WEAK else "",
            ),
            html.P(
                [_meant("label's score"), f" {score}{_parts_of_score(feature)}", html.Span(by, className="unit")],
                className="score",
            ),
            _steer(context, feature),
        ]
    )  # fmt: skip


def _steer(context: Context, feature: Feature) -> Component | None:
    """Where to change it, with a model."""
    if context.live is None or not feature.firings:
        return None
    href = address("steer", text=EXAMPLE, set=f"{feature.number}={feature.maximum:.3g}")
    return html.P(dcc.Link("hold it at its strongest while the model writes", href=href))


def _parts_of_score(feature: Feature) -> str:
    label = feature.label
    if math.isnan(label.precision) or math.isnan(label.recall):
        return ""
    return f" · of the tokens it names {label.precision:.0%} fire, of those that fire it names {label.recall:.0%}"


def _left(feature: Feature) -> Component:
    """Examples."""
    if not feature.top:
        return html.Div(note(HINTS["silent"]))

    def link(one: Example) -> str:
        return address("feature", feature.number, doc=one.document)

    groups = [Group(feature.top, "Strongest examples", HINTS["top"], link=link)]
    groups.append(Group((), "Examples by strength", HINTS["bands"]))
    count = len(feature.bands)
    for i, some in enumerate(feature.bands):
        groups.append(Group(some, band_title(i, count), empty="" if some else "too few firings", level=3, link=link))
    return html.Div(examples("feature", groups, feature.maximum), className="left")


def _right(context: Context, feature: Feature) -> Component:
    """Numbers, pictures and neighbours."""
    labels = context.index.labels
    near = [(one.feature, f" cosine {one.closeness:.2f}") for one in feature.near]
    together = [(one.feature, f" correlation {one.closeness:.2f}, {one.count:,} tokens") for one in feature.fires_with]
    lists = [
        html.Ul([html.Li(feature_link(other, labels[other], told)) for other, told in some], className="links")
        for some in (together, near)
    ]
    picture = graph(cofiring_bars(feature, context.names), "cofiring")
    return html.Div(
        [
            section("In numbers", facts(_numbers(feature))),
            section("How strongly it fires", graph(activation_histogram(feature), "histogram")),
            section("What it says next", graph(logit_bars(feature), "logits"), hint=HINTS["logits"]),
            section("Fires together with", picture, lists[0], hint=HINTS["together"]),
            section("Points the same way", lists[1] if near else note("none"), hint=HINTS["near"]),
        ],
        className="right",
    )


def _numbers(feature: Feature) -> list[Fact]:
    effect = feature.effect
    typical = ", ".join(f"“{visible(text)}” {share:.0%}" for text, share in feature.typical[:5]) or "–"
    rows: list[Fact] = [
        (_meant("fires on"), f"{feature.rate:.3%} of tokens ({feature.firings:,})"),
        ("strongest, mean", f"{feature.maximum:.3g}, {feature.mean:.3g}"),
        (_meant("its tokens"), typical),
        (_meant("token alone explains"), _percent(feature.by_token)),
        (_meant("place in the text"), _signed(feature.by_position)),
        (_meant("later piece of a word"), _signed(feature.by_word)),
    ]
    if effect.n == 0:
        return [*rows, ("effect when ablated", "not measured")]
    ends = "" if math.isnan(effect.low) else f" [{effect.low:+.3f}, {effect.high:+.3f}]"
    told = f"{effect.mean:+.3f} nats{ends} over {effect.n} firings"
    return [*rows, (_meant("effect when ablated"), told), (_meant("control"), f"{effect.random:+.3f} nats")]


def _meant(term: str) -> Component:
    return explained(term, MEANINGS[term])


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _document(context: Context, feature: Feature, number: int) -> Component:
    index = context.index
    shown = index.document(number, index.firings(feature.number))
    file, row = index.source(number)
    return section(
        f"Document {number}",
        html.Div(examples("document", [Group([shown], values=[""])], feature.maximum), className="whole"),
        dcc.Link("back to the feature", href=address("feature", feature.number)),
        hint=f"{visible(file)}, row {row}; {len(shown.tokens):,} tokens, this feature's activation shaded.",
    )


def _error(context: Context) -> Component:
    index = context.index
    mean, low, high = (float(v) for v in index["error_effect"])
    rows: list[Fact] = [("missed in all", f"{index.record['summary']['missed']:.1%} of the activations' squared norm")]
    if not math.isnan(mean):
        rows.append((_meant("effect when taken away"), f"{mean:+.3f} nats [{low:+.3f}, {high:+.3f}]"))
    found = index.errors(WINDOW)
    missed = Group([one for _, one in found], hint=HINTS["missed"], values=[f"{share:.0%}" for share, _ in found])
    return html.Div(
        [
            html.H1("What the dictionary misses"),
            note(HINTS["error"]),
            section("In numbers", facts(rows)),
            section("Where it misses most", examples("error", [missed], 0.0)),
        ]
    )


PAGE = Page("feature", "one feature", layout)
