"""What the explorer shows, without a browser: the table against loops, every address, and text that means harm."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_server import with_runs
from fake_index import TEXTS, write_fake_index
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import the_line

from interp.errors import UserError
from interp.features.read.index import Index, open_index
from interp.features.read.search import search
from interp.views.explorer.app import page_at
from interp.views.explorer.context import Context
from interp.views.explorer.table import COLUMNS, find_rows, row_of
from interp.views.token_text import visible

NASTY = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\u202e\u2066txet", "\x00\x1b[31m", "</textarea>")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("explorer") / "index"))


@pytest.fixture(scope="module")
def context(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return with_runs(index, tmp_path_factory.mktemp("runs"))


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["asc", "desc"])
@pytest.mark.parametrize("key", [column.key for column in COLUMNS])
def test_sorting_is_by_the_number_and_what_has_none_comes_last(index: Index, key: str, way: str):
    values = next(column for column in COLUMNS if column.key == key).values(index).astype(float)
    found = find_rows(index, sort=[{"colId": key, "sort": way}]).tolist()
    sign = -1 if way == "desc" else 1
    expected = sorted(range(len(index)), key=lambda i: (math.isnan(values[i]), sign * values[i], i))
    without = int(np.isnan(values).sum())
    assert sorted(found) == list(range(len(index))), "every feature once"
    assert found[: len(found) - without] == expected[: len(found) - without]
    assert all(math.isnan(values[i]) for i in found[len(found) - without :])
    if key in ("score", "effect", "token"):
        assert without > 0, "else this test says nothing of them"


@given(
    kind=st.sampled_from(["equals", "notEqual", "greaterThan", "greaterThanOrEqual", "lessThan", "lessThanOrEqual"]),
    key=st.sampled_from(["number", "score", "rate", "maximum"]),
    pick=st.integers(0, 38),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_keeps_what_a_loop_keeps(index: Index, kind: str, key: str, pick: int):
    values = next(column for column in COLUMNS if column.key == key).values(index).astype(float)
    bound = float(values[pick])
    if math.isnan(bound):
        return
    holds = {
        "equals": lambda v: v == bound,
        "notEqual": lambda v: v != bound,
        "greaterThan": lambda v: v > bound,
        "greaterThanOrEqual": lambda v: v >= bound,
        "lessThan": lambda v: v < bound,
        "lessThanOrEqual": lambda v: v <= bound,
    }[kind]
    expected = [i for i, value in enumerate(values.tolist()) if not math.isnan(value) and holds(value)]
    assert find_rows(index, filters={key: {"filterType": "number", "type": kind, "filter": bound}}).tolist() == expected


def test_filters_join_and_work_on_a_search(index: Index):
    both = {"operator": "AND", "conditions": [{"type": "greaterThan", "filter": 3}, {"type": "lessThan", "filter": 9}]}
    assert find_rows(index, filters={"number": both}).tolist() == [4, 5, 6, 7, 8]
    either = {"operator": "OR", "conditions": [{"type": "equals", "filter": 3}, {"type": "equals", "filter": 9}]}
    assert find_rows(index, filters={"number": either}).tolist() == [3, 9]
    hits = [hit.feature for hit in search(index, "paris")]
    assert find_rows(index, "paris").tolist() == hits, "best first"
    assert len(hits) > 2
    below = [feature for feature in hits if feature < 20]
    assert find_rows(index, "paris", filters={"number": {"type": "lessThan", "filter": 20}}).tolist() == below
    in_order = find_rows(index, "paris", [{"colId": "number", "sort": "asc"}]).tolist()
    assert in_order == sorted(hits), "a sort that was asked for goes before the search's order"


@pytest.mark.parametrize(
    ("sort", "filters", "said"),
    [
        ([{"colId": "nothing", "sort": "asc"}], None, "unknown column 'nothing'"),
        ([], {"nothing": {"type": "equals", "filter": 1}}, "unknown column 'nothing'"),
        ([], {"rate": {"type": "around", "filter": 1}}, "unknown comparison 'around'"),
        ([], {"rate": {"type": "equals"}}, "expected one"),
        ([], {"rate": {"type": "inRange", "filter": 1}}, "expected one"),
    ],
)
def test_a_wrong_sort_or_filter_is_one_line(index: Index, sort: Any, filters: Any, said: str):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        find_rows(index, "", sort, filters)
    the_line(raised)


def test_a_row_says_what_the_index_holds(index: Index):
    row = row_of(index, 3)
    assert row["label"] == index.labels[3].text
    assert float(row["rate"]) == pytest.approx(100 * float(index["rate"][3]), rel=0.01)
    assert row["effect"] == f"{float(index['effect'][3, 0]):+.3f}".replace("-", "−")
    silent = row_of(index, len(index) - 1)
    assert silent["effect"] == "–", "what was not measured is no number"
    assert silent["tokens"] == ""


# --- pages ----------------------------------------------------------------------------------------------------------


def texts_of(tree: Any) -> str:
    """Everything a page says, joined."""
    return json.dumps(tree, ensure_ascii=False, default=lambda one: one.to_plotly_json())


@pytest.mark.parametrize(
    ("path", "search_", "says"),
    [
        ("/", "", "fires on"),
        ("/", "?q=paris&sort=rate:desc", "paris"),
        ("/feature/3", "", "the token France 3"),
        ("/feature/3", "?doc=2", "corpus.txt"),
        ("/feature/39", "", "never fires"),
        ("/feature/error", "", "misses"),
        ("/features/map", "", "principal component"),
        ("/features/effect", "", "rise of the loss"),
        ("/runs", "", "broken"),
        ("/runs/good", "", "trained direction"),
        ("/prompt", "", "--model"),
        ("/steer", "", "--model"),
        ("/compare", "", "--model"),
    ],
)
def test_every_address_shows_its_page(context: Context, path: str, search_: str, says: str):
    page = texts_of(page_at(context, path, search_))
    assert says in page
    assert '"problem"' not in page or path == "/runs", "no page fails; of the runs one is damaged on purpose"


@pytest.mark.parametrize(
    ("path", "search_", "says"),
    [
        ("/nowhere", "", "there is no page"),
        ("/feature/40", "", "this index has features 0 to 39"),
        ("/feature/-1", "", "this index has features 0 to 39"),
        ("/feature/seven", "", "expected a number from 0 to 39"),
        ("/feature/3", "?doc=12", "expected 0 to 11"),
        ("/feature/3", "?doc=x", "expected a whole number"),
        ("/features/globe", "", "unknown view"),
        ("/features/map", "?colour=beauty", "unknown colour"),
        ("/", "?filter={", "no JSON"),
        ("/", "?filter=%7B%22nothing%22%3A1%7D", "columns that there are not"),
        ("/runs/none", "", "there is no run"),
        ("/runs/..%2F..%2Fetc", "", "there is no run"),
        ("/runs/broken", "", "is damaged"),
        ("/" + "x" * 30_000, "", "characters"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(context: Context, path: str, search_: str, says: str):
    page = page_at(context, path, search_).to_plotly_json()
    assert page["props"]["className"] == "problem"
    assert says in page["props"]["children"]
    assert "\n" not in page["props"]["children"]


@pytest.mark.parametrize("runs", [None, "empty", "nowhere"])
def test_a_folder_without_runs_says_how_to_make_one(index: Index, tmp_path: Path, runs: str | None):
    (tmp_path / "empty").mkdir()
    page = texts_of(page_at(Context(index, runs=tmp_path / runs if runs else None), "/runs", ""))
    assert "There are no runs" in page
    assert "interp probe" in page


def test_a_damaged_index_is_told_on_the_page(tmp_path: Path):
    folder = write_fake_index(tmp_path / "index")
    opened = Context(open_index(folder))
    (folder / "labels.json").write_text("[]")
    page = page_at(opened, "/feature/3", "").to_plotly_json()
    assert page["props"]["className"] == "problem"
    assert "labels.json is damaged" in page["props"]["children"]


def test_an_example_is_the_text_of_the_index_shaded_by_its_activation(context: Context, index: Index):
    page = texts_of(page_at(context, "/feature/3", ""))
    best = index.feature(3, window=14).top[0]
    shown = json.dumps([visible(text) for text in best.tokens], ensure_ascii=False)
    assert shown in page or all(visible(text) in page for text in best.tokens)
    assert f"{max(best.activations):.2f}" in page
    assert f"/feature/3?doc={best.document}" in page, "the whole document is one click away"


def test_previous_and_next_go_round(context: Context):
    assert '"/feature/39"' in texts_of(page_at(context, "/feature/0", ""))
    assert '"/feature/0"' in texts_of(page_at(context, "/feature/39", ""))


# --- text that means harm -------------------------------------------------------------------------------------------

RAW = ("dash_dangerously_allow_html", "dangerously_allow_html", "dangerously_allow_code", "dangerouslySetInnerHTML")


def markup_in(tree: Any, inside: str = "") -> Iterator[str]:
    """Where a page hands text to something that would read it as HTML: Markdown, frames, code, figures' labels."""
    if hasattr(tree, "to_plotly_json"):
        tree = tree.to_plotly_json()
    if isinstance(tree, Mapping):
        if tree.get("type") in ("Markdown", "Iframe", "DangerouslySetInnerHTML", "Script"):
            yield f"{inside}: a {tree['type']}"
        for key, value in tree.items():
            if key in RAW and value is not False and key != "dangerously_allow_code":
                yield f"{inside}: {key}"
            yield from markup_in(value, f"{inside}.{key}")
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from markup_in(one, inside)
    elif isinstance(tree, str) and _is_read(tree, inside):
        yield f"{inside}: {tree}"


