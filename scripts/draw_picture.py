"""Save one figure of a run as a PNG for the README: `python scripts/draw_picture.py runs/…/reversal-curse --out x.png`.

Needs Chromium. The picture is the report's own figure, without the buttons that a picture has no use for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import tyro

from interp.errors import UserError
from interp.lab.runs import read_run
from interp.views.figures import draw

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")


@dataclass(frozen=True)
class Settings:
    """Which figure, and where to."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    out: Path
    """PNG file to write."""
    finding: int = 0
    """Number of the finding whose figure to draw, from 0."""
    width: int = 1060
    """Pixels."""


def photograph(figure: go.Figure, out: Path, width: int) -> None:
    """Write `figure` as a PNG of so many pixels, by the browser that would show it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium here; install it, on Debian: apt-get install chromium")
    height = int(figure.to_dict()["layout"].get("height") or 400)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False, "responsive": True})
        page.write_text(page.read_text(encoding="utf-8").replace("<body>", '<body style="margin:0">'), "utf-8")
        shot = f"--screenshot={out.resolve()}"
        size = f"--window-size={width},{height}"
        command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", size, shot, page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main(settings: Settings) -> None:
    figure = draw(read_run(settings.run).findings[settings.finding])
    if not isinstance(figure, go.Figure):
        sys.exit(f"the figure of finding {settings.finding} is text, no picture; choose another --finding")
    photograph(figure, settings.out, settings.width)
    print(settings.out)


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        sys.exit(str(error))
