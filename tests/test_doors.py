"""The front doors: every name of theirs is there, and guides, notebook and probes need no other."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

ROOT = Path(__file__).parents[1]
DOORS = ["interp", *(f"interp.{name}" for name in ("analysis", "edits", "features", "figures", "saes", "stats"))]
GUIDES = ["README.md", "CONTRIBUTING.md", "probes/README.md", *sorted(
    file.relative_to(ROOT).as_posix() for file in ROOT.glob("interp/*/README.md"))]  # fmt: skip
TUTORIAL = "notebooks/tutorial.ipynb"
TEMPLATE = "interp/lab/new_probe.py.txt"
PROBES = sorted(file.relative_to(ROOT).as_posix() for file in ROOT.glob("probes/**/*.py"))


def offered(door: str) -> list[str]:
    return importlib.import_module(door).__all__


def complaints(source: str) -> list[str]:
    """Each import, and each attribute of an imported door, that `source` takes from behind the doors."""
    tree = ast.parse(source)
    wrong: list[str] = []
    doors: dict[str, str] = {}  # the name in `source`, and the door that it is
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in DOORS:
                    doors |= {alias.asname: alias.name} if alias.asname else {"interp": "interp"}
                elif alias.name.split(".")[0] == "interp":
                    wrong.append(f"{node.lineno}: import {alias.name}")
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "interp":
            assert node.module is not None
            for alias in node.names:
                if f"{node.module}.{alias.name}" in DOORS:
                    doors[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                elif not is_offered(node.module, alias.name):
                    wrong.append(f"{node.lineno}: from {node.module} import {alias.name}")
    for node in ast.walk(tree):
        door = door_of(node.value, doors) if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and door and not is_offered(door, node.attr):
            wrong.append(f"{node.lineno}: {door}.{node.attr}")
    return wrong


def is_offered(door: str, name: str) -> bool:
    """Does the door have the name? The doors after `interp` are names of it."""
    return door in DOORS and (name in offered(door) or name.startswith("__"))


def door_of(node: ast.expr, doors: dict[str, str]) -> str | None:
    """The door that an expression is: `saes`, `interp.saes`."""
    if isinstance(node, ast.Name):
        return doors.get(node.id)
    if isinstance(node, ast.Attribute) and (above := door_of(node.value, doors)):
        return f"{above}.{node.attr}" if f"{above}.{node.attr}" in DOORS else None
    return None


def sources(file: str) -> Iterator[str]:
    """The Python in a file: of a guide its blocks, of a notebook its code cells without the lines for IPython alone."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        yield from re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    elif file.endswith(".ipynb"):
        cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        yield from (re.sub(r"^[%!].*$", "", "".join(cell["source"]), flags=re.MULTILINE) for cell in cells)
    else:
        yield re.sub(r"\$\w+", "filled_in", text)


def behind_the_doors(file: str) -> list[str]:
    return [f"{file}: {wrong}" for source in sources(file) for wrong in complaints(source)]


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_is_there_and_its_three_tables_agree(door: str) -> None:
    """Python's table, `__all__` and the imports for type checkers name the same things from the same modules."""
    module = importlib.import_module(door)
    assert module.__file__ is not None
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    assert {name for name in dir(module) if not name.startswith("_")} == set(module.__all__)
    imports = typed_imports(Path(module.__file__))
    assert set(imports) == set(module.__all__)
    for name, (home, own) in imports.items():
        expected = (
            importlib.import_module(f"interp.{own}") if home == "interp" else vars(importlib.import_module(home))[own]
        )
        assert getattr(module, name) is expected, f"{door}.{name} is not {home}.{own}"


def typed_imports(file: Path) -> dict[str, tuple[str, str]]:
    """What a door imports under TYPE_CHECKING: the name that it offers, the module, and the name there."""
    (block,) = (node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    froms = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (node.module or "", alias.name) for node in froms for alias in node.names}


@pytest.mark.parametrize("door", DOORS)
def test_no_name_of_a_door_is_one_of_its_modules(door: str) -> None:
    """Python puts an imported module into its package by its name, and the door's name would be gone from then on."""
    assert shadowed(door, offered(door)) == []


def shadowed(door: str, names: list[str]) -> list[str]:
    folders = getattr(importlib.import_module(door), "__path__", [])
    modules = {module.name for module in pkgutil.iter_modules(folders)}
    return sorted(modules & {name for name in names if f"{door}.{name}" not in DOORS})


