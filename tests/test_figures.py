"""Figures from saved findings: what they show, and what they refuse."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from fake_findings import fake_findings, finding_with
from markupsafe import Markup

from interp.errors import UserError
from interp.lab.findings import Figure, Row
from interp.views import figures


def picture(rows: list[Row], spec: Figure) -> Any:
    """The drawn figure; plotly's own types say nothing of traces."""
    return figures.draw(finding_with(rows, spec))


@pytest.mark.parametrize("index", [i for i, f in enumerate(fake_findings()) if f.figure])
def test_every_kind_draws_every_row(index: int) -> None:
    finding = fake_findings()[index]
    assert finding.figure is not None
    figure = picture(finding.table, finding.figure)
    if isinstance(figure, Markup):
        assert figure.count('class="token"') == len(finding.table)
        return
    if finding.figure.z:
        drawn = sum(value is not None for trace in figure.data for line in trace.z for value in line)
        assert figure.layout.coloraxis.colorbar.title.text == finding.figure.z
    else:
        drawn = sum(len(trace.x) for trace in figure.data if trace.hoverinfo != "skip")
        titles = {figure.layout.xaxis.title.text, figure.layout.yaxis.title.text}
        assert titles == {finding.figure.x, finding.figure.y}
    assert drawn == len(finding.table)
    json.dumps(figure.to_plotly_json(), allow_nan=False)


def test_the_fake_run_shows_every_kind() -> None:
    assert {f.figure.kind for f in fake_findings() if f.figure} == set(figures.KINDS)


def test_intervals_are_lengths_from_the_point() -> None:
    rows: list[Row] = [{"what": "a", "v": 2.0, "lo": 1.5, "hi": 4.0}]
    for kind, x, y, error in (("interval_dots", "v", "what", "error_x"), ("bars", "what", "v", "error_y")):
        (trace,) = picture(rows, Figure(kind, x=x, y=y, low="lo", high="hi")).data
        assert (trace[error].array, trace[error].arrayminus) == ((2.0,), (0.5,))


def test_lines_are_sorted_and_their_band_goes_round() -> None:
    rows: list[Row] = [{"layer": i, "v": i * 1.0, "lo": i - 1.0, "hi": i + 1.0} for i in (2, 0, 1)]
    band, line = picture(rows, Figure("lines", x="layer", y="v", low="lo", high="hi")).data
    assert line.x == (0, 1, 2)
    assert band.x == (0, 1, 2, 2, 1, 0)
    assert band.y == (1, 2, 3, 1, 0, -1)


def test_a_token_that_repeats_keeps_its_own_columns() -> None:
    tokens = ["the", " cat", "the", "the"]
    rows: list[Row] = [
        {"layer": layer, "token": t, "e": 10.0 * layer + i} for layer in range(2) for i, t in enumerate(tokens)
    ]
    spec = Figure("layer_position_map", x="token", y="layer", z="e")
    figure = picture(rows, spec)
    assert figure.layout.xaxis.ticktext == ("the", "cat", "the", "the")
    assert [list(line) for line in figure.data[0].z] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    by_position = sorted(rows, key=lambda row: float(row["e"] or 0) % 10)
    assert picture(by_position, spec).data[0].z == figure.data[0].z


def test_panels_share_one_scale_centred_on_zero() -> None:
    rows: list[Row] = [{"d": d, "l": 0, "t": "a", "e": e} for d, e in (("trained", 3.0), ("reversed", -0.5))]
    figure = picture(rows, Figure("layer_position_map", x="t", y="l", z="e", facet="d"))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3.0, 3.0)
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis"]
    assert [note.text for note in figure.layout.annotations] == ["<b>trained</b>", "<b>reversed</b>"]


def test_equal_labels_of_one_group_do_not_hide_each_other() -> None:
    rows: list[Row] = [{"what": "same", "v": v} for v in (1.0, 2.0)]
    (trace,) = picture(rows, Figure("interval_dots", x="v", y="what")).data
    assert len(set(trace.y)) == 2


def test_groups_keep_their_colour_in_every_panel_and_one_legend_entry() -> None:
    rows: list[Row] = [{"f": f, "g": g, "w": "w", "v": 1.0} for f, g in (("p", "a"), ("p", "b"), ("q", "b"))]
    traces = picture(rows, Figure("interval_dots", x="v", y="w", group="g", facet="f")).data
    assert traces[1].marker.color == traces[2].marker.color != traces[0].marker.color
    assert [trace.showlegend for trace in traces] == [True, True, False]


@pytest.mark.parametrize("kind", sorted(figures.KINDS))
def test_a_missing_column_is_named_with_those_that_are_there(kind: str) -> None:
    spec = Figure(kind, x="layr", y="effect", z="effect")
    with pytest.raises(UserError, match=r"no column 'layr' for x; the table has 'layer', 'effect'; nearest: 'layer'"):
        figures.draw(finding_with([{"layer": 1, "effect": 0.5}], spec))


@pytest.mark.parametrize(
    ("table", "figure", "message"),
    [
        (
            [{"a": 1, "b": 2}],
            Figure("interval_dot", x="a", y="b"),
            "unknown figure kind 'interval_dot'; nearest: 'interval",
        ),
        ([], Figure("lines", x="a", y="b"), "table without rows"),
        ([{"a": 1, "b": 2}], Figure("matrix", x="a", y="b"), "needs the column for z"),
        ([{"a": 1, "b": "two"}], Figure("lines", x="a", y="b"), "'b' has 'two' in row 0; expected a number"),
        ([{"a": 1}], None, "names no figure"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(table: list[Row], figure: Figure | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        figures.draw(finding_with(table, figure))


def test_empty_cells_are_gaps() -> None:
    rows: list[Row] = [{"l": 0, "t": "a", "e": None}, {"l": 1, "t": "a", "e": 1.0}]
    figure = picture(rows, Figure("layer_position_map", x="t", y="l", z="e"))
    assert [list(line) for line in figure.data[0].z] == [[None], [1.0]]


def test_plotly_is_given_no_markup_of_the_table() -> None:
    rows: list[Row] = [{"w": "<b>bold</b> & <a href='https://example.org'>x</a>", "v": 1.0}]
    figure = picture(rows, Figure("interval_dots", x="v", y="w", group="w"))
    texts = (*figure.layout.yaxis.ticktext, figure.data[0].name, figure.data[0].hovertext[0].split("</b>: ")[1])
    for text in texts:
        assert "<" not in text.replace("<br>", "").replace("<b>v", "")
        assert "&lt;b&gt;bold" in text


@pytest.mark.parametrize(("low", "high"), [(3.8, 25.5), (2.9e9, 3.8e10), (3.8e3, 1e5), (2.48, 2.98), (1e3, 1e9)])
def test_labels_of_a_logarithmic_axis_do_not_touch_on_a_narrow_page(low: float, high: float) -> None:
    rows: list[Row] = [{"x": float(x), "y": 1.0 + 1 / (i + 1)} for i, x in enumerate(np.geomspace(low, high, 5))]
    axis = picture(rows, Figure("log_lines", x="x", y="y")).layout.xaxis
    places = np.log10(axis.tickvals)
    assert len(places) >= 3
    assert np.diff(places).min() / np.log10(high / low) > 0.08, "8, 9 and 10 of a power of ten are closer"
    assert low <= min(axis.tickvals) <= max(axis.tickvals) <= high
