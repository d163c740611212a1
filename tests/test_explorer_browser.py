"""The explorer as a person uses it: mouse, keyboard, addresses that last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from explorer_browser import (
    FILLED,
    ROWS,
    browser,
    click_head,
    column,
    flaws,
    open_table,
    opened,
    query,
    wait_for_first,
    wait_for_path,
)
from explorer_server import served, with_runs
from fake_findings import fake_findings
from fake_index import write_fake_index

from interp.features.index import Index, open_index
from interp.features.search import search
from interp.views.explorer.context import Context

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("explorer") / "index", features=300))


@pytest.fixture(scope="module")
def address(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(with_runs(index, tmp_path_factory.mktemp("runs"))) as there:
        yield there


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page of which nothing may complain, and which asks nobody else."""
    with opened(browser, address) as (page, watch):
        yield page
        assert watch.take() == []


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 1680])
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
            page.goto(address + path)
            page.wait_for_selector(seen)
            page.wait_for_timeout(300)
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


# --- one feature ----------------------------------------------------------------------------------------------------


def test_a_feature_page_tells_all_that_is_known_with_units(page: Page, address: str, index: Index):
    page.goto(address + "feature/3")
    for plot in ("histogram", "logits"):
        page.wait_for_selector(f"#{plot} .main-svg")
    page.wait_for_selector(".token.peak")
    text = page.inner_text("main")
    feature = index.feature(3)
    assert index.labels[3].text in text
    for told in (f"{feature.label.score:.2f}", f"{feature.rate:.3%}", f"{feature.effect.mean:+.3f} nats",
                 f"{feature.effect.random:+.3f} nats", f"{feature.firings:,}"):  # fmt: skip
        assert told in text, told
    for other in (*feature.near, *feature.fires_with):
        assert page.locator(f"main a[href='/feature/{other.feature}']").count() > 0
    peak = page.locator(".token.peak").first
    assert peak.text_content() == feature.top[0].tokens[feature.top[0].peak]
    assert "rgba(230, 159, 0" in (peak.get_attribute("style") or "")
    meanings = page.eval_on_selector_all("abbr", "all => all.map(one => one.title)")
    assert len(meanings) >= 5
    assert all(len(meaning) > 20 for meaning in meanings), "a newcomer can ask what each number is"


def test_the_whole_document_opens_reloads_and_closes_by_back(page: Page, address: str, index: Index):
    page.goto(address + "feature/3")
    page.locator("a:has-text('whole text')").first.click()
    document = index.feature(3).top[0].document
    page.wait_for_function("() => location.search.includes('doc=')")
    assert query(page)["doc"] == [str(document)]
    page.wait_for_selector(f"h2:has-text('Document {document}')")
    for _ in range(2):
        page.wait_for_function("n => document.querySelectorAll('.token').length === n", arg=16)
        shaded = page.eval_on_selector_all(".token", "all => all.filter(one => one.style.backgroundColor).length")
        assert shaded == np.count_nonzero(index.document(document, index.firings(3)).activations)
        page.reload()
    page.go_back()
    page.wait_for_selector("#histogram .main-svg")
    assert "doc" not in query(page)


def test_keys_lead_from_feature_to_feature_and_round(page: Page, address: str):
    page.goto(address + "feature/3")
    for key, number in [
        ("j", 4),
        ("ArrowRight", 5),
        ("k", 4),
        ("ArrowLeft", 3),
        ("k", 2),
        ("k", 1),
        ("k", 0),
        ("k", 299),
        ("j", 0),
    ]:
        page.wait_for_selector("#next")
        page.keyboard.press(key)
        page.wait_for_selector(f"h1:has-text('feature {number} ')")
        wait_for_path(page, f"/feature/{number}")
    page.go_back()
    page.wait_for_selector("h1:has-text('feature 299 ')")
    page.click("#next")
    page.wait_for_selector("h1:has-text('feature 0 ')")


def test_keys_in_a_box_are_text(page: Page, address: str):
    open_table(page, address)
    page.click("#search")
    page.keyboard.type("j/k")
    assert page.input_value("#search") == "j/k"
    assert urlsplit(page.url).path in ("/", "/features")


def test_the_table_works_without_a_mouse(page: Page, address: str):
    open_table(page, address)
    visited, inside = list[str](), False
    for _ in range(60):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => {
              const at = document.activeElement, around = at.closest(".dash-input-container") || at;
              const shown = [at, around].some((one) => getComputedStyle(one).outlineStyle !== "none"
                || getComputedStyle(one).boxShadow !== "none") || at.closest(".ag-root") !== null;
              return [at.id || at.textContent.slice(0, 20), shown, at.closest(".ag-center-cols-container") !== null];
            }"""
        )
        name, is_seen, inside = place
        visited.append(name)
        assert is_seen, f"no focus can be seen on {name}"
        if inside:
            break
    assert "search" in visited
    assert inside, f"Tab never reached a row: {visited}"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('feature 2 ')")


def test_a_help_line_names_the_keys(page: Page, address: str):
    open_table(page, address)
    footer = page.inner_text("footer")
    for key in ("/", "j", "k", "Enter"):
        assert key in footer


def test_the_error_term_has_a_page(page: Page, address: str):
    page.goto(address + "feature/error")
    page.wait_for_selector(".token")
    text = page.inner_text("main")
    assert "+0.500 nats" in text
    assert "12.5%" in text.replace(" ", "")


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
    page.wait_for_timeout(800)
    x, y, number = page.evaluate(_LONELIEST)
    page.mouse.move(x, y)
    page.wait_for_selector("#map .hovertext")
    page.mouse.click(x, y)
    wait_for_path(page, f"/feature/{number}")
    page.go_back()
    page.wait_for_selector("#map .main-svg")


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