def _is_read(text: str, place: str) -> bool:
    """Would markup in a text at this place of a page be more than text? In a figure's labels, and in an address."""
    if ".figure" in place:
        return re.search(r"<(?!/?(b|br)>)[a-z!/]", text, re.IGNORECASE) is not None
    return re.search(r"(href|src)$", place) is not None and not re.match(r"/(?!/)|#", text)


def test_the_checker_finds_what_would_be_read_as_html():
    from dash import dcc, html

    planted = [
        dcc.Markdown("x"),
        html.Iframe(srcDoc="x"),
        html.A(href="javascript:alert(1)"),
        html.A(href="//example.org"),
        dcc.Graph(figure={"layout": {"title": {"text": "<img src=x>"}}}),
    ]
    for one in planted:
        assert list(markup_in(one)), one
    assert list(markup_in(html.P("<img src=x>", title="<b>"))) == [], "React writes these as text"


@given(
    texts=st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=12)), min_size=12, max_size=12),
    label=st.one_of(st.sampled_from(NASTY), st.text(max_size=30)),
)
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_text_of_a_corpus_reaches_a_page_as_html(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], label: str
):
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    folder = tmp_path_factory.mktemp("nasty") / "index"
    write_fake_index(folder, features=6, documents=3, texts=clean, labels=[label.encode("utf-8", "replace").decode()])
    nasty = Context(open_index(folder))
    for path in ("/", "/feature/0", "/feature/1?doc=0", "/feature/error", "/features/map", "/features/effect"):
        page = page_at(nasty, *path.partition("?")[::2])
        assert list(markup_in(page)) == []
        told = texts_of(page)
        assert '"problem"' not in told
        assert not any(turned in told for turned in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
        assert row_of(nasty.index, 0)["label"] == visible(nasty.index.labels[0].text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=600))
