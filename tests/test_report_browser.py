"""The report in a real browser: drawn, whole, silent and offline, and a checker that sees when it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import LOCAL, chromium, complaints, flaws, missing, requests, resize, show
from fake_findings import fake_findings
from fake_run import run_info, write_run

from interp.views.report import build_report

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    if lacks := missing():
        if os.environ.get("INTERP_REQUIRE_BROWSER") == "1":
            pytest.fail(f"INTERP_REQUIRE_BROWSER=1, but {lacks}")
        pytest.skip(lacks)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return build_report([write_run(folder / "run", fake_findings())], folder / "report.html")


def test_every_figure_is_drawn_whole_in_a_wide_and_in_a_narrow_window(driver: Chrome, report: Path) -> None:
    """One page: as it is opened, in a window made narrower, and with its tables open."""
    show(driver, report, 1280, 900)
    assert flaws(driver) == []
    assert complaints(driver) == []
    asked = requests(driver)
    assert any(url.endswith("report.html") for url in asked), "the recorder saw not even the page"
    assert [url for url in asked if not url.startswith(LOCAL)] == []
    assert driver.execute_script("return document.querySelectorAll('.plot svg.main-svg').length") > 0
    script = "return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    offered = {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}
    assert set(driver.execute_script(script)) == offered, "no button sends the chart away"
    from selenium.webdriver.support.wait import WebDriverWait

    wide = _plot_width(driver)
    resize(driver, 900, 900)
    WebDriverWait(driver, 20).until(lambda _: _plot_width(driver) < wide and flaws(driver) == [])
    driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert flaws(driver) == []
    assert complaints(driver) == []
    texts = driver.execute_script("return [...document.querySelectorAll('.plot text')].map(t => t.textContent)")
    assert "<bos>" in texts, "labels show their markup"
    assert texts.count("the") == 3  # two in one prompt, one in the other: none merged


def test_several_runs_on_one_page(driver: Chrome, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", fake_findings()[:3], status="interrupted"),
        write_run(tmp_path / "b", [], run_info(probe="dice"), status="failed"),
    ]
    show(driver, build_report(runs, tmp_path / "report.html"), 900, 900)
    assert flaws(driver) == []
    assert complaints(driver) == []


def test_the_page_refuses_foreign_scripts_and_requests(driver: Chrome, report: Path, tmp_path: Path) -> None:
    planted = '<img src="https://example.org/x.png"><script>document.title = "taken over"</script></main>'
    bad = tmp_path / "planted.html"
    bad.write_text(report.read_text(encoding="utf-8").replace("</main>", planted), encoding="utf-8")
    show(driver, bad, 1280, 900)
    assert driver.title != "taken over"
    assert len([line for line in complaints(driver) if "Content Security Policy" in line]) >= 2


BROKEN = {  # what is done to a figure, one after the other, and what the checker says of it that it did not say before
    "Plotly.relayout(plot, {'yaxis.tickfont.size': 9})": "small",
    "Plotly.relayout(plot, {'margin.l': 5, 'yaxis.automargin': false})": "cut off",
    "Plotly.relayout(plot, {height: 150})": "on each other",
    "Plotly.relayout(plot, {width: 1500})": "the page is",
    "Plotly.restyle(plot, {visible: false})": "axes without data",
    "Plotly.purge(plot)": "nothing is drawn",
}


def test_the_checker_sees_a_broken_figure(driver: Chrome, report: Path) -> None:
    show(driver, report, 1280, 900)
    for broken, seen in BROKEN.items():
        assert not any(seen in flaw for flaw in flaws(driver)), seen
        driver.execute_script(f"const plot = document.querySelector('.plot'); return {broken};")
        assert any(seen in flaw for flaw in flaws(driver)), seen


def test_the_checker_sees_a_figure_that_cannot_be_drawn(driver: Chrome, report: Path, tmp_path: Path) -> None:
    bad = tmp_path / "broken.html"
    html = report.read_text(encoding="utf-8")
    start = html.index(">", html.index("data-figure=")) + 1
    bad.write_text(html[:start] + "{ not JSON" + html[start:], encoding="utf-8")
    show(driver, bad, 1280, 900)
    assert any("nothing is drawn" in flaw for flaw in flaws(driver))
    assert complaints(driver) != []


def _plot_width(driver: Chrome) -> float:
    return driver.execute_script("return document.querySelector('.plot svg.main-svg').getBoundingClientRect().width")