def test_a_planted_shadow_is_found() -> None:
    assert shadowed("interp.analysis", ["score_answers", "sparse_readouts"]) == ["sparse_readouts"]
    assert shadowed("interp", ["model", "saes"]) == ["model"], "a door may be a name of the door before it"


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_is_none_names_the_nearest(door: str) -> None:
    module = importlib.import_module(door)
    for name in offered(door):
        with pytest.raises(AttributeError) as refused:
            getattr(module, f"{name}x")
        assert str(refused.value).startswith(f"module {door!r} has no attribute '{name}x'; nearest: {name!r}")
        assert "\n" not in str(refused.value)
    assert not hasattr(module, "_private")
    with pytest.raises(ImportError, match="nothing_like_it"):
        exec(f"from {door} import nothing_like_it")


@pytest.mark.parametrize(
    "lines",
    [
        "import interp\nassert callable(interp.stats.known) and callable(interp.figures.draw)",
        "from interp import saes\nimport interp\nassert callable(interp.saes.train) and callable(saes.load_sae)",
        "import interp.saes.edits, interp.model.edits\nassert interp.edits.steer is interp.model.edits.steer",
        "import interp\nassert interp.stats.estimate.Estimate is interp.Estimate",
        "import interp.analysis.sparse_readouts\nassert callable(interp.analysis.score_sparse_readouts)",
        "from interp import *\nfrom interp.features import *\nassert callable(load_model) and callable(attach_live)",
    ],
)
def test_doors_open_in_any_order(lines: str) -> None:
    """Each in a process of its own, in which nothing of the project is imported before."""
    done = warm.run(lines, cwd=ROOT)
    assert done.returncode == 0, done.stderr


HEAVY = ("torch", "transformers", "transformer_lens", "sae_lens", "sklearn", "plotly", "dash")


def loaded_by(lines: str) -> set[str]:
    """Which heavy libraries a process holds after these lines."""
    script = f"{lines}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name for name in HEAVY if name in done.stdout.split()}


def test_a_door_loads_nothing_before_it_is_used_and_then_only_what_it_needs() -> None:
    every = f"import {', '.join(DOORS)}\nfor door in ({', '.join(DOORS)}): dir(door), hasattr(door, 'no_such_name')"
    assert loaded_by(every) == set()
    assert loaded_by("from interp.stats import *") == set(), "statistics need no torch"
    assert loaded_by("from interp.figures import *") == {"plotly"}, "nor do figures"
    blocked = "import sys; sys.modules['torch'] = None\n"
    with pytest.raises(subprocess.CalledProcessError) as needs_it:  # negative control, without torch's own seconds
        loaded_by(f"{blocked}from interp.edits import steer")
    assert "import of torch halted" in needs_it.value.stderr


@pytest.mark.parametrize("file", [*PROBES, TEMPLATE])
def test_probes_import_through_the_doors_alone(file: str) -> None:
    assert behind_the_doors(file) == []


@pytest.mark.parametrize("file", [*GUIDES, TUTORIAL])
def test_guides_and_notebook_import_through_the_doors_alone(file: str) -> None:
    assert behind_the_doors(file) == []


def test_what_is_read_is_all_there_is() -> None:
    """Else the rule could hold because nothing was looked at."""
    assert {"README.md", "probes/README.md", "interp/saes/README.md", "interp/model/README.md"} <= set(GUIDES)
    assert {"probes/dice_roll.py", "probes/_dice_roll/answers.py"} <= set(PROBES)
    shows_no_code = {"interp/stats/README.md"}  # tables of a simulation
    for file in {*GUIDES, TUTORIAL, TEMPLATE} - shows_no_code:
        assert any("interp" in source for source in sources(file)), file


@pytest.mark.parametrize(
    "planted",
    [
        "from interp.analysis.answers import score_answers",
        "from interp.model.edits import scale",
        "from interp.model import edits",
        "from interp import model",
        "from interp.saes import training",
        "from interp.analysis import residual_site",
        "from interp.analysis import no_such_thing",
        "import interp.model.edits",
        "import interp.analysis.answers as answers",
        "def f():\n    from interp.lab.findings import Finding",
        "if TYPE_CHECKING:\n    from interp.model.model import Model",
        "import interp\ninterp.model.edits.scale(2)",
        "from interp import saes\nsaes.loading.sae.load_sae(x)",
        "import interp.analysis as analysis\nanalysis.answers",
    ],
)
def test_a_planted_import_from_behind_the_doors_is_found(planted: str) -> None:
    assert len(complaints(planted)) == 1


def test_what_the_doors_offer_is_not_reported() -> None:
    allowed = """
import interp
import interp.saes as dictionaries
from interp import Lab, edits, probe, saes
from interp.analysis import ask_facts as ask_about
from interp.edits import only
from ._own import part
import torch, interpret
interp.saes.train(interp.load_model("x"))
saes.train(dictionaries.plan_sae, edits.only(edits.scale(2)))
model.edits, model.loading.load, interp.__version__
"""
    assert complaints(allowed) == []
