"""The explorer's pictures as functions: one feature's, a map of all of them, and what a prompt does.

Each takes what `interp.features` reads or measures and returns a plotly figure, for a page or a notebook:
`activation_histogram(open_index("index").feature(7)).show()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from interp.errors import unknown
from interp.features.read.feature import Feature
from interp.features.read.index import Index
from interp.features.read.prompts import NextToken, Part, PromptReading
from interp.views import style
from interp.views.tables import shortened, wrapped
from interp.views.token_text import visible

BLUE, ORANGE, GREEN = style.PALETTE[0], style.PALETTE[1], style.PALETTE[2]
GREY = "#afb8c1"
LETTERS = 26  # of a label on an axis
NEXT_SHOWN = 12
ROW = 26  # pixels of a bar


class Colour(NamedTuple):
    """What a map may be coloured by: its title with the unit, the number of a feature, and the scale."""

    title: str
    values: Callable[[Index], NDArray[Any]]
    is_log: bool = False
    is_signed: bool = False


COLOURS: dict[str, Colour] = {
    "rate": Colour("fires on (share of tokens)", lambda index: index["rate"], is_log=True),
    "effect": Colour("effect on the loss when ablated (nats)", lambda index: index["effect"][:, 0], is_signed=True),
    "label_score": Colour("label's score (correlation with firing)", lambda index: index["label_score"]),
    "by_token": Colour("variance explained by the token", lambda index: index["by_token"]),
}


def activation_histogram(feature: Feature) -> go.Figure:
    """How often a feature fires how strongly: counts of tokens in 40 equal bins from 0 to its maximum."""
    counts = feature.histogram.astype(float)
    edges = np.linspace(0, feature.maximum, len(counts) + 1)
    figure = _figure(260)
    figure.add_bar(
        x=((edges[:-1] + edges[1:]) / 2).tolist(),
        y=[n or None for n in counts.tolist()],
        width=float(edges[1] - edges[0]) * 0.92,
        marker_color=ORANGE,
        hovertext=[f"{a:.3g} to {b:.3g}: {n:.0f} tokens" for a, b, n in zip(edges, edges[1:], counts, strict=False)],
        hoverinfo="text",
    )
    figure.update_xaxes(title_text="activation", rangemode="tozero")
    figure.update_yaxes(title_text="tokens")
    present = counts[counts > 0]
    if len(present) == 0:
        return _say(figure, "This feature never fires on this text.")
    if present.max() / present.min() > 100:
        figure.update_yaxes(
            type="log", title_text="tokens (log scale)", dtick=1, range=[-0.3, math.log10(present.max()) + 0.2]
        )
    return figure


def logit_bars(feature: Feature) -> go.Figure:
    """The tokens that a feature's direction makes likelier and less likely, as the unembedding reads it directly."""
    rows = [(*one, BLUE) for one in feature.raises] + [(*one, ORANGE) for one in reversed(feature.lowers)]
    figure = _lying(
        [_token(text) for text, _, _ in rows],
        [value for _, value, _ in rows],
        [colour for *_, colour in rows],
        "logit less the mean logit, per unit of the direction (nats)",
    )
    return figure if rows else _say(figure, "This site does not write to the residual stream: no logits to read.")


def cofiring_bars(feature: Feature, names: Mapping[int, str]) -> go.Figure:
    """The features that fire with this one: correlation of the two firings, and on how many tokens both do."""
    rows = feature.fires_with
    figure = _lying(
        [_named(one.feature, names) for one in rows],
        [one.closeness for one in rows],
        [GREEN] * len(rows),
        "correlation of the firings (phi)",
        [f"both on {one.count:,} tokens" for one in rows],
    )
    return figure if rows else _say(figure, "No other feature fires where this one does.")


def feature_map(index: Index, shown: NDArray[np.int64] | None = None, colour: str = "rate") -> go.Figure:
    """All features by the first two principal components of their decoder directions; `shown` are in colour.

    `customdata` of a point is its feature's number. Raises UserError for a colour that is not in `COLOURS`.
    """
    if colour not in COLOURS:
        raise unknown("colour", colour, COLOURS)
    kind = COLOURS[colour]
    values = kind.values(index).astype(float)
    chosen = np.arange(len(index)) if shown is None else shown
    if kind.is_log:
        values = np.log10(np.where(values > 0, values, np.nan))
    figure = _figure(560)
    others = np.setdiff1d(np.arange(len(index)), chosen)
    if len(others):
        figure.add_trace(_dots(index, others, {"color": "#d8dee4", "size": 4}, hover=False))
    there = values[chosen][np.isfinite(values[chosen])]
    far = float(np.percentile(np.abs(there), 98)) if len(there) else 1.0  # one giant would leave the rest white
    scale = style.DIVERGING if kind.is_signed else [[0, "#9ecae1"], [0.5, "#4292c6"], [1, "#08306b"]]
    bar: dict[str, Any] = {
        "title": {"text": kind.title, "side": "right", "font": {"size": 13}},
        "thickness": 14,
        "outlinewidth": 0,
    }
    if kind.is_log and len(there):
        powers = range(math.floor(there.min()), math.ceil(there.max()) + 1)
        bar |= {"tickvals": list(powers), "ticktext": [f"{_share(10.0**p)}   " for p in powers]}
    marker = {
        "color": values[chosen],  # an array: plotly takes one with NaN, and refuses a list with None
        "colorscale": scale,
        "colorbar": bar,
        "size": 6,
        "opacity": 0.85,
    }
    if kind.is_signed:
        marker |= {"cmin": -max(far, 1e-9), "cmax": max(far, 1e-9)}
    figure.add_trace(_dots(index, chosen, marker))
    figure.update_xaxes(title_text="first principal component of the decoder directions", zeroline=False)
    figure.update_yaxes(title_text="second principal component", zeroline=False)
    return figure


