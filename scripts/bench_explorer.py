"""How soon the explorer of a large index shows something, in the browser and at the server.

    python scripts/bench_explorer.py [--features 32768] [--tokens 1048576] [--repeats 5]
    python scripts/bench_explorer.py --page INDEX    # a real index as one HTML file: its size, and when one sees it

The index is made up (`tests/fake_index.py`); its sizes are what a wide dictionary has on a million tokens. `first page`
is the server's first request ever, from the address to rows in the table; the others are medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_index import write_fake_index  # pyright: ignore[reportMissingImports]

from interp.cli.terminal import print_table
from interp.features.read.index import open_index
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare
from interp.views.feature_page import write_page

DOCUMENT = 128  # tokens
ROW = '.ag-row [col-id="label"]:not(:empty)'


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--features", type=int, default=32_768)
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path, help="an index to export instead")
    options = parser.parse_args()
    if options.page is not None:
        measure_page(options.page)
        return
    with tempfile.TemporaryDirectory() as folder:
        texts = [f" word{i}" for i in range(5000)]
        documents = options.tokens // DOCUMENT
        made = write_fake_index(
            Path(folder), features=options.features, documents=documents, length=DOCUMENT, l0=32, texts=texts
        )
        opened: list[Any] = []
        rows = [("open the index", seconds(lambda: opened.append(open_index(made))))]
        server, address = prepare(Context(opened[0]), "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            rows += measure(address, options.features, options.repeats)
        finally:
            server.shutdown()
            server.server_close()
    print(f"{options.features:,} features, {documents * DOCUMENT:,} tokens")
    print_table(("", "seconds"), [(name, f"{value:.3f}") for name, value in rows])


def measure_page(folder: Path) -> None:
    """Export an index and open the file, without a network."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        file = write_page(open_index(folder), Path(place) / "features.html")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(offline=True, viewport={"width": 1280, "height": 860}).new_page()

        def table() -> None:
            page.goto(file.as_uri())
            page.wait_for_selector("tr[data-feature]")

        print(f"{file.stat().st_size / 1e6:.1f} MB; its table is there after {seconds(table):.2f} s")
        browser.close()


def measure(address: str, features: int, repeats: int) -> list[tuple[str, float]]:
    """What a person waits for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})

        def table() -> None:
            page.goto(address)
            page.wait_for_selector(ROW)

        def feature(number: int) -> None:
            page.goto(f"{address}feature/{number}")
            page.wait_for_selector(f'h1:has-text("{number}")')

        def step(number: int) -> None:
            page.keyboard.press("j")
            page.wait_for_selector(f'h1:has-text("{number}")')

        page.goto("about:blank")
        rows = [("first page, nothing cached", seconds(table))]
        rows.append(("first page again", statistics.median(seconds(table) for _ in range(repeats))))
        some = [features // 7 * (i + 1) % (features - 2) for i in range(repeats)]
        rows.append(
            (
                "a feature's page, opened by its address",
                statistics.median(seconds(lambda n=n: feature(n)) for n in some),
            )
        )
        last = some[-1]
        rows.append(
            ("the next feature (j)", statistics.median(seconds(lambda n=last + i + 1: step(n)) for i in range(repeats)))
        )
        answers = (
            "performance.getEntriesByType('resource').filter(e => e.name.includes('_dash-update')).map(e => e.duration)"
        )
        rows.append(("… of which the server's answer", statistics.median(page.evaluate(answers)[-repeats:]) / 1000))
        browser.close()
    return rows


if __name__ == "__main__":
    main()
