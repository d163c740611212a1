"""The one-file export in a real browser, from disk, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fake_index import TEXTS, write_fake_index
from refusals import the_line

from interp.cli import dispatch
from interp.errors import UserError
from interp.features.read.index import Index, open_index
from interp.features.read.search import search
from interp.views.feature_page import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "a\u202eb\x00",
    "x" * 5000,
)
ROW = "tr[data-feature]"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("fake") / "index"
    return open_index(write_fake_index(folder, features=400, documents=60, texts=(*TEXTS, *HOSTILE), labels=HOSTILE))


@pytest.fixture(scope="module")
def file(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(index, tmp_path_factory.mktemp("page") / "features.html")


@pytest.fixture(scope="module")
def offline(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def page(offline: BrowserContext, file: Path) -> Iterator[Page]:
    """The open file; what it complains of, and what it asks for elsewhere, fails the test."""
    opened, wrong = offline.new_page(), list[str]()
    opened.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
    opened.goto(file.as_uri())
    opened.wait_for_selector(ROW)
    yield opened
    hacked = opened.evaluate("window.hacked || document.querySelectorAll('main img, main script, main iframe').length")
    opened.close()
    assert not hacked
    assert wrong == []


def shown(page: Page, n: int = 10) -> list[int]:
    return [int(one.get_attribute("data-feature") or -1) for one in page.query_selector_all(ROW)[:n]]


def test_the_table_lists_sorts_filters_and_searches_as_the_index_does(page: Page, index: Index):
    assert page.inner_text("#state") == "400 features"
    page.click("th button:has-text('fires on')")
    rate = index["rate"].astype(float)
    assert shown(page) == sorted(range(400), key=lambda f: (-rate[f], f))[:10]
    page.fill("input[aria-label='at most']", "3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#state:has-text(' of 400')")
    assert shown(page) == sorted(np.flatnonzero(100 * rate <= 3), key=lambda f: (-rate[f], f))[:10]
    page.goto(re.sub("#.*", "", page.url) + "#/?q=capital")
    page.wait_for_selector("#state:has-text(' of 400')")
    assert shown(page) == [hit.feature for hit in search(index, "capital", 10)]


def test_state_lives_in_the_address_through_reload_and_back(page: Page):
    page.click("th button:has-text('strongest')")
    first = shown(page)
    page.reload()
    page.wait_for_selector(ROW)
    assert shown(page) == first
    page.click(f"{ROW} >> nth=2")
    page.wait_for_selector("h1")
    assert f"feature {first[2]}" in page.inner_text("h1")
    page.go_back()
    page.wait_for_selector(ROW)
    assert shown(page) == first


def test_a_feature_shows_the_numbers_of_the_index(page: Page, index: Index):
    number = int(np.argmax(index["rate"] * (index["effect_n"] > 0)))
    page.goto(re.sub("#.*", "", page.url) + f"#/feature/{number}")
    page.wait_for_selector(".left .examples li")
    page.wait_for_selector(".right .main-svg")
    feature, text = index.feature(number), page.inner_text("main")
    assert feature.label.text in text
    values = page.eval_on_selector_all(".examples li .value", "all => all.map(one => one.textContent)")
    assert values[: len(feature.top[:12])] == [f"{one.activations[one.peak]:.2f}" for one in feature.top[:12]]
    peaks = page.eval_on_selector_all(".examples li .peak", "all => all.map(one => one.style.backgroundColor)")
    assert all("rgb" in colour for colour in peaks), "the token that an example is of is shaded"
    assert f"{feature.firings:,}" in text
    effect = f"{feature.effect.mean:+.3f}".replace("-", "−")
    assert effect in text
    assert len(page.query_selector_all(".links a")) == len(feature.near) + len(feature.fires_with)


def test_it_works_without_a_mouse(page: Page, index: Index):
    page.keyboard.press("/")
    page.keyboard.type("tower")
    page.wait_for_selector("#state:has-text(' of 400')")
    first = shown(page, 1)[0]
    page.focus(ROW)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('feature {first} ')")
    page.keyboard.press("j")
    page.wait_for_selector(f"h1:has-text('feature {(first + 1) % 400} ')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(f"h1:has-text('feature {first} ')")


def test_the_map_opens_features_and_silence_is_told(page: Page, index: Index):
    page.click("#menu a:has-text('map')")
    page.wait_for_selector("main .main-svg .point")
    assert len(page.query_selector_all("main .point")) == 400
    silent = int(np.flatnonzero(index["rate"] == 0)[0])
    page.goto(re.sub("#.*", "", page.url) + f"#/feature/{silent}")
    page.wait_for_selector("text=never fires on this text")
    page.goto(re.sub("#.*", "", page.url) + "#/feature/99999")
    page.wait_for_selector("text=There is no feature 99999")
    page.goto(re.sub("#.*", "", page.url) + "#/?q=qqqqzzzz")
    page.wait_for_selector("#state:has-text('Nothing fits')")


def test_hostile_labels_and_tokens_are_text(page: Page):
    for number in range(len(HOSTILE)):
        page.goto(re.sub("#.*", "", page.url) + f"#/feature/{number}")
        page.wait_for_selector(f"h1:has-text('feature {number} ')")
        page.wait_for_selector(".right .main-svg")
        if number < 2:
            assert HOSTILE[number] in page.inner_text("h1")


def test_the_fixture_would_see_a_script_that_ran(offline: BrowserContext, tmp_path: Path):
    """Negative control."""
    (tmp_path / "bad.html").write_text("<main><img src=x onerror='window.hacked = 1'></main>")
    opened = offline.new_page()
    opened.goto((tmp_path / "bad.html").as_uri())
    opened.wait_for_function("() => window.hacked")
    assert opened.evaluate("document.querySelectorAll('main img').length") == 1
    opened.close()


def test_chosen_features_alone_and_places_that_cannot_be_written(index: Index, file: Path, tmp_path: Path):
    few = write_page(index, tmp_path / "few.html", [3, 7])
    assert few.stat().st_size < file.stat().st_size
    assert few.stat().st_size < 6e6, "little more than plotly"
    for out, line in ((tmp_path, "is a folder"), (Path("/proc/x.html"), "cannot write")):
        with pytest.raises(UserError) as raised:
            write_page(index, out)
        assert line in the_line(raised)
    (tmp_path / "mine.txt").write_text("dear diary")
    with pytest.raises(UserError, match="is no HTML file"):
        write_page(index, tmp_path / "mine.txt")
    assert dispatch(["features", "export", str(index.folder), "--html", str(tmp_path / "new" / "x.html")]) == 0
    assert "<script>window.hacked" not in few.read_text(encoding="utf-8")
