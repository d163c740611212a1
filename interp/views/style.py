"""How every figure looks: one template, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
INK, MUTED, GRID = "#1b1f24", "#57606a", "#e4e8ec"

# Okabe and Ito, without their yellow (too faint on white); the order keeps neighbours far apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Five symbols and five dashes against seven colours: 35 groups before a pair repeats.
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

DIVERGING = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]]
SEQUENTIAL = [[0, "#f7fbff"], [0.5, "#6baed6"], [1, "#08306b"]]

_AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": "#8c959f",
    "tickfont": {"size": 13},
    "title": {"font": {"size": 14}, "standoff": 12},
    "zerolinecolor": "#afb8c1",
    "zerolinewidth": 1,
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 14, "color": INK},
        "colorway": PALETTE,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "margin": {"l": 60, "r": 24, "t": 40, "b": 60},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "bordercolor": "#8c959f", "font": {"size": 13}},
        "legend": {"font": {"size": 13}, "title": {"font": {"size": 13}}},
        "bargap": 0.3,
        "bargroupgap": 0.06,
    }
)


def faded(colour: str, alpha: float) -> str:
    """The `#rrggbb` colour as an `rgba()` of that opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"
