"""The frame around every figure: panels for facets, room for legend and labels, the line of chance.

Heights and margins are counted in pixels here because plotly reserves no room for a legend or a title above the
panels; widths are left to the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.lab import findings
from interp.lab.findings import Row, Scalar
from interp.views import style
from interp.views.tables import shortened, split

CHARACTER = 8  # pixels, of 13 px text in the widest of the fonts
TOOLS = 22  # pixels that plotly's buttons cover at the top right
PAGE = 836  # pixels that a figure has on the narrowest page that must still work (900 pixels)
NARROW = 700  # pixels of these inside the axes, at least


@dataclass(frozen=True)
class Panel:
    """One facet's rows and its cell in the grid, counted from 1."""

    rows: list[Row]
    row: int
    col: int


def panels(
    rows: list[Row],
    spec: findings.Figure,
    *,
    height: int,
    bottom: int = 64,
    groups: list[Scalar] | None = None,
    across: int | None = None,
) -> tuple[go.Figure, list[Panel]]:
    """An empty figure with a panel per facet, each `height` pixels high with `bottom` pixels under it."""
    parts = split(rows, spec.facet)
    across = across or panels_across(len(parts))
    down = math.ceil(len(parts) / across)
    note = 20 if spec.chance is not None else 4  # the word "chance" stands between a facet's title and its panel
    head = note + (24 if spec.facet else 0)
    legend = _legend_height(groups or [], spec.group)
    gap = bottom + head
    inner = down * height + (down - 1) * gap
    figure = make_subplots(
        rows=down,
        cols=across,
        specs=[[{} if i * across + j < len(parts) else None for j in range(across)] for i in range(down)],
        shared_yaxes=True,
        horizontal_spacing=0.04,
        vertical_spacing=gap / inner if down > 1 else 0,
        subplot_titles=[f"<b>{shortened(name, 44 // across + 14)}</b>" for name, _ in parts] if spec.facet else None,
    )
    figure.update_annotations(font_size=14, yshift=note)
    top = max(legend, TOOLS) + head
    figure.update_layout(
        template=style.TEMPLATE,
        height=top + inner + bottom,
        margin={"t": top, "b": bottom},
        showlegend=bool(groups),
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "top", "yref": "container"},
    )
    if spec.group:
        figure.update_layout(legend_title_text=f"{shortened(spec.group, 30)}:")
    cells = [Panel(part, i // across + 1, i % across + 1) for i, (_, part) in enumerate(parts)]
    return figure, cells


def panels_across(count: int) -> int:
    """How many of `count` panels stand side by side: three still read at 900 pixels."""
    return {2: 2, 4: 2}.get(count, min(count, 3))


def _legend_height(names: list[Scalar], title: str | None) -> int:
    if not names:
        return 0
    widths = [len(shortened(name, 40)) * CHARACTER + 50 for name in names]
    if sum(widths) + len(title or "") * CHARACTER <= NARROW:
        return 26
    per_line = max(1, (NARROW - len(title or "") * CHARACTER) // max(widths))  # plotly lines them up in columns
    return 4 + 22 * math.ceil(len(names) / per_line)


def chance_line(figure: go.Figure, spec: findings.Figure, axis: Literal["x", "y"]) -> None:
    """Draw the dashed line of chance across every panel, where the figure names one."""
    if spec.chance is None:
        return
    line = {"dash": "dash", "color": style.INK, "width": 1.5}
    font = {"size": 13, "color": style.INK}
    if axis == "x":
        figure.add_vline(
            spec.chance,
            line=line,
            layer="below",
            annotation_text=spec.chance_is,
            annotation_position="top",
            annotation_font=font,
        )
        return
    figure.add_hline(spec.chance, line=line)
    last = panels_across(len(list(figure.select_yaxes())))
    figure.add_annotation(
        text=spec.chance_is,
        font=font,
        showarrow=False,
        xref="x domain" if last == 1 else f"x{last} domain",
        x=1,
        xanchor="left",
        xshift=4,
        yref="y",
        y=spec.chance,
    )
    figure.update_layout(
        margin_r=22 + 8 * len(spec.chance_is)
    )  # the word stands beside the line, where no bar can hide it


def room_below(labels: list[str], each: float) -> tuple[int, int, int]:
    """For x labels that have `each` pixels: (their angle, the pixels to leave below the axis, show every how many)."""
    longest = max(len(line) for label in labels for line in label.split("<br>")) * CHARACTER
    lines = max(label.count("<br>") + 1 for label in labels)
    if each >= longest:
        return 0, 42 + 17 * lines, 1
    if each >= 20 * lines:
        return -45, 50 + int(longest * 0.62), 1
    return -90, 46 + int(longest * 0.78), math.ceil(17 / each)
