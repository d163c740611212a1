"""The explorer as a person uses it: mouse, keyboard, addresses that last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np
import pytest
from explorer_browser import (
    FILLED,
    ROWS,
    click_head,
    column,
    flaws,
    open_table,
    opened,
    query,
    settle,
    visit,
    wait_for_first,
    wait_for_path,
)
from explorer_pages import address, index, page, watched
from explorer_server import served
from fake_findings import fake_findings

from interp.features.read.index import Index
from interp.features.read.search import search
from interp.views.explorer.context import Context

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["address", "index", "page", "watched"]  # fixtures


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, pytest.param(1680, marks=pytest.mark.slow)])
def test_every_page_is_whole(browser: Browser, address: str, width: int):
    with opened(browser, address, width) as (page, watch):
        open_table(page, address)
        assert flaws(page) == []
        for path, seen in [
            ("features/map", "#map .main-svg"),
            ("features/effect", "#map .main-svg"),
            ("feature/3", "#histogram .main-svg"),
            ("feature/3?doc=2", ".token"),
            ("feature/299", "h1"),
            ("feature/error", ".token"),
            ("compare", "h1"),
            ("runs", "a[href='/runs/good']"),
            ("runs/good", ".js-plotly-plot .main-svg"),
        ]:
            visit(page, f"/{path}", seen)
            assert flaws(page) == [], path
        assert watch.take() == []


def test_the_first_page_lists_all_features_and_says_what_needs_a_model(page: Page, address: str, index: Index):
    open_table(page, address)
    assert "300 features" in page.inner_text("#found")
    assert column(page, "number", 3) == ["0", "1", "2"]
    assert column(page, "label", 1) == [index.labels[0].text]
    for title in ("prompt", "steer"):
        item = page.locator("header nav").get_by_text(title, exact=True)
        assert item.get_attribute("aria-disabled") == "true"
        assert "--model" in (item.get_attribute("title") or "")


def test_a_click_opens_a_feature_and_back_returns_to_the_same_table(page: Page, address: str, index: Index):
    open_table(page, address)
    click_head(page, "maximum", 2)
    values = index["maximum"]
    best = int(np.argmax(values))
    wait_for_first(page, best)
    assert query(page)["sort"] == ["maximum:desc"]
    page.click(f'{ROWS}[row-index="0"] [col-id="label"]')
    wait_for_path(page, f"/feature/{best}")
    page.wait_for_selector(f'h1:has-text("{index.labels[best].text}")')
    page.go_back()
    wait_for_first(page, best)
    assert query(page)["sort"] == ["maximum:desc"]
    page.go_forward()
    page.wait_for_selector(f'h1:has-text("{index.labels[best].text}")')


@pytest.mark.parametrize("way", ["asc", "desc"])
def test_sorting_is_the_servers_over_all_rows_and_a_reload_keeps_it(page: Page, address: str, index: Index, way: str):
    open_table(page, address)
    click_head(page, "score", 1 if way == "asc" else 2)
    page.wait_for_function("way => location.search.includes(`sort=score%3A${way}`)", arg=way)
    scores = [label.score for label in index.labels]
    known = sorted((s for s in scores if s == s), reverse=way == "desc")
    wait_for_first(page, f"{known[0]:.2f}", "score")
    assert column(page, "score", 10) == [f"{s:.2f}" for s in known[:10]]
    page.reload()
    page.wait_for_selector(FILLED)
    wait_for_first(page, f"{known[0]:.2f}", "score")
    page.evaluate("dash_ag_grid.getApi('grid').ensureIndexVisible(299)")
    page.wait_for_function(
        "() => document.querySelector('.ag-row[row-index=\"299\"] [col-id=\"score\"]')?.textContent === '–'"
    )


def test_scrolling_brings_every_block(page: Page, address: str):
    open_table(page, address)
    for last in (150, 299):
        page.evaluate("n => dash_ag_grid.getApi('grid').ensureIndexVisible(n)", last)
        page.wait_for_function(
            'n => document.querySelector(`.ag-row[row-index="${n}"] [col-id="number"]`)?.textContent === `${n}`',
            arg=last,
        )


def test_a_search_narrows_the_table_and_lives_in_the_address(page: Page, address: str, index: Index):
    open_table(page, address)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("paris")
    assert page.input_value("#search") == "paris", "fast typing keeps the order of the letters"
    hits = [hit.feature for hit in search(index, "paris")]
    wait_for_first(page, hits[0])
    assert column(page, "number", 3) == [str(feature) for feature in hits[:3]]
    assert f"{len(hits)} of 300" in page.inner_text("#found")
    assert query(page)["q"] == ["paris"]
    page.reload()
    wait_for_first(page, hits[0])
    assert page.input_value("#search") == "paris"
    page.click(f'{ROWS}[row-index="1"] [col-id="label"]')
    wait_for_path(page, f"/feature/{hits[1]}")
    page.go_back()
    wait_for_first(page, hits[0])
    assert page.input_value("#search") == "paris"
    page.fill("#search", "")
    wait_for_first(page, 0)
    assert "q" not in query(page)


def test_a_search_without_a_hit_says_what_to_do(page: Page, address: str):
    open_table(page, address)
    page.fill("#search", "qqqqzzzz")
    page.wait_for_function("() => document.getElementById('found').textContent.includes('qqqqzzzz')")
    assert "Try" in page.inner_text("#found")
    page.goto(f"{address}features/map?q=qqqqzzzz")
    page.get_by_text("Nothing like").wait_for()


def test_a_filter_by_mouse_lives_in_the_address(page: Page, address: str):
    open_table(page, address)
    page.hover('.ag-header-cell[col-id="number"]')
    page.click('.ag-header-cell[col-id="number"] .ag-header-cell-filter-button')
    page.locator(".ag-filter input.ag-number-field-input:visible, .ag-filter input:visible").first.fill("7")
    wait_for_first(page, 7)
    assert "1 of 300" in page.inner_text("#found")
    assert "filter" in query(page)
    page.reload()
    wait_for_first(page, 7)
    assert "1 of 300" in page.inner_text("#found")


def test_a_filter_that_nothing_passes_says_so(page: Page, address: str):
    wanted = {"number": {"filterType": "number", "type": "equals", "filter": 999}}
    page.goto(f"{address}?{urlencode({'filter': json.dumps(wanted)})}")
    page.get_by_text("No feature passes").wait_for()


# --- the map --------------------------------------------------------------------------------------------------------


# The dot of the map that is farthest from any other: where it is on the screen, and its feature
_LONELIEST = """
() => {
  const plot = document.querySelector("#map .js-plotly-plot"), box = plot.getBoundingClientRect();
  const trace = plot.data.findLast((one) => one.customdata), { xaxis, yaxis } = plot._fullLayout;
  const at = (i) => [box.left + xaxis._offset + xaxis.d2p(trace.x[i]), box.top + yaxis._offset + yaxis.d2p(trace.y[i])];
  const all = [...trace.x.keys()].map(at);
  const far = ([x, y], i) => Math.min(...all.map(([a, b], j) => (i === j ? 1e9 : Math.hypot(x - a, y - b))));
  const alone = all.map(far), best = alone.indexOf(Math.max(...alone));
  return [...all[best], trace.customdata[best]];
}
"""


@pytest.mark.parametrize("view", ["map", "effect"])
def test_a_dot_opens_its_feature(page: Page, address: str, view: str):
    page.goto(f"{address}features/{view}")
    page.wait_for_selector("#map .main-svg")
    x, y, number = _where_it_stays(page)
    page.mouse.move(x, y)
    page.wait_for_selector("#map .hovertext")
    page.mouse.click(x, y)
    wait_for_path(page, f"/feature/{number}")
    page.go_back()
    page.wait_for_selector("#map .main-svg")


def _where_it_stays(page: Page) -> tuple[float, float, int]:
    """The dot's place once it is the same twice: the plot takes its size when it is drawn."""
    before = None
    for _ in range(100):
        settle(page)
        place = page.evaluate(_LONELIEST)
        if place == before:
            return place
        before = place
    raise AssertionError("the plot never comes to rest")


