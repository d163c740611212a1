"""One function per picture kind: `(rows, spec) -> figure`. A finding names the function and the columns it reads.

Points, bars and lines are here, maps of cells in `heat.py`, shaded text in `tokens.py`. A new kind is one function
under `@kind(...)`; its name is what `Figure(kind=…)` says.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from interp.errors import UserError, unknown
from interp.lab import findings
from interp.lab.findings import Finding, Row, Scalar
from interp.views import heat, points, style, tokens
from interp.views.kinds import KINDS, Picture, kind
from interp.views.panels import NARROW, chance_line, panels, panels_across, room_below
from interp.views.tables import hover, numbers, shortened, slots, split, title, wrapped

REGISTERED = (heat, points, tokens)  # by being imported


def draw(finding: Finding) -> Picture:
    """The picture a finding asks for: a plotly figure, or safe HTML for the kinds that are text."""
    if finding.figure is None:
        raise UserError(f"the finding {finding.claim!r} names no figure; expected Finding(figure=…); add one")
    if finding.figure.kind not in KINDS:
        raise unknown("figure kind", finding.figure.kind, KINDS)
    return KINDS[finding.figure.kind](finding.table, finding.figure)


@kind("x", "y")
def interval_dots(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """Points with intervals, one line a label: x the value, y the label."""
    groups = _groups(rows, spec)
    labels, places = slots(rows, spec.y, spec.facet, spec.group)
    texts = [wrapped(label, 32) for label in labels]
    offsets, most = _dodge(rows, spec, places)
    each = max(max(text.count("<br>") + 1 for text in texts) * 17 + 10, most * 18 + 10, 30)
    figure, cells = panels(rows, spec, height=max(each * len(labels), 110), groups=groups)
    heights = {id(row): place + offset for row, place, offset in zip(rows, places, offsets, strict=True)}
    for panel in cells:
        for number, group, part in _by_group(panel.rows, spec, groups):
            xs = numbers(part, spec.x)
            trace = go.Scatter(
                x=xs,
                y=[heights[id(row)] for row in part],
                mode="markers",
                marker={"size": 10, "symbol": _cycle(style.SYMBOLS, number)},
                error_x=_errors(part, spec, xs),
                **_common(part, group, number),
            )
            figure.add_trace(trace, panel.row, panel.col)
    figure.update_xaxes(title_text=title(spec.x), matches="x", zeroline=spec.chance != 0)
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], tickvals=list(range(len(labels))), ticktext=texts, zeroline=False
    )
    figure.update_yaxes(title_text=title(spec.y), col=1)
    chance_line(figure, spec, "x")
    return _legend_once(figure)


@kind("x", "y")
def bars(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """Bars side by side for the groups: x the label, y the value."""
    groups = _groups(rows, spec)
    labels, places = slots(rows, spec.x, spec.facet, spec.group)
    width = NARROW / panels_across(len(split(rows, spec.facet)))
    texts = [wrapped(label, max(12, int(width / len(labels) / 8.5))) for label in labels]
    angle, bottom, step = room_below(texts, width / len(labels))
    if angle:
        texts = [shortened(label, 26) for label in labels]
        angle, bottom, step = room_below(texts, width / len(labels))
    figure, cells = panels(rows, spec, height=320, bottom=bottom, groups=groups)
    where = {id(row): place for row, place in zip(rows, places, strict=True)}
    for panel in cells:
        for number, group, part in _by_group(panel.rows, spec, groups):
            ys = numbers(part, spec.y)
            trace = go.Bar(
                x=[where[id(row)] for row in part],
                y=ys,
                error_y=_errors(part, spec, ys),
                **_common(part, group, number),
            )
            figure.add_trace(trace, panel.row, panel.col)
    figure.update_xaxes(title_text=title(spec.x), showgrid=False, tickangle=angle, range=[-0.5, len(labels) - 0.5])
    figure.update_xaxes(tickvals=list(range(0, len(labels), step)), ticktext=texts[::step])
    figure.update_yaxes(matches="y")
    figure.update_yaxes(title_text=title(spec.y), col=1)
    chance_line(figure, spec, "y")
    return _legend_once(figure)


@kind("x", "y")
def effect_bars(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """Lying bars from zero, in table order from the top: x the effect, y the part that has it; its interval."""
    groups = _groups(rows, spec)
    labels, places = slots(rows, spec.y, spec.facet, spec.group)
    texts = [shortened(label, 32) for label in labels]
    figure, cells = panels(rows, spec, height=max(24 * len(labels) * max(1, len(groups)), 110), groups=groups)
    where = {id(row): place for row, place in zip(rows, places, strict=True)}
    for panel in cells:
        for number, group, part in _by_group(panel.rows, spec, groups):
            xs = numbers(part, spec.x)
            trace = go.Bar(
                x=xs,
                y=[where[id(row)] for row in part],
                orientation="h",
                error_x=_errors(part, spec, xs),
                **_common(part, group, number),
            )
            figure.add_trace(trace, panel.row, panel.col)
    figure.update_xaxes(title_text=title(spec.x), matches="x")
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], tickvals=list(range(len(labels))), ticktext=texts)
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(title_text=title(spec.y), col=1)
    chance_line(figure, spec, "x")
    return _legend_once(figure)


@kind("x", "y")
def lines(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """A line per group over a numeric x (a layer, a step), its interval as a shaded band."""
    groups = _groups(rows, spec)
    figure, cells = panels(rows, spec, height=340, groups=groups)
    for panel in cells:
        for number, group, part in _by_group(panel.rows, spec, groups):
            xs = numbers(part, spec.x)
            part = [
                row for _, row in sorted(zip(xs, part, strict=True), key=lambda p: math.inf if p[0] is None else p[0])
            ]
            if spec.low and spec.high:
                figure.add_trace(_band(part, spec, spec.low, spec.high, number), panel.row, panel.col)
            trace = go.Scatter(
                x=numbers(part, spec.x),
                y=numbers(part, spec.y),
                mode="lines+markers",
                line={"width": 2.5, "dash": _cycle(style.DASHES, number)},
                marker={"size": 6, "symbol": _cycle(style.SYMBOLS, number)},
                **_common(part, group, number),
            )
            figure.add_trace(trace, panel.row, panel.col)
    figure.update_xaxes(title_text=title(spec.x), matches="x", zeroline=False)
    figure.update_yaxes(matches="y", zeroline=spec.chance != 0)
    whole = [x for x in numbers(rows, spec.x) if x is not None]
    if whole and all(x == int(x) for x in whole):
        ticks = 18 // panels_across(len(cells))
        figure.update_xaxes(dtick=max(1, math.ceil((max(whole) - min(whole)) / ticks)), tickformat="d")
    figure.update_yaxes(title_text=title(spec.y), col=1)
    chance_line(figure, spec, "y")
    return _legend_once(figure)


@kind("x", "y")
def log_lines(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """As `lines`, both axes logarithmic: a power law is straight. Numbers must be positive."""
    figure = lines(rows, spec)
    for axis, column in ((figure.update_xaxes, spec.x), (figure.update_yaxes, spec.y)):
        ticks = _log_ticks([value for value in numbers(rows, column) if value is not None])
        # Labels of our own: plotly writes the digits between powers of ten too small to read.
        axis(type="log", dtick=None, tickformat=None, tickvals=ticks, ticktext=[f"{tick:,.6g}" for tick in ticks])
    return figure


@kind("x", "y")
def doubling_lines(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """As `lines`, for x that doubles from point to point: each doubling is as wide, every x is written out."""
    figure = lines(rows, spec)
    ticks = sorted({value for value in numbers(rows, spec.x) if value is not None})
    return figure.update_xaxes(
        type="log", dtick=None, tickformat=None, tickvals=ticks, ticktext=[f"{tick:,.6g}" for tick in ticks]
    )


def _log_ticks(values: list[float]) -> list[float]:
    """From three to about ten round numbers among the values: a few a power of ten, or steps of one size."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    for leading in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):  # each far enough from the next: 8, 9 and 10 would touch
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**k for k in powers for m in leading if low * 0.999 <= m * 10.0**k <= high * 1.001]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 10)]
    rough = max((high - low) / 5, low * 1e-3)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _groups(rows: list[Row], spec: findings.Figure) -> list[Scalar]:
    return list(dict.fromkeys(row.get(spec.group) for row in rows)) if spec.group else []


