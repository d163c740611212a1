"""The explorer with text that means harm, and when things fail, in a browser."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from explorer_browser import (
    ROWS,
    Watch,
    column,
    flaws,
    open_table,
    opened,
    visit,
)
from explorer_pages import address, index, page, watched
from explorer_server import served
from fake_index import write_fake_index
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interp.features.read.index import Index, open_index
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare
from interp.views.token_text import visible

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["address", "index", "page", "watched"]  # fixtures

NASTY = (
    "<script>window.hacked = 1</script>",
    '<img src="https://example.org/x.png" onerror="window.hacked = 1">',
    '"><svg onload="window.hacked = 1">',
    "</textarea></script><iframe src=//example.org>",
    "\u202edrawkcab",
    "\u2067\u202b\u200f",
    "\x00\x1b[31m",
    "javascript:window.hacked=1",
    "x" * 5000,
    "[link](javascript:window.hacked=1)",
    "{{7*7}} ${7*7} %s",
    "مرحبا",
)


# --- harm and failure -----------------------------------------------------------------------------------------------


def test_text_that_means_harm_is_only_text(browser: Browser, tmp_path: Path):
    folder = write_fake_index(
        tmp_path / "index", features=24, texts=NASTY, labels=[f"{text} {i}" for i, text in enumerate(NASTY * 2)]
    )
    with served(Context(open_index(folder))) as there, opened(browser, there) as (page, watch):
        open_table(page, there)
        assert "<script>window.hacked = 1</script> 0" in column(page, "label", 30)
        page.hover(f'{ROWS}[row-index="1"] [col-id="label"]')
        page.wait_for_selector(".ag-tooltip")
        assert page.locator(".ag-tooltip *").count() == 0
        assert flaws(page) == []
        for number in range(0, 12, 3):
            visit(page, f"/feature/{number}", "#logits .main-svg")
            page.wait_for_selector(".token")
            assert flaws(page) == [], number
            _point_at_bars(page)
            assert flaws(page) == [], number
        for path in ("feature/0?doc=0", "feature/error", "features/map", "features/effect", "?q=%3Cscript%3E"):
            visit(page, f"/{path}", ".token, #map .main-svg, .ag-row")
            assert flaws(page) == [], path
        told = page.goto(there + "nowhere/%3Cimg%20src=x%20onerror=window.hacked=1%3E")
        assert told
        page.wait_for_selector("main .problem")
        assert flaws(page) == []
        assert watch.take() == []


_DRAWN = """
(tokens) => {
  const place = document.createElement("div"), title = `title ${tokens[0]}`;
  document.querySelector("main").append(place);
  const one = { tokens, activations: tokens.map((_, i) => i), peak: 0, value: "1.00", link: "" };
  interpExamples.draw(place, { top: 1, groups: [{ level: 2, title, hint: "", empty: "", examples: [one] }] });
  const parts = [...place.querySelectorAll("h2, .token")];
  const drawn = parts.map((part) => [part.textContent, part.childElementCount]);
  const width = document.documentElement.scrollWidth;
  place.remove();
  return [drawn, width];
}
"""
MARKUP = st.text("<>/\"'&;=a", max_size=9)


def test_whatever_a_token_is_it_is_drawn_as_text(page: Page, address: str):
    page.goto(address + "feature/3")
    page.wait_for_selector(".token")

    @given(
        st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=40), st.text("<>/\"'&;=", max_size=9)), min_size=1)
    )
    @settings(max_examples=40)
    def check(texts: list[str]) -> None:
        shown = [visible(text) for text in texts]
        drawn, width = page.evaluate(_DRAWN, shown)
        assert drawn == [[text, 0] for text in [f"title {shown[0]}", *shown]]
        assert width <= 1280, "the longest token wraps"
        assert not page.evaluate("window.hacked")

    for text in NASTY:
        check = example([text])(check)
    check()


def _point_at_bars(page: Page) -> None:
    for name in ("logits", "histogram"):
        for bar in page.locator(f"#{name} .bars .point path").all()[:4]:
            bar.hover(force=True)


def test_tokens_do_not_turn_their_neighbours(browser: Browser, tmp_path: Path):
    folder = write_fake_index(tmp_path / "index", features=6, texts=(" one", "\u202e", " two", "مرحبا", " three"))
    with served(Context(open_index(folder))) as there, opened(browser, there) as (page, _):
        page.goto(there + "feature/0?doc=0")
        page.wait_for_selector(".token")
        script = """() => {
          const boxes = [...document.querySelectorAll(".token")].map((one) => one.getClientRects()[0]);
          const back = (box, i) => Math.abs(box.top - boxes[i].top) < 2 && box.left < boxes[i].left;
          return boxes.slice(1).filter(back).length;
        }"""
        assert page.evaluate(script) == 0, "every token stands to the right of the one before"
        assert "‹U+202E›" in page.inner_text("main")


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        ("document.querySelector('main').insertAdjacentHTML('beforeend', '<img alt=x>')", "injected"),
        ("document.querySelector('.token').textContent = 'a\\u202eb'", "turns the text"),
        ("document.querySelector('.token').title = 'a\\u202eb'", "turns the text"),
        ("document.querySelector('main a').href = 'https://example.org/'", "leads away"),
        ("document.querySelector('.token').setAttribute('onfocus', '')", "a handler"),
        ("window.hacked = 1", "a script ran"),
        ("document.querySelector('main').style.cssText = 'width: 3000px; max-width: none'", "px wide"),
        (
            "document.querySelector('h2').style.cssText = 'width: 20px; overflow: hidden; white-space: nowrap'",
            "cut off",
        ),
    ],
)
def test_the_checker_sees_what_is_planted(watched: tuple[Page, Watch], address: str, script: str, seen: str):
    """Negative controls: each flaw that the tests above look for."""
    page, _ = watched
    page.goto(address + "feature/3")
    page.wait_for_selector(".token")
    assert not any(seen in flaw for flaw in flaws(page))
    page.evaluate(script)
    assert any(seen in flaw for flaw in flaws(page))


def test_the_policy_stops_a_script_that_got_in(watched: tuple[Page, Watch], address: str):
    page, watch = watched
    page.goto(address + "feature/3")
    page.wait_for_selector(".token")
    watch.take()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}))"
    )
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")
    told = list[str]()
    for _ in range(200):
        told += [line for line in watch.take() if "Content Security Policy" in line]
        if len(told) >= 2:
            break
        page.wait_for_timeout(20)
    assert len(told) >= 2
    assert not page.evaluate("window.hacked")


def test_a_wrong_address_is_one_line_and_the_menu_stays(page: Page, address: str):
    page.goto(f"{address}nowhere")
    for path in ("feature/300", "feature/x", "feature/3?doc=99", "runs/broken", "features/map?colour=x", "nowhere"):
        line = page.wait_for_selector("main .problem")
        assert line
        assert "\n" not in line.inner_text()
        assert page.locator("header nav a").count() >= 3
        visit(page, f"/{path}", "main .problem")


def test_an_error_while_the_table_is_used_is_told(browser: Browser, tmp_path: Path):
    folder = write_fake_index(tmp_path / "index")
    with served(Context(open_index(folder))) as there, opened(browser, there) as (page, _):
        open_table(page, there)
        (folder / "words.txt").write_text("no longer what it was\n")
        page.fill("#search", "paris")
        page.wait_for_function("() => /damaged/.test(document.querySelector('main').innerText)")


def wait_for_line_in_sight(page: Page, pattern: str) -> None:
    """Until the window, not only the page, shows a line like that."""
    page.wait_for_function(
        """(pattern) => [...document.querySelectorAll("p")].some((one) => {
          const box = one.getBoundingClientRect(), shown = getComputedStyle(one).visibility === "visible";
          const inside = box.width > 0 && box.top >= 0 && box.bottom <= innerHeight;
          return shown && inside && new RegExp(pattern, "i").test(one.textContent);
        })""",
        arg=pattern,
        timeout=8000,
    )


def test_a_slow_answer_is_told_where_one_looks(page: Page, address: str):
    page.goto(address + "feature/3")
    page.wait_for_selector("#logits .main-svg")
    page.evaluate(
        """() => {
          const send = window.fetch, told = new Promise((go) => { window.answer = go; });
          window.fetch = (...request) => told.then(() => send(...request));
        }"""
    )
    page.keyboard.press("j")
    wait_for_line_in_sight(page, "moment|loading|reading")
    page.evaluate("answer()")
    page.wait_for_selector("h1:has-text('feature 4 ')")


def test_a_server_that_is_gone_is_told(browser: Browser, index: Index):
    with opened(browser, "http://127.0.0.1/") as (page, _):
        with served(Context(index)) as there:
            open_table(page, there)
            page.click(f'{ROWS}[row-index="0"] [col-id="label"]')
            page.wait_for_selector("#logits .main-svg")
        page.keyboard.press("j")
        wait_for_line_in_sight(page, "does not answer")


def test_a_callback_that_fails_is_told(browser: Browser, index: Index, monkeypatch: pytest.MonkeyPatch):
    """A fault of ours, in the callback that fills the table."""
    with served(Context(index)) as there, opened(browser, there) as (page, _):
        open_table(page, there)
        monkeypatch.setattr("interp.views.explorer.pages.features.find_rows", lambda *_: 1 / 0)
        page.fill("#search", "paris")
        wait_for_line_in_sight(page, "failed|could not")


def test_a_token_opens_the_page_and_leaves_the_address(browser: Browser, index: Index):
    server, address = prepare(Context(index), "127.0.0.2", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        context = browser.new_context()
        page = context.new_page()
        bare = re.sub(r"\?.*", "", address)
        assert "127.0.0.2" in bare
        answer = context.request.get(bare)
        assert answer.status == 403
        open_table(page, address)
        assert "token" not in page.url
        assert page.evaluate("document.cookie") == "", "no script can read it"
        context.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
