"""The explorer's pictures: what is drawn is what was given, and nothing in a label is read as HTML."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from fake_index import write_fake_index
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.features.read.index import Index, open_index
from interp.features.read.prompts import Active, NextToken, Part, PromptReading
from interp.views import feature_figures as figures
from interp.views.token_text import LONGEST, visible

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("fake") / "index", labels=[HOSTILE]))


def traces(figure: go.Figure) -> Any:
    return figure.data


def data(figure: go.Figure, number: int = 0) -> Any:
    return traces(figure)[number]


def written(figure: go.Figure) -> str:
    return str(figure.to_json())


def test_a_histogram_shows_every_count_at_its_activation(index: Index):
    feature = index.feature(3)
    bars = data(figures.activation_histogram(feature))
    assert [n or 0 for n in bars.y] == feature.histogram.tolist()
    assert np.allclose(bars.x, (np.arange(40) + 0.5) * feature.maximum / 40)
    silent = figures.activation_histogram(index.feature(len(index) - 1))
    assert "never fires" in silent.layout.annotations[0].text


def test_logits_stand_with_their_tokens_raised_ones_on_top(index: Index):
    feature = index.feature(2)
    figure = figures.logit_bars(feature)
    bars = data(figure)
    assert list(bars.x) == [v for _, v in feature.raises] + [v for _, v in reversed(feature.lowers)]
    assert len(figure.layout.yaxis.ticktext) == len(bars.x)
    assert set(bars.marker.color[: len(feature.raises)]).isdisjoint(bars.marker.color[len(feature.raises) :])


def test_neighbours_are_named_and_counted(index: Index):
    feature = index.feature(2)
    figure = figures.cofiring_bars(feature, {n: label.text for n, label in enumerate(index.labels)})
    assert list(data(figure).x) == [one.closeness for one in feature.fires_with]
    for one, told in zip(feature.fires_with, data(figure).hovertext, strict=True):
        assert f"both on {one.count:,} tokens" in told


@pytest.mark.parametrize("colour", figures.COLOURS)
def test_the_map_places_every_feature_and_carries_its_number(index: Index, colour: str):
    dots = data(figures.feature_map(index, colour=colour))
    assert list(dots.customdata) == list(range(len(index)))
    assert np.allclose(np.column_stack([dots.x, dots.y]), index["map"])
    shown = np.array([3, 5])
    others, chosen = traces(figures.feature_map(index, shown, colour))
    assert list(chosen.customdata) == [3, 5]
    assert sorted([*others.customdata, 3, 5]) == list(range(len(index)))


def test_an_unknown_colour_names_the_nearest(index: Index):
    with pytest.raises(UserError, match="nearest: 'rate'"):
        figures.feature_map(index, colour="rates")


def test_the_control_stands_beside_the_effects(index: Index):
    band, dots = traces(figures.rate_against_effect(index))
    there = np.array(dots.customdata)
    assert np.allclose(dots.y, index["effect"][there, 0])
    assert np.allclose(dots.x, index["rate"][there])
    low, high = np.percentile(index["effect_random"][there], [2.5, 97.5])
    assert (min(band.y), max(band.y)) == pytest.approx((low, high))
    assert "random" in band.name
    assert "No effects" in figures.rate_against_effect(index, np.array([], np.int64)).layout.annotations[0].text


READING = PromptReading(
    tokens=(" the", " cat", " the", HOSTILE),
    is_sink=(True, False, False, False),
    features=((), (Active(4, 2.0), Active(7, 1.0)), (Active(7, 3.0),), ()),
    error=(0.0, 0.25, 0.5, 1.0),
    next=(NextToken(3, " sat", 0.5), NextToken(4, HOSTILE, 0.25)),
)


def test_a_prompt_keeps_its_order_repeats_and_sinks():
    figure = figures.prompt_heat(READING, [7, 4], {4: "four", 7: HOSTILE})
    cells, missed = traces(figure)
    assert np.array_equal(cells.z, [[0, 1, 3, 0], [0, 2, 0, 0]])
    assert list(missed.z[0]) == [None, 25, 50, 100]
    assert len(figure.layout.xaxis.ticktext) == 4
    assert [shape.x0 for shape in figure.layout.shapes] == [-0.5], "the sink is greyed"
    assert figures.prompt_heat(READING, [], {}).data


def test_parts_and_next_tokens_are_drawn_as_given():
    parts = [Part(4, "feature 4", -0.5, 0.1), Part(None, "what the SAE misses", 0.25)]
    bars = data(figures.attribution_bars(parts, {4: "four"}))
    assert list(bars.x) == [-0.5, 0.25]
    assert bars.marker.color[0] != bars.marker.color[1]
    other = (NextToken(9, " ran", 0.9), NextToken(3, " sat", 0.05))
    figure = figures.next_token_bars([("plain", READING.next), ("steered", other)])
    assert list(data(figure).y) == [0.5, 0.25, None]
    assert list(data(figure, 1).y) == [0.05, None, 0.9]
    assert figures.next_token_bars([]).layout.annotations


def test_nothing_in_a_label_is_html(index: Index):
    names = {4: HOSTILE, 7: HOSTILE}
    drawn = [
        figures.prompt_heat(READING, [4, 7], names),
        figures.attribution_bars([Part(4, "feature 4", 1.0)], names),
        figures.next_token_bars([(HOSTILE, READING.next)]),
        figures.feature_map(index),
        figures.cofiring_bars(index.feature(2), dict.fromkeys(range(len(index)), HOSTILE)),
    ]
    for figure in drawn:
        assert "<script" not in written(figure)
        assert "script" in written(figure), "the label is there, as text"


@given(st.text(max_size=600))
def test_no_character_hides_or_turns_the_text(text: str):
    shown = visible(text)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x00\x1b\n\r\t\u2028")
    if len(text) <= LONGEST and text.isprintable():
        assert shown == text
    assert len(shown) <= 8 * LONGEST + 30
