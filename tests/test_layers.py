"""The import rule: data flows one way through `interp/`, and each heavy library has one owner.

The rule is read off the source, so it also holds for imports inside functions and under TYPE_CHECKING. What a module
really loads, and what `interp --help` does, is looked at in processes of its own.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A folder of interp/ imports only from itself and from those before it.
ORDER = [
    "errors", "_door", "progress", "paths", "stats", "text", "model", "activations", "saes", "features", "analysis",
    "lab", "views", "cli", "__main__",
]  # fmt: skip
# Inside these, the same holds for the folders of the folder; "" are the files that lie in it directly.
FLOORS = {
    "model": ["hooks", "", "loading", "checking", "training"],
    "saes": ["lineage", "training", "loading", ""],
    "features": ["read", "build", ""],
}
OWNERS = {
    "datasets": "text",
    "transformer_lens": "model",
    "transformers": "model",
    "safetensors": "activations",
    "ray": "activations",
    "sae_lens": "saes",
    "scipy": "stats",
    "sklearn": "analysis",
    "plotly": "views",
    "dash": "views",
    "tyro": "cli",
    "rich": "cli",
}
ENTRY = "from interp.cli import dispatch\ndispatch(['--help'])"  # what the command `interp --help` runs
DOORS = ["analysis", "edits", "features", "figures", "saes", "stats"]
FOR_PROBES = {"interp", "torch", "einops", "numpy", "jaxtyping"} | set(sys.stdlib_module_names)
SLOW_TO_IMPORT = ["torch", "transformers", "transformer_lens", "sae_lens"]


def imports(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Each (line, dotted name) that `file` imports; `from a import b` gives `a.b`, relative imports are resolved."""
    package = file.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


FROM_ITS_MODULE = "import it from the module that defines it, so that the order can be seen"


def door_complaint(name: str, root: Path) -> str | None:
    """What is wrong with `import name` where that goes through the door of a folder, or is one; or None."""
    top, *rest = name.split(".")
    if top != "interp" or not rest or rest[0] not in DOORS or rest[0] not in ORDER:
        return None
    place = root.joinpath("interp", *rest[:2])
    is_module = len(rest) > 1 and (place.is_dir() or place.with_suffix(".py").is_file())
    return None if is_module else FROM_ITS_MODULE


def library_complaint(file: Path, name: str) -> str | None:
    """What is wrong with `import name` in the file at `file` (from the folder `interp` on), or None."""
    folder = file.parts[0].removesuffix(".py")
    top, *rest = name.split(".")
    if top in OWNERS and OWNERS[top] != folder:
        return f"{top} belongs to {OWNERS[top]}/ alone"
    if top in ("probes", "interp_probes"):
        return "the library does not know the probes"
    if top != "interp" or rest == ["__version__"]:
        return None
    if not rest or rest[0] not in ORDER:
        return FROM_ITS_MODULE
    if ORDER.index(rest[0]) > ORDER.index(folder):
        return f"{rest[0]} comes after {folder}"
    if rest[0] == folder and folder in FLOORS:
        here, there = (floor_of(folder, parts) for parts in (file.with_suffix("").parts[1:], rest[1:]))
        if FLOORS[folder].index(there) > FLOORS[folder].index(here):
            return f"{folder}/{there or '*.py'} comes after {folder}/{here or '*.py'}"
    return None


def floor_of(folder: str, parts: Sequence[str]) -> str:
    """Which of the floors of `folder` a module of it is on, by its path inside."""
    return parts[0] if parts and parts[0] in FLOORS[folder] else ""


def is_door(file: Path, root: Path) -> bool:
    """Is this `interp` itself, or the `__init__` of a folder? These load lazily what users import from them."""
    where = file.relative_to(root / "interp").as_posix()
    return where in ("__init__.py", *(f"{door}/__init__.py" for door in DOORS), *(f"{door}.py" for door in DOORS))