def _by_group(rows: list[Row], spec: findings.Figure, groups: list[Scalar]) -> list[tuple[int, Scalar, list[Row]]]:
    """The rows of each group with the group's number in the whole figure, so that panels agree on its colour."""
    return [(groups.index(name) if groups else 0, name, part) for name, part in split(rows, spec.group)]


def _dodge(rows: list[Row], spec: findings.Figure, places: list[int]) -> tuple[list[float], int]:
    """How far each row moves off its line so that groups do not hide each other, and the most groups on a line."""
    present: dict[int, list[Scalar]] = {}
    for row, place in zip(rows, places, strict=True):
        group = row.get(spec.group) if spec.group else None
        if group not in present.setdefault(place, []):
            present[place].append(group)
    most = max(map(len, present.values()))
    step = min(0.25, 0.7 / most)
    out = []
    for row, place in zip(rows, places, strict=True):
        here = present[place]
        rank = here.index(row.get(spec.group) if spec.group else None)
        out.append((rank - (len(here) - 1) / 2) * step)
    return out, most


def _errors(rows: list[Row], spec: findings.Figure, centre: list[float | None]) -> dict[str, Any] | None:
    """Error bars from the low and high columns, which hold ends and not lengths."""
    if not (spec.low and spec.high):
        return None
    low, high = numbers(rows, spec.low), numbers(rows, spec.high)
    if not any(end is not None for end in (*low, *high)):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [None if h is None or c is None else h - c for h, c in zip(high, centre, strict=True)],
        "arrayminus": [None if v is None or c is None else c - v for v, c in zip(low, centre, strict=True)],
        "thickness": 2,
        "width": 4,
    }


def _common(rows: list[Row], group: Scalar, number: int) -> dict[str, Any]:
    """What every trace of a group has: its name, colour and hover text."""
    name = shortened(group, 40)
    return {
        "name": name,
        "legendgroup": name,
        "marker_color": _cycle(style.PALETTE, number),
        "hovertext": [hover(row) for row in rows],
        "hoverinfo": "text",
    }


def _band(rows: list[Row], spec: findings.Figure, low: str, high: str, number: int) -> go.Scatter:
    columns = zip(numbers(rows, spec.x), numbers(rows, low), numbers(rows, high), strict=True)
    ends = [end for end in columns if None not in end]
    return go.Scatter(
        x=[x for x, _, _ in ends] + [x for x, _, _ in reversed(ends)],
        y=[top for _, _, top in ends] + [bottom for _, bottom, _ in reversed(ends)],
        fill="toself",
        fillcolor=style.faded(_cycle(style.PALETTE, number), 0.18),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def _legend_once(figure: go.Figure) -> go.Figure:
    """A group that several panels share gets one entry in the legend."""
    seen: set[str] = set()

    def once(trace: Any) -> None:
        if trace.showlegend is not False:
            trace.showlegend = trace.name not in seen
            seen.add(trace.name)

    return figure.for_each_trace(once)


def _cycle(choices: tuple[str, ...], number: int) -> str:
    return choices[number % len(choices)]