def test_visible_text_hides_nothing_and_turns_nothing(text: str):
    shown = visible(text)
    assert len(shown) <= 8 * 400 + 40, "a huge token stays small"
    for character in shown:
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        assert unicodedata.category(character) not in ("Cc", "Zl", "Zp")
    if text.isprintable() and len(text) <= 400:
        assert shown == text, "plain text stays as it is"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\x00", "‹U+0000›"),
        ("\u202eabc", "‹U+202E›abc"),
        ("\u200b", "‹U+200B›"),
        ("\ufeff", "‹U+FEFF›"),
        (" café ", " café "),
        ("a" * 401, "a" * 400 + "… (401 characters)"),
    ],
)
def test_what_has_no_shape_is_spelled_out(text: str, shown: str):
    assert visible(text) == shown


def test_the_texts_of_the_fake_index_are_all_there(index: Index):
    """What the tests above take for granted of it."""
    assert index.verify() == []
    assert set(index["token"].tolist()) == set(range(len(TEXTS)))
    for feature in range(len(index) - 1):
        rows, values = index.firings(feature)
        assert len(rows) == round(float(index["rate"][feature]) * index.tokens_counted)
        assert float(values.max()) == pytest.approx(float(index["maximum"][feature]))
        assert int(index["histogram"][feature].sum()) == len(rows)
        assert bool((np.diff(rows) > 0).all())
