"""The page of one feature as a person uses it, and the keys that lead through the explorer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from explorer_browser import (
    open_table,
    query,
    wait_for_path,
)
from explorer_pages import address, index, page, watched

from interp.features.read.index import Index

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["address", "index", "page", "watched"]  # fixtures


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
