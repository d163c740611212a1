"""Takes the README's picture of the explorer: `python scripts/draw_explorer.py INDEX`, with Chromium and Playwright."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from interp.features.read.index import open_index
from interp.text.data import data
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare

FEATURE = 1866
WIDTH, HEIGHT = 1280, 980


def main() -> None:
    server, address = prepare(Context(open_index(Path(sys.argv[1]))), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{address}feature/{FEATURE}")
        page.wait_for_selector("#cofiring .main-svg")
        page.wait_for_timeout(500)
        page.screenshot(path=data("pictures") / "explorer.png")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
