"""The tutorial runs from its first cell to its last, and what stands in it is what comes out."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat import NotebookNode

from interp.cli import COMMANDS

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "notebooks" / "tutorial.ipynb"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
# What no committed output may hold: absolute paths of a machine, and a traceback.
MACHINE = re.compile(
    r"(?<![\w.'\"])/(?:home|root|tmp|work|Users|var|opt|usr)\b|[A-Z]:\\|site-packages|\.cache|Traceback"
)


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """`scripts/run_notebook.py`: the test runs the notebook as `make notebook` does."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("run_notebook")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    """The notebook as it lies in the repository."""
    return nbformat.read(TUTORIAL, as_version=4)


@pytest.fixture(scope="module")
def again(runner: ModuleType, committed: NotebookNode, tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The same, run now in a folder of its own."""
    fresh = copy.deepcopy(committed)
    for cell in code_cells(fresh):
        cell.outputs = []
    with pytest.MonkeyPatch.context() as patch:  # the kernel imports the checkout that is tested, wherever it stands
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        runner.execute(fresh, tmp_path_factory.mktemp("notebook"))
    return fresh


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    return "".join(one.text for one in cell.outputs if one.get("name") == "stdout")


def pictures(cell: NotebookNode) -> int:
    return sum(one.output_type in ("display_data", "execute_result") for one in cell.outputs)


def difference(ours: str, theirs: str) -> str | None:
    """What differs between two outputs: a word, or a number by more than another machine's rounding."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (ours, theirs)]
    if words[0] != words[1]:
        return f"words:\n{ours}\nagainst\n{theirs}"
    pairs = zip(*([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (ours, theirs)), strict=True)
    far = [(a, b) for a, b in pairs if abs(a - b) > 0.15 + 0.02 * abs(a)]
    return f"numbers: {far}" if far else None


def test_every_cell_runs_and_says_what_is_committed(committed: NotebookNode, again: NotebookNode) -> None:
    for old, new in zip(code_cells(committed), code_cells(again), strict=True):
        assert pictures(old) == pictures(new), old["id"]
        if "varies" in old.metadata.get("tags", ()):  # what a model says of which it has read nothing
            assert len(printed(old).splitlines()) == len(printed(new).splitlines()) > 0, old["id"]
            continue
        apart = difference(printed(old), printed(new))
        assert apart is None, f"cell {old['id']!r}; `make notebook` refreshes it: {apart}"


def test_the_comparison_sees_a_word_a_verdict_and_a_number_that_changed() -> None:
    line = "yes     A word is likelier. 2.65 [1.43, 3.87] nats; ' Paris' 89.6%, feature 2393"
    assert difference(line, line.replace("2.65", "2.66").replace("89.6", "89.7")) is None
    for old, new in (("yes", "no"), ("' Paris'", "' Rome'"), ("2.65", "3.05"), ("89.6", "80.1"), ("2393", "12")):
        assert difference(line, line.replace(old, new)) is not None, new


def test_what_the_text_says_of_the_outputs_is_so(again: NotebookNode) -> None:
    said = {cell["id"]: printed(cell) for cell in code_cells(again)}
    assert "' Paris' 89" in said["next"].splitlines()[0]
    assert "Paris" not in said["next"].splitlines()[1]  # one space too many
    assert "nearest: 'blocks.14.hook_resid_post'" in said["misspelt"]
    theirs, own, push, last = said["edit"].splitlines()[::2]
    assert "Rome 7" in theirs
    assert own.endswith(" 0.0")
    assert "Paris 8" in push
    assert "Paris 8" in last
    assert said["small-asked"].count("heron 9") == 6  # three seeds, two wordings
    assert [line[:3] for line in said["probe-run"].splitlines()[0:6:2]] == ["yes"] * 3


def test_a_cell_that_fails_is_named(runner: ModuleType, tmp_path: Path) -> None:
    bad = nbformat.v4.new_code_cell("1 / 0", id="the-bad-one")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="good"), bad])
    with pytest.raises(RuntimeError, match="'the-bad-one' failed with ZeroDivisionError"):
        runner.execute(notebook, tmp_path)


def test_what_is_committed_is_whole_small_and_of_no_machine(committed: NotebookNode) -> None:
    nbformat.validate(committed)
    assert TUTORIAL.stat().st_size < 400_000
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    for cell in code_cells(committed):
        assert cell.outputs or cell["id"] == "small", f"{cell['id']} was committed without its output"
        assert set(cell.metadata) <= {"tags"}, cell["id"]
        for output in cell.outputs:
            assert output.output_type != "error", cell["id"]
            assert output.get("name") != "stderr", cell["id"]
            assert set(output.get("data", {})) <= {"image/png"}, cell["id"]
            assert not MACHINE.search(output.get("text", "")), cell["id"]
    assert MACHINE.search("report: /tmp/x/report.html")
    assert MACHINE.search("File /home/me/notes.py")
    assert set(committed.metadata) == {"kernelspec", "language_info"}


def test_tidying_takes_out_the_machine_and_leaves_what_was_printed(runner: ModuleType) -> None:
    cell = nbformat.v4.new_code_cell(
        "print(1)", metadata={"execution": {"iopub.execute_input": "now"}, "tags": ["varies"]}
    )
    outputs = [("stdout", "1\n"), ("stderr", "/home/me: 2 threads")]
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in outputs]
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}}
    )
    runner.tidy(notebook)
    assert [one.text for one in cell.outputs] == ["1\n"]
    assert cell.metadata == {"tags": ["varies"]}
    assert "3.11.7" not in json.dumps(notebook)


def test_its_probe_is_clean_and_its_links_and_commands_exist(committed: NotebookNode, tmp_path: Path) -> None:
    (source,) = (cell.source for cell in committed.cells if cell.source.startswith("%%writefile"))
    file = tmp_path / "priming.py"
    file.write_text(source.partition("\n")[2] + "\n", encoding="utf-8")
    for check in (["check"], ["format", "--check"]):  # ruff passes over cells that begin with %%
        command = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    assert not [link for link in links if not (TUTORIAL.parent / link).exists()]
    named = re.findall(r"^interp (\w+)|`interp (\w+)", text, re.MULTILINE)
    assert {"".join(pair) for pair in named} <= set(COMMANDS)
