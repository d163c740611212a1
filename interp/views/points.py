"""Points in a plane, two numbers against each other."""

from __future__ import annotations

import plotly.graph_objects as go

from interp.lab import findings
from interp.lab.findings import Row
from interp.views import style
from interp.views.kinds import kind
from interp.views.panels import panels
from interp.views.tables import hover, numbers, shortened, split, title


@kind("x", "y")
def points(rows: list[Row], spec: findings.Figure) -> go.Figure:
    """A point a row, named in the legend by its group: x and y are numbers, the interval is of y."""
    groups = list(dict.fromkeys(row.get(spec.group) for row in rows)) if spec.group else []
    figure, cells = panels(rows, spec, height=340, groups=groups)
    for panel in cells:
        for name, part in split(panel.rows, spec.group):
            number = groups.index(name) if groups else 0
            ys = numbers(part, spec.y)
            low, high = (numbers(part, column) if column else ys for column in (spec.low, spec.high))
            apart = [[None if None in pair else abs(pair[0] - pair[1]) for pair in zip(ends, ys, strict=True)]  # type: ignore[operator]
                     for ends in (low, high)]  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=numbers(part, spec.x),
                    y=ys,
                    mode="markers",
                    marker={"size": 10, "symbol": style.SYMBOLS[number % len(style.SYMBOLS)]},
                    error_y={"type": "data", "symmetric": False, "arrayminus": apart[0], "array": apart[1]},
                    marker_color=style.PALETTE[number % len(style.PALETTE)],
                    name=shortened(name, 40),
                    hovertext=[hover(row) for row in part],
                    hoverinfo="text",
                ),
                panel.row,
                panel.col,
            )
    figure.update_xaxes(title_text=title(spec.x), zeroline=False)
    figure.update_yaxes(title_text=title(spec.y))
    return figure