def rate_against_effect(index: Index, shown: NDArray[np.int64] | None = None) -> go.Figure:
    """How often a feature fires, against what its ablation does to the loss; random directions beside, as the control.

    Features that were not ablated, or never fire, are left out, and counted in the corner.
    """
    chosen = np.arange(len(index)) if shown is None else shown
    measured = chosen[(index["effect_n"][chosen] > 0) & (index["rate"][chosen] > 0)]
    figure = _figure(560)
    if len(measured) == 0:
        return _say(figure, "No effects were measured here: build the index with --effects 8.")
    rate = index["rate"][measured].tolist()
    low, high = np.percentile(index["effect_random"][measured], [2.5, 97.5]).tolist()
    ends = [min(rate), max(rate), max(rate), min(rate)]
    figure.add_scatter(
        x=ends, y=[low, low, high, high], fill="toself", mode="lines", line_width=0, hoverinfo="skip",
        fillcolor=style.faded(ORANGE, 0.35), name="a random direction as long, at the same tokens: 95 % of them",
    )  # fmt: skip
    dots = _dots(index, measured, {"color": BLUE, "size": 6, "opacity": 0.6})
    dots.x, dots.y, dots.name = rate, index["effect"][measured, 0].tolist(), "a feature"
    figure.add_trace(dots)
    figure.update_xaxes(title_text="fires on (share of tokens, log scale)", type="log", tickformat="~%")
    figure.update_yaxes(title_text="rise of the loss when ablated (nats)")
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=legend, margin_t=44)
    if left := len(chosen) - len(measured):
        figure.add_annotation(
            text=f"{left:,} features without a measurement are left out", showarrow=False, xref="paper", yref="paper",
            x=1, y=1, xanchor="right", yanchor="top", font={"size": 13, "color": style.MUTED},
        )  # fmt: skip
    return figure


def prompt_heat(reading: PromptReading, features: Sequence[int], names: Mapping[int, str]) -> go.Figure:
    """Which of `features` fire at which token of a prompt; sinks are greyed. The last row is what the SAE misses."""
    tokens = [_token(text, 14) for text in reading.tokens]
    rows = [[dict(active).get(feature, 0.0) for active in reading.features] for feature in features]
    labels = [_named(feature, names) for feature in features]
    hover = [
        [f"{label}<br>at {token}: {value:.3g}" for token, value in zip(tokens, row, strict=True)]
        for label, row in zip(labels, rows, strict=True)
    ]
    angle = -60 if max(map(len, tokens), default=0) * 8 * len(tokens) > 560 else 0
    figure = _figure(110 + 22 * (len(rows) + 1) + (70 if angle else 0))
    bar = {"title": {"text": "activation", "side": "right"}, "thickness": 14, "outlinewidth": 0}
    figure.add_heatmap(
        z=rows or [[None] * len(tokens)], y=list(range(len(rows) or 1)), hovertext=hover or None, hoverinfo="text",
        colorscale=[[0, "#ffffff"], [0.01, "#fff4df"], [1, "#b35900"]], zmin=0, colorbar=bar, xgap=1, ygap=1,
    )  # fmt: skip
    missed = [[None if sink else 100 * share for share, sink in zip(reading.error, reading.is_sink, strict=True)]]
    told = [f"missed at {token}: {share or 0:.0f} %" for token, share in zip(tokens, missed[0], strict=True)]
    figure.add_heatmap(
        z=missed, y=[len(rows) or 1], hovertext=[told], hoverinfo="text", colorscale=[[0, "#ffffff"], [1, "#57606a"]],
        zmin=0, zmax=100, showscale=False, xgap=1, ygap=1,
    )  # fmt: skip
    for place, sink in enumerate(reading.is_sink):
        if sink:
            box = {"x0": place - 0.5, "x1": place + 0.5, "y0": -0.5, "y1": (len(rows) or 1) + 0.5}
            figure.add_shape(type="rect", fillcolor="#e4e8ec", line={"width": 0}, layer="above", opacity=0.7, **box)
            figure.add_annotation(
                x=place, y=(len(rows) or 1) / 2, text="sink", textangle=-90, showarrow=False, font_size=13
            )
    figure.update_xaxes(
        tickvals=list(range(len(tokens))), ticktext=tokens, tickangle=angle, showgrid=False, zeroline=False,
        title_text="token of the prompt",
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range((len(rows) or 1) + 1)), ticktext=[*(labels or [""]), "missed by the SAE (%)"],
        range=[(len(rows) or 1) + 0.5, -0.5], showgrid=False, zeroline=False,
    )  # fmt: skip
    return figure


