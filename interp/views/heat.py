"""Heat maps: cells by two labelled axes, panels side by side under one colour scale."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from interp.lab import findings
from interp.lab.findings import Row
from interp.views import style
from interp.views.kinds import kind
from interp.views.panels import CHARACTER, PAGE, Panel, panels, panels_across, room_below
from interp.views.tables import distinct, hover, numbers, shortened, slots, split, title, wrapped

_BESIDE = 150  # pixels that the axis title, the colour bar and the margins take from the width
_COLUMN = 17  # pixels that a column needs so that its label can stand under it
_LETTERS = 20  # of an x label; the rest is in the hover text


@kind("x", "y", "z")
def layer_position_map(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """An effect per layer and token position: one row a cell, rows of a layer in reading order.

    A token that occurs twice keeps two columns. Layer 0 is at the bottom; 0 is white in every panel.
    """
    return heat(rows, spec, height=_tall(rows, spec), upward=True, diverging=True)


@kind("x", "y", "z")
def matrix(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """A value for each prompt (y) and answer (x); white is 0 where values of both signs occur."""
    height = max(220, 22 * len(split(rows, spec.y)))
    return heat(rows, spec, height=height, upward=False, diverging=_has_both_signs(rows, spec))


@kind("x", "y", "z")
def head_grid(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """A number for each attention head: x the head, y the layer, layer 0 at the bottom.

    White is 0 where values of both signs occur.
    """
    return heat(rows, spec, height=_tall(rows, spec), upward=True, diverging=_has_both_signs(rows, spec))


@kind("x", "y", "z", "group")
def lens_grid(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """What a lens reads at each layer (y) and token (x): the word in `group` stands in the cell, z shades it."""
    figure = heat(rows, spec, height=max(260, 21 * len(split(rows, spec.y))), upward=True, diverging=False)
    across = len(slots(rows, spec.x, spec.y)[0])
    letters = max(3, int((PAGE - _BESIDE) / across / CHARACTER))
    levels = distinct(rows, spec.y)
    texts = []
    for _, part in split(rows, spec.facet):
        _, columns = slots(part, spec.x, spec.y)
        texts.append([[""] * across for _ in levels])
        for row, place in zip(part, columns, strict=True):
            texts[-1][levels.index(row.get(spec.y))][place] = shortened(row.get(spec.group or ""), letters)
    shown = iter(texts)  # a trace a facet, in the same order
    figure.for_each_trace(lambda trace: trace.update(text=next(shown), texttemplate="%{text}", textfont={"size": 13}))
    return figure


def _tall(rows: list[Row], spec: findings.Figure) -> int:
    return max(260, min(17 * len(split(rows, spec.y)), 560))


def _has_both_signs(rows: list[Row], spec: findings.Figure) -> bool:
    values = [value for value in numbers(rows, spec.z or "") if value is not None]
    return bool(values) and min(values) < 0 < max(values)


def heat(rows: list[Row], spec: findings.Figure, *, height: int, upward: bool, diverging: bool) -> go.Figure:
    """A heat map per facet. Labels of y are unique; a label of x that repeats within a y keeps its own column."""
    value = spec.z or ""
    axes = [slots(part, spec.x, spec.y) for _, part in split(rows, spec.facet)]
    texts = [[shortened(label, _LETTERS) for label in labels] for labels, _ in axes]
    levels = distinct(rows, spec.y)
    levels_written = [shortened(level, 36) for level in levels]
    width = PAGE - _BESIDE - CHARACTER * max(map(len, levels_written))
    most = max(map(len, texts))
    # Side by side where the labels have room, else one under the other: a token without its label says nothing.
    across = max(1, min(panels_across(len(axes)), int(width / most / _COLUMN)))
    angle, bottom, step = room_below([text for part in texts for text in part], width / across / most)
    figure, cells = panels(rows, spec, height=height, bottom=bottom, across=across)
    for panel, (_, places), ticks in zip(cells, axes, texts, strict=True):
        grid = [[levels.index(row.get(spec.y)), place] for row, place in zip(panel.rows, places, strict=True)]
        figure.add_trace(_cells(panel, grid, value, (len(levels), len(ticks))), panel.row, panel.col)
        figure.update_xaxes(
            tickvals=list(range(0, len(ticks), step)), ticktext=ticks[::step], row=panel.row, col=panel.col
        )
    figure.update_xaxes(title_text=title(spec.x), tickangle=angle, showgrid=False, zeroline=False)
    every = math.ceil(17 * len(levels) / height)
    span = [-0.5, len(levels) - 0.5]
    figure.update_yaxes(
        tickvals=list(range(0, len(levels), every)),
        ticktext=levels_written[::every],
        range=span if upward else span[::-1],
        showgrid=False,
        zeroline=False,
        ticks="",
    )
    figure.update_yaxes(title_text=title(spec.y), col=1)
    return figure.update_layout(coloraxis=_scale(rows, value, diverging))


def _cells(panel: Panel, grid: list[list[int]], value: str, shape: tuple[int, int]) -> go.Heatmap:
    z: list[list[float | None]] = [[None] * shape[1] for _ in range(shape[0])]
    texts = [[""] * shape[1] for _ in range(shape[0])]
    for row, number, (i, j) in zip(panel.rows, numbers(panel.rows, value), grid, strict=True):
        z[i][j] = number
        texts[i][j] = hover(row)
    return go.Heatmap(z=z, hovertext=texts, hoverinfo="text", coloraxis="coloraxis", hoverongaps=False, xgap=1, ygap=1)


def _scale(rows: list[Row], value: str, diverging: bool) -> dict[str, Any]:
    present = [number for number in numbers(rows, value) if number is not None] or [0.0]
    far = max(map(abs, present)) or 1.0  # all zero is still a scale
    low, high = (-far, far) if diverging else (min(present), max(present))
    bar = {"title": {"text": wrapped(value, 44, 2), "side": "right"}, "thickness": 14, "outlinewidth": 0}
    return {
        "colorscale": style.DIVERGING if diverging else style.SEQUENTIAL,
        "cmin": low,
        "cmax": high,
        "colorbar": {**bar, "tickfont": {"size": 13}},
    }
