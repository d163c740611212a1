"""Drives the explorer in headless Chromium as a person would, and says what is wrong with what it shows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, Response

ROWS = ".ag-center-cols-container .ag-row"
FILLED = f'{ROWS} [col-id="label"]:not(:empty)'
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

# Each check answers with sentences, so that a failing test names what a person would see.
_FLAWS = """
(turning) => {
  const wrong = [], all = (what) => [...document.querySelectorAll(what)], start = (text) => text.slice(0, 70);
  if (document.documentElement.scrollWidth > innerWidth)
    wrong.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${innerWidth}`);
  const said = all("[title], [aria-label]").map((one) => one.title + one.ariaLabel);
  for (const text of [document.body.innerText, ...said])
    if ([...turning].some((sign) => text.includes(sign))) wrong.push(`a sign turns the text around: ${start(text)}`);
  for (const one of all("img, iframe, object, embed, form, script, link, marquee, base, svg, meta"))
    if (one.closest("main") && !one.closest(".js-plotly-plot, .ag-root-wrapper, .dash-input-container"))
      wrong.push(`injected: ${start(one.outerHTML)}`);
  for (const one of all("*"))
    for (const name of one.getAttributeNames())
      if (name.startsWith("on")) wrong.push(`a handler in the page: ${name} of ${one.tagName}`);
  for (const link of all("a[href]")) if (link.origin !== location.origin) wrong.push(`a link leads away: ${link.href}`);
  if (window.hacked) wrong.push("a script ran");
  for (const text of all("main h1, main h2, main button, .ag-header-cell-text, nav a, nav span"))
    if (text.clientWidth > 0 && text.scrollWidth > text.clientWidth + 2)
      wrong.push(`cut off: ${start(text.textContent)}`);
  for (const input of all("main input.dash-input-element"))
    if (input.offsetWidth < 80) wrong.push(`${input.id} is ${input.offsetWidth} px wide`);
  const out = (a, b) => a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
  for (const plot of all("main .js-plotly-plot")) {
    const box = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll("svg.main-svg text")) {
      const rect = text.getBoundingClientRect();
      if (rect.width && !text.closest(".hoverlayer, .modebar-container") && out(rect, box))
        wrong.push(`${plot.closest("[id]").id}: cut off: ${start(text.textContent)}`);
    }
  }
  return wrong;
}
"""


def missing() -> str:
    """What this machine lacks for these tests; empty when nothing."""
    lacks = [] if chromium() else ["chromium"]
    lacks += [] if find_spec("playwright") else ["the Python package playwright"]
    return f"no {', no '.join(lacks)} here" if lacks else ""


def chromium() -> str | None:
    """Where Chromium is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Watch:
    """What a page complains about, and which requests leave the machine, since the last call."""

    def __init__(self, page: Page, address: str) -> None:
        self.home, self.errors, self.away = urlsplit(address).netloc, list[str](), list[str]()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("response", self._response)
        page.on("request", self._request)
        page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and "GPU stall" not in message.text:  # software WebGL says that
            self.errors.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self.errors.append(f"{response.status} for {response.url}")

    def _request(self, request: Request) -> None:
        there = urlsplit(request.url)
        if there.scheme not in ("data", "blob") and there.netloc != self.home:
            self.away.append(request.url)

    def take(self) -> list[str]:
        """The complaints and the requests elsewhere, which are then forgotten."""
        found = [*self.errors, *(f"asked elsewhere: {url}" for url in self.away)]
        self.errors.clear()
        self.away.clear()
        return found


def flaws(page: Page) -> list[str]:
    """What is wrong with the shown page, in sentences: injected elements, turned text, what is cut off or too wide."""
    return page.evaluate(_FLAWS, TURNING)


def open_table(page: Page, address: str) -> None:
    """Go there, and wait for rows."""
    page.goto(address)
    page.wait_for_selector(FILLED)


def column(page: Page, name: str, n: int = 10) -> list[str]:
    """The first cells of a column, top to bottom."""
    script = """([rows, name, n]) => [...document.querySelectorAll(rows)]
      .sort((a, b) => Number(a.getAttribute("row-index")) - Number(b.getAttribute("row-index")))
      .slice(0, n).map((row) => row.querySelector(`[col-id="${name}"]`)?.textContent ?? "")"""
    return page.evaluate(script, [ROWS, name, n])


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium that reaches this machine alone; the tests skip where there is none, or fail where it is wanted."""
    if lacks := missing():
        if os.environ.get("INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(f"INTERP_REQUIRE_BROWSER=1, but {lacks}")
        pytest.skip(lacks)
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--enable-unsafe-swiftshader",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE 127.0.0.2",
    ]
    with sync_playwright() as playwright:
        there = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield there
        there.close()


@contextmanager
def opened(browser: Browser, address: str, width: int = 1280) -> Iterator[tuple[Page, Watch]]:
    """A page of a browser without a past, and what is watched of it."""
    context = browser.new_context(viewport={"width": width, "height": 860})
    page = context.new_page()
    page.set_default_timeout(15_000)
    try:
        yield page, Watch(page, address)
    finally:
        context.close()


def visit(page: Page, path: str, seen: str) -> None:
    """Go to a path of the explorer as its own links do, without loading the whole anew, and wait for a selector."""
    script = """(path) => {
      history.pushState({}, "", path);
      dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    }"""
    here = urlsplit(page.url)
    if path != f"{here.path}?{here.query}".rstrip("?"):
        with page.expect_response(lambda answer: "page.children" in (answer.request.post_data or "")):
            page.evaluate(script, path)
        settle(page)
    page.wait_for_selector(seen)
    settle(page)


def settle(page: Page) -> None:
    """Until nothing is being made any more, and what was made is drawn."""
    page.wait_for_function("() => !document.querySelector('[data-dash-is-loading]')")
    page.evaluate("() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def wait_for_path(page: Page, path: str) -> None:
    page.wait_for_function("path => location.pathname === path", arg=path)


def wait_for_first(page: Page, number: int | str, name: str = "number") -> None:
    """Until the table's first row shows that."""
    script = """([rows, name, wanted]) => document.querySelector(`${rows}[row-index="0"] [col-id="${name}"]`)
      ?.textContent === wanted"""
    page.wait_for_function(script, arg=[ROWS, name, str(number)])


def click_head(page: Page, name: str, times: int = 1) -> None:
    for _ in range(times):
        page.click(f'.ag-header-cell[col-id="{name}"] .ag-header-cell-text')