def attribution_bars(parts: Sequence[Part], names: Mapping[int, str]) -> go.Figure:
    """What speaks for a next token, largest first: features in one colour, what is no feature in another."""
    figure = _lying(
        [part.name if part.feature is None else _named(part.feature, names) for part in parts],
        [part.effect for part in parts],
        [GREY if part.feature is None else BLUE for part in parts],
        "fall of the token's log-probability without it (nats)",
        [f"to first order {part.estimate:+.3f} nats" for part in parts],
    )
    return figure if parts else _say(figure, "Nothing fires on this prompt.")


def next_token_bars(conditions: Sequence[tuple[str, Sequence[NextToken]]]) -> go.Figure:
    """The likeliest next tokens under several conditions side by side, in the first condition's order."""
    tokens: dict[int, str] = {}
    for rank in range(max((len(likely) for _, likely in conditions), default=0)):
        for _, likely in conditions:
            if rank < len(likely) and len(tokens) < NEXT_SHOWN:
                tokens.setdefault(likely[rank].token, likely[rank].text)
    known = [{one.token: one.probability for one in likely} for _, likely in conditions]
    order = sorted(tokens, key=lambda token: [-by.get(token, 0.0) for by in known])
    figure = _figure(330)
    for number, ((name, _), by) in enumerate(zip(conditions, known, strict=True)):
        figure.add_bar(
            x=list(range(len(order))), y=[by.get(token) for token in order], name=shortened(name, 48),
            marker_color=style.PALETTE[number % len(style.PALETTE)],
            hovertext=[f"{_token(tokens[t])}: {by[t]:.1%}" if t in by else "not among its likeliest" for t in order],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(order))), ticktext=[_token(tokens[token], 14) for token in order], showgrid=False,
        title_text="next token", tickangle=-35,
    )  # fmt: skip
    figure.update_yaxes(title_text="probability", tickformat=".0%", rangemode="tozero")
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    figure.update_layout(showlegend=len(conditions) > 1, legend=legend, margin_t=56)
    return figure if order else _say(figure, "No next token is known.")


def _figure(height: int) -> go.Figure:
    figure = go.Figure()
    return figure.update_layout(template=style.TEMPLATE, height=height, showlegend=False, margin={"t": 26, "b": 56})


def _say(figure: go.Figure, text: str) -> go.Figure:
    """An empty figure that says why it is."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=text, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"size": 14, "color": style.MUTED}
    )
    return figure.update_layout(height=140)


def _lying(
    labels: Sequence[str], values: Sequence[float], colours: Sequence[str], title: str, more: Sequence[str] = ()
) -> go.Figure:
    """Lying bars from the top, one a label."""
    figure = _figure(114 + ROW * max(len(labels), 1))
    told = [f"{label}: {value:+.3f}" for label, value in zip(labels, values, strict=True)]
    if more:
        told = [f"{one}<br>{besides}" for one, besides in zip(told, more, strict=True)]
    figure.add_bar(
        x=list(values), y=list(range(len(labels))), orientation="h", marker_color=list(colours), hovertext=told,
        hoverinfo="text",
    )  # fmt: skip
    figure.update_xaxes(title_text=wrapped(title, 36))  # long labels leave it little room
    figure.update_yaxes(
        tickvals=list(range(len(labels))), ticktext=list(labels), range=[len(labels) - 0.5, -0.5], showgrid=False,
        zeroline=False,
    )  # fmt: skip
    return figure


def _dots(index: Index, chosen: NDArray[Any], marker: dict[str, Any], *, hover: bool = True) -> go.Scatter:
    labels = index.labels
    texts = [f"{_named(f, {f: labels[f].text})}<br>fires on {_share(float(index['rate'][f]))}" for f in chosen.tolist()]
    return go.Scatter(  # not WebGL: its code is made at run time, which a strict page forbids
        x=index["map"][chosen, 0].tolist(),
        y=index["map"][chosen, 1].tolist(),
        mode="markers",
        marker=marker,
        customdata=chosen.tolist(),
        hovertext=texts if hover else None,
        hoverinfo="text" if hover else "skip",
    )


def _token(text: str, letters: int = LETTERS) -> str:
    """A token as a label: its blanks visible, nothing in it read as HTML."""
    return shortened(visible(text).replace(" ", "␣"), letters)


def _named(feature: int, names: Mapping[int, str]) -> str:
    name = visible(names.get(feature, ""))
    return f"{feature} {shortened(name, LETTERS)}" if name else str(feature)


def _share(value: float) -> str:
    return f"{value:.2g}" if value <= 0 else f"{100 * value:.3g} %"
