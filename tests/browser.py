"""Opens a local HTML file in headless Chromium without a network, and says what is wrong with what it shows."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

LOCAL = ("file:", "data:", "blob:")

# Each check answers with sentences, so that a failing test names the figure and the label. A pixel of rounding is free.
_CHECKS = """
const wrong = [];
const out = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
  || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
if (document.documentElement.scrollWidth > innerWidth)
  wrong.push(`the page is ${document.documentElement.scrollWidth} px wide in a window of ${innerWidth}`);
for (const plot of document.querySelectorAll(".plot")) {
  const drawn = plot.querySelector("svg.main-svg, canvas");
  const box = drawn && drawn.getBoundingClientRect();
  if (!box || box.width < 100 || box.height < 80) { wrong.push(`${plot.id}: nothing is drawn`); continue; }
  if (!plot.querySelector(".trace, .bars .point, .hm image")) wrong.push(`${plot.id}: axes without data`);
  if (box.right > innerWidth + 1) wrong.push(`${plot.id}: wider than the window`);
  const ticks = [];
  for (const text of plot.querySelectorAll("svg.main-svg text")) {
    const rect = text.getBoundingClientRect();
    if (!rect.width || text.closest(".hoverlayer, .modebar-container")) continue;
    if (out(rect, box)) wrong.push(`${plot.id}: cut off: ${text.textContent}`);
    if (parseFloat(getComputedStyle(text).fontSize) < 13) wrong.push(`${plot.id}: small: ${text.textContent}`);
    const turned = /rotate\\((?!0[,)])/.test(text.getAttribute("transform") || "");
    if (text.closest(".xtick, .ytick") && !turned) ticks.push([text, rect]);
  }
  ticks.forEach(([text, a], i) => ticks.slice(i + 1).forEach(([other, b]) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 2 && high > 4) wrong.push(`${plot.id}: on each other: ${text.textContent} | ${other.textContent}`);
  }));
}
return wrong;
"""


def missing() -> str:
    """What this machine lacks for the browser tests; empty when nothing."""
    lacks = [
        name for name, there in (("chromium", _chromium()), ("chromedriver", shutil.which("chromedriver"))) if not there
    ]
    lacks += [] if find_spec("selenium") else ["the Python package selenium"]
    return f"no {', no '.join(lacks)} here" if lacks else ""


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A fresh browser that can resolve no host name and records its console and its requests."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium() or ""
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += "disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*flags.split(), f"user-data-dir={profile}", "host-resolver-rules=MAP * ~NOTFOUND"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def show(driver: Chrome, html: Path, width: int, height: int) -> None:
    """Open the file in a window of exactly that size and wait until its figures are drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    resize(driver, width, height)
    for log in ("browser", "performance"):
        driver.get_log(log)  # what the browser's own start page did is no business of ours
    driver.get(html.resolve().as_uri())
    WebDriverWait(driver, 60).until(lambda d: d.execute_script("return document.documentElement.dataset.figures"))


def resize(driver: Chrome, width: int, height: int) -> None:
    """Make the window exactly that large; the page hears of it as of any resizing."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def flaws(driver: Chrome) -> list[str]:
    """What is wrong with the shown page, in sentences: empty figures, cut-off or overlapping labels, overflow."""
    return driver.execute_script(_CHECKS)


def complaints(driver: Chrome) -> list[str]:
    """Console errors and warnings since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(driver: Chrome) -> list[str]:
    """Addresses asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [_address(m["params"]) for m in messages if m["method"] == "Network.requestWillBeSent"]


def _address(params: dict[str, Any]) -> str:
    return str(params["request"]["url"])


def screenshot(html: Path, png: Path, width: int, height: int) -> Path:
    """Save the page as it looks in a window of that width, from its top to its end or `height`, whichever is more."""
    with chromium() as driver:
        show(driver, html, width, height)
        whole = driver.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": max(height, whole), "scale": 1}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    png.write_bytes(base64.b64decode(shot["data"]))
    return png
