"""Run the tutorial again and keep its outputs: `make notebook`, or `python scripts/run_notebook.py`.

The notebook is its own source; what is rewritten are its outputs, when every cell has run. They hold nothing of the
machine or the moment: no timings, no log lines, and figures as PNG, which GitHub shows. Needs Chromium.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

TUTORIAL = Path(__file__).parents[1] / "notebooks" / "tutorial.ipynb"
FIGURE = "application/vnd.plotly.v1+json"  # what plotly gives under PLOTLY_RENDERER=plotly_mimetype
WIDTH = 900  # pixels of a figure


def execute(notebook: NotebookNode, folder: Path, seconds: int = 240) -> None:
    """Run every cell in a new kernel that stands in `folder`, in place. RuntimeError names the cell that fails.

    `seconds`: how long a single cell may take.
    """
    settings = {
        "IPYTHONDIR": str(folder / ".ipython"),  # the user's own start-up files are no part of it
        "OMP_WAIT_POLICY": "PASSIVE",
        "PLOTLY_RENDERER": "plotly_mimetype",
    }
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        resources=resources,
        record_timing=False,
        coalesce_streams=True,
    )
    seen: list[str] = []
    client.on_cell_start = lambda cell, cell_index: seen.append(cell["id"])
    try:
        client.execute(env=os.environ | settings)
    except CellExecutionError as error:
        raise RuntimeError(f"cell {seen[-1]!r} failed with {error.ename}: {error.evalue}\n{error.traceback}") from error
    except Exception as error:  # a kernel that died, a cell that took too long
        raise RuntimeError(f"cell {seen[-1] if seen else None!r}: {type(error).__name__}: {error}") from error


def tidy(notebook: NotebookNode) -> None:
    """Drop what changes from run to run and from machine to machine, but no output that was printed on purpose."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode(tags=cell.metadata.tags) if cell.metadata.get("tags") else NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]  # progress, log lines


def draw_figures(notebook: NotebookNode) -> None:
    """Put a PNG in the place of every plotly figure."""
    from draw_picture import photograph  # here: the tests, which execute only, need neither it nor a browser

    with tempfile.TemporaryDirectory() as folder:
        for output in (one for cell in notebook.cells for one in cell.get("outputs", ())):
            if FIGURE in output.get("data", {}):
                picture = Path(folder) / "figure.png"
                photograph(go.Figure(output.data[FIGURE]), picture, WIDTH)
                output.data = NotebookNode({"image/png": base64.b64encode(picture.read_bytes()).decode()})


def main() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        try:
            execute(notebook, Path(folder))
        except RuntimeError as error:
            sys.exit(str(error))
    tidy(notebook)
    draw_figures(notebook)
    nbformat.validate(notebook)
    new = TUTORIAL.with_suffix(".new")
    nbformat.write(notebook, new)
    new.replace(TUTORIAL)
    print(TUTORIAL)


if __name__ == "__main__":
    main()
