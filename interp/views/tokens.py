"""Tokens in their context, shaded by activation, as HTML: text reads better as text than as cells of a plot."""

from __future__ import annotations

from markupsafe import Markup

from interp.lab import findings
from interp.lab.findings import Row
from interp.views.kinds import kind
from interp.views.style import faded
from interp.views.tables import numbers, split, written

_SHADE = "#E69F00"  # dark text on it, even at full strength, keeps a contrast above 7
_VISIBLE = str.maketrans({"\n": "↵\n", "\t": "⇥\t", "\r": "␍"})


@kind("x", "y", "z")
def token_strip(rows: list[Row], spec: findings.Figure) -> Markup:
    """Example contexts of features: x the token, y the example, z the activation, facet the feature, as HTML.

    Rows of an example are in reading order. A safe fragment: for each feature its examples, one a line, and the scale
    of its shading. It carries its own colours, so that it can be shown outside the report; all text is escaped.
    """
    feature = spec.facet or spec.group
    blocks = [_feature(part, spec, feature, name) for name, part in split(rows, feature)]
    return Markup('<div class="strips">{}</div>').format(Markup("").join(blocks))


def _feature(rows: list[Row], spec: findings.Figure, column: str | None, name: object) -> Markup:
    unit = spec.z or ""
    top = max((value for value in numbers(rows, unit) if value is not None), default=0.0)
    title = Markup("<b>{} {}</b>").format(column, name) if column else Markup("<b>examples</b>")
    scale = Markup("").join(
        Markup('<i style="background:{}"></i>').format(faded(_SHADE, step / 4 * 0.9)) for step in range(5)
    )
    head = Markup('<p class="strip-head">{} <span class="scale">{} 0 {} {}</span></p>').format(
        title, unit, scale, written(top)
    )
    examples = Markup("").join(_example(part, spec, top) for _, part in split(rows, spec.y))
    return Markup('<div class="strip-feature">{}<ol>{}</ol></div>').format(head, examples)


def _example(rows: list[Row], spec: findings.Figure, top: float) -> Markup:
    values = [max(value or 0.0, 0.0) for value in numbers(rows, spec.z or "")]
    peak = values.index(max(values))
    tokens = Markup("").join(
        _token(
            str(row.get(spec.x)),
            value / top if top > 0 else 0.0,
            f"{spec.z}: {written(row.get(spec.z or ''))}",
            i == peak,
        )
        for i, (row, value) in enumerate(zip(rows, values, strict=True))
    )
    return Markup('<li style="white-space:pre-wrap">{}</li>').format(tokens)


def _token(text: str, share: float, title: str, peak: bool) -> Markup:
    mark = Markup("<b>{}</b>") if peak and share > 0 else Markup("{}")
    return Markup('<span class="token" style="background:{}" title="{}">{}</span>').format(
        faded(_SHADE, round(share * 0.9, 3)), title, mark.format(text.translate(_VISIBLE))
    )
