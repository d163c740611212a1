"""The explorer of a made-up index with saved runs, and a page in it: fixtures to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from explorer_browser import Watch, opened
from explorer_server import served, with_runs
from fake_index import write_fake_index

from interp.features.read.index import Index, open_index

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("explorer") / "index", features=300))


@pytest.fixture(scope="module")
def address(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(with_runs(index, tmp_path_factory.mktemp("runs"))) as there:
        yield there


@pytest.fixture(scope="module")
def watched(browser: Browser, address: str) -> Iterator[tuple[Page, Watch]]:
    """One page for a whole file: its browser has read the scripts once. Each test goes to an address of its own."""
    with opened(browser, address) as both:
        yield both


@pytest.fixture
def page(watched: tuple[Page, Watch]) -> Iterator[Page]:
    """A page of which nothing may complain, and which asks nobody else."""
    page, watch = watched
    page.mouse.move(0, 0)
    watch.take()
    yield page
    assert watch.take() == []