def modules(root: Path) -> dict[str, Path]:
    """Every module of `interp/` by its dotted name, doors left out."""
    found = {}
    for file in sorted((root / "interp").rglob("*.py")):
        if not is_door(file, root):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import each other in a circle, imports inside functions and for types included."""
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        wanted = {dotted for _, dotted in imports(file, root)}
        graph[name] = {m for m in (d if d in known else d.rpartition(".")[0] for d in wanted) if m in known} - {name}
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:  # Tarjan's strongly connected components
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def relative_lines(file: Path) -> set[int]:
    """The lines of relative imports: `from . import x`."""
    tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.lineno for node in tree if isinstance(node, ast.ImportFrom) and node.level}


def probe_complaint(file: Path, name: str, relative: bool) -> str | None:
    """What is wrong with `import name` in a probe, or None. `probes/x.py` may have parts of its own in `probes/_x/`."""
    top = name.split(".")[0]
    own = f"_{file.stem}" if file.parent.name == "probes" else file.parent.name
    if top in ("probes", "interp_probes"):
        if name.split(".")[1:2] != [own]:
            return "a probe imports no sibling"
        return (
            None if relative else f"the wheel calls the package interp_probes; write it relatively: from .{own} import"
        )
    return None if top in FOR_PROBES else f"a probe imports interp; {top} is neither that nor a tensor library"


def violations(root: Path) -> list[str]:
    """Every import under `root` that breaks the rule, as `file:line: import name: why`."""
    found: list[str] = []
    for file in sorted((root / "interp").rglob("*.py")):
        folder = file.relative_to(root / "interp").parts[0].removesuffix(".py")
        if is_door(file, root):
            continue  # it names modules of every folder behind it, and loads them only when asked
        where = file.relative_to(root).as_posix()
        if folder not in ORDER:
            found.append(f"{where}:1: {folder} is not in the order {' '.join(ORDER)}")
            continue
        for line, name in imports(file, root):
            if complaint := library_complaint(file.relative_to(root / "interp"), name) or door_complaint(name, root):
                found.append(f"{where}:{line}: import {name}: {complaint}")
    for file in sorted((root / "probes").rglob("*.py")):
        relative = relative_lines(file)
        for line, name in imports(file, root):
            if complaint := probe_complaint(file, name, line in relative):
                found.append(f"{file.relative_to(root).as_posix()}:{line}: import {name}: {complaint}")
    return found


def test_every_import_points_upstream_and_heavy_libraries_keep_to_their_owner():
    assert not violations(ROOT), "\n".join(["", *violations(ROOT)])


def test_no_modules_import_each_other_in_a_circle():
    assert circles(ROOT) == []


def test_a_planted_circle_is_found(tmp_path: Path):
    """Also one that is closed inside a function, or for a type alone."""
    folder = tmp_path / "interp" / "lab"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("def f():\n    from interp.lab.b import g")
    (folder / "b.py").write_text("from interp.lab import c")
    (folder / "c.py").write_text("if TYPE_CHECKING:\n    from interp.lab.a import f")
    (folder / "d.py").write_text("from interp.lab.a import f")
    assert circles(tmp_path) == [["interp.lab.a", "interp.lab.b", "interp.lab.c"]]


def test_every_folder_of_the_order_exists():
    """Else a renamed folder would leave a rule about nothing."""
    named = [*ORDER, *(f"{folder}/{floor}" for folder, floors in FLOORS.items() for floor in floors)]
    missing = [n for n in named if not any((ROOT / "interp" / f"{n}{end}").exists() for end in ("", ".py"))]
    assert not missing


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("interp/text/a.py", "from interp.model.loading.load import load_model", "model comes after text"),
        ("interp/errors.py", "import interp.text.data", "text comes after errors"),
        ("interp/model/a.py", "def f():\n    from interp.saes import train", "saes comes after model"),
        ("interp/model/a.py", "from ..lab import runs", "lab comes after model"),
        ("interp/lab/a.py", "if 0:\n    from interp.views.figures import Fig", "views comes after lab"),
        ("interp/lab/a.py", "from importlib import import_module\nimport_module('interp.cli')", "cli comes after lab"),
        ("interp/views/a.py", "from interp import load_model", "import it from the module that defines it"),
        ("interp/views/a.py", "import interp", "import it from the module that defines it"),
        ("interp/lab/a.py", "import plotly.express as px", "plotly belongs to views/ alone"),
        ("interp/text/a.py", "from transformers import AutoTokenizer", "transformers belongs to model/ alone"),
        ("interp/saes/a.py", "from safetensors.torch import load_file", "safetensors belongs to activations/ alone"),
        ("interp/lab/a.py", "from probes import dice", "the library does not know the probes"),
        ("interp/lab/a.py", "import interp_probes.dice", "the library does not know the probes"),
        ("interp/model/hooks/a.py", "from interp.model.model import Model", "model/*.py comes after model/hooks"),
        ("interp/model/model.py", "from interp.model.loading.load import x", "model/loading comes after model/*.py"),
        ("interp/saes/training/a.py", "from interp.saes.edits import x", "saes/*.py comes after saes/training"),
        ("interp/features/read/a.py", "from ..build import x", "features/build comes after features/read"),
        ("interp/analysis/a.py", "from interp.analysis import g", "import it from the module that defines it"),
        ("interp/analysis/a.py", "from . import g", "import it from the module that defines it"),
        ("interp/analysis/a.py", "def f():\n    from interp.saes import load_sae", "import it from the module"),
        ("interp/lab/a.py", "import interp.stats", "import it from the module that defines it"),
        ("interp/lab/a.py", "if 0:\n    import interp.features as f", "import it from the module that defines it"),
        ("interp/lab/a.py", "from importlib import import_module\nimport_module('interp.stats')", "import it from"),
        ("interp/lab/a.py", "from interp.analysis import *", "import it from the module that defines it"),
        ("interp/utils/a.py", "x = 1", "utils is not in the order"),
        ("interp/utils.py", "x = 1", "utils is not in the order"),
        ("probes/a.py", "from probes.b import helper", "a probe imports no sibling"),
        ("probes/a.py", "from .b import helper", "a probe imports no sibling"),
        ("probes/a.py", "from probes._b.part import helper", "a probe imports no sibling"),
        ("probes/a.py", "from ._b.part import helper", "a probe imports no sibling"),
        ("probes/_a/part.py", "from ..b import helper", "a probe imports no sibling"),
        ("probes/_a/part.py", "from .. import b", "a probe imports no sibling"),
        ("probes/a.py", "import interp_probes.b", "a probe imports no sibling"),
        ("probes/a.py", "from probes._a.part import helper", "the wheel calls the package interp_probes"),
        ("probes/_a/part.py", "from interp_probes._a import X", "the wheel calls the package interp_probes"),
        ("probes/a.py", "import importlib\nimportlib.import_module('probes._a.part')", "write it relatively"),
        ("probes/a.py", "import transformers", "a probe imports interp"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, why: str):
    """Negative controls: each wrong import, alone in a tree of its own."""
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert why in found[0]


def test_what_the_rule_allows_is_not_reported(tmp_path: Path):
    allowed = {
        "interp/views/a.py": "import plotly\nfrom interp.lab.runs import read_run\nfrom . import b",
        "interp/analysis/g.py": "from interp.analysis import h\nfrom . import h as other\nimport interp.analysis.h",
        "interp/analysis/h.py": "from interp.stats.estimate import Estimate\nfrom interp.stats import estimate",
        "interp/stats/estimate.py": "x = 1",
        "interp/cli.py": "import rich, tyro\nfrom interp import __version__\nfrom interp import lab, views",
        "interp/model/a.py": "import torch, transformers, gguf\nfrom interp.errors import UserError",
        "probes/a.py": "import json, torch\nfrom interp.analysis import a\nfrom ._a.part import x",
        "probes/_a/part.py": "from interp import Lab\nfrom . import X\nfrom .other import Y",
    }
    for path, source in allowed.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    assert violations(tmp_path) == []


BLOCKED = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def import_without_torch(*modules: str) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.format(blocked=SLOW_TO_IMPORT)
    return subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True, check=False)


def test_views_and_saved_findings_need_no_torch():
    views = [f"interp.views.{file.stem}" for file in (ROOT / "interp" / "views").glob("*.py")]
    assert len(views) > 1
    done = import_without_torch("interp.lab.findings", "interp.lab.runs", *views)
    assert done.returncode == 0, done.stderr


def test_the_import_blocker_blocks():
    assert "torch is blocked" in import_without_torch("torch").stderr
    assert "torch is blocked" in import_without_torch("interp.model.model").stderr, "also behind an import of ours"


def loaded_by(source: str) -> set[str]:
    """Which of the slow libraries a fresh interpreter holds after running `source`."""
    script = f"{source}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(SLOW_TO_IMPORT) & set(done.stdout.split())


def test_importing_interp_loads_nothing_slow():
    assert loaded_by("import interp, interp.errors; dir(interp)") == set()
    assert loaded_by("import sys; sys.modules['torch'] = sys") == {"torch"}, "negative control, without its seconds"


def test_help_answers_at_once():
    """It loads nothing slow: that is what the time is spent on, and no clock of a busy machine need be asked."""
    command = [str(Path(sysconfig.get_path("scripts")) / "interp"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "probe" in done.stdout
    assert loaded_by(ENTRY) == set()
    assert loaded_by(f"{ENTRY}\nimport sys; sys.modules['torch'] = sys") == {"torch"}, "negative control"