def test_a_search_carries_over_to_the_map_and_back(page: Page, address: str, index: Index):
    open_table(page, f"{address}?q=paris")
    page.get_by_text("map of directions").click()
    page.wait_for_selector("#map .main-svg")
    assert query(page)["q"] == ["paris"]
    shown = page.evaluate("document.querySelector('#map .js-plotly-plot').data.map(one => one.x.length)")
    assert len(search(index, "paris")) in shown
    page.get_by_text("table", exact=True).click()
    wait_for_first(page, search(index, "paris")[0].feature)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_runs_show_findings_and_what_cannot_be_read(page: Page, address: str):
    page.goto(address + "runs")
    page.get_by_text("is damaged").wait_for()
    page.click("a[href='/runs/good']")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    text = page.inner_text("main")
    first = fake_findings()[0]
    assert first.claim in text
    assert first.control.name in text
    assert first.verdict in text
    assert f"{first.estimate.mean:g}" in text
    assert page.locator(".js-plotly-plot").count() >= 10


def test_no_runs_says_how_to_make_one(browser: Browser, index: Index, tmp_path: Path):
    with served(Context(index, runs=tmp_path)) as there, opened(browser, there) as (page, watch):
        page.goto(there + "runs")
        page.get_by_text("interp probe").wait_for()
        assert watch.take() == []
