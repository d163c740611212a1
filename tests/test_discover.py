"""Where probes come from: the folder beside `interp/`, and files anywhere, never a package that is called the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from refusals import the_line

from interp.errors import UserError
from interp.lab import discover
from interp.lab.discover import list_probes, load_probe

PROBE = '''
"""{title}"""
from collections.abc import Iterator
from interp import Finding, Lab, probe
from ._{name} import WORD
from ._{name}.more import SAME

@probe()
def {name}(lab: Lab, *, word: str = WORD + SAME) -> Iterator[Finding]:
    """Ask nothing."""
    yield from ()
'''


def lay_down(folder: Path, name: str, word: str, title: str = "A title?") -> Path:
    """A probe that keeps its parts in a folder of its own."""
    parts = folder / f"_{name}"  # as `probes/` has it
    parts.mkdir(parents=True, exist_ok=True)
    (parts / "__init__.py").write_text(f"WORD = {word!r}")
    (parts / "more.py").write_text("from . import WORD\nSAME = WORD")
    file = folder / f"{name}.py"
    file.write_text(PROBE.format(name=name, title=title).lstrip())
    return file


def word_of(probe: discover.Probe) -> str:
    return probe.parameters()["word"][1]


def make_checkout(root: Path, project: str = "interp-probes", folder: str = "probes") -> Path:
    """What lies beside `interp/`: a probe `alpha`, in a project of that name."""
    lay_down(root / folder, "alpha", "beside")
    (root / folder / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    return root


def forget_bundled() -> dict[str, ModuleType]:
    """Take every module of bundled probes out of `sys.modules`, and return them."""
    packages = ("probes", "interp_probes", "_bundled_probes", "_bundled_interp_probes")
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in packages}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is taken for the one that holds `interp/`."""
    monkeypatch.setattr(discover, "BESIDE", tmp_path)
    before = forget_bundled()
    yield tmp_path
    forget_bundled()
    sys.modules |= before


@pytest.mark.parametrize("folder", ["probes", "interp_probes"])
def test_the_probes_beside_interp_are_listed_and_run(beside: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    """In a checkout and in a wheel, whether or not Python's path has the place."""
    make_checkout(beside, folder=folder)
    assert list_probes() == {"alpha": "A title?"}
    assert word_of(load_probe("alpha")) == "besidebeside"
    forget_bundled()
    monkeypatch.syspath_prepend(beside)
    alpha = load_probe("alpha")
    assert word_of(alpha) == "besidebeside"
    assert alpha.function.__module__ == f"{folder}.alpha", "what tests and users import by that name is the same module"


@pytest.mark.parametrize("imported", [False, True])
def test_a_foreign_package_of_that_name_is_neither_listed_nor_run(
    beside: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, imported: bool
):
    """Also where it stands earlier on the path, and where it is imported already."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for package in ("probes", "interp_probes"):
        lay_down(elsewhere / package, "alpha", "foreign", "Foreign?")
        (elsewhere / package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    if imported:
        importlib.import_module("probes.alpha")
    make_checkout(beside)
    assert list_probes() == {"alpha": "A title?"}
    assert word_of(load_probe("alpha")) == "besidebeside"
    assert word_of(load_probe("alpha")) == "besidebeside", "the second time, too"
    assert importlib.import_module("probes.alpha").WORD == "foreign", "and who wants the foreign one has it"


def test_a_folder_of_that_name_in_another_project_is_none_of_the_projects_probes(beside: Path):
    """Somebody keeps a copy of `interp/` beside a package `probes` of theirs; or a wheel's own probes were removed."""
    make_checkout(beside, project="interp-probes")
    assert list_probes() == {"alpha": "A title?"}, "negative control"
    make_checkout(beside, project="somebody-elses")
    assert list_probes() == {}
    (beside / "pyproject.toml").write_text("project = 3 [")
    assert list_probes() == {}
    (beside / "pyproject.toml").unlink()
    assert list_probes() == {}
    with pytest.raises(UserError, match="unknown probe 'alpha'; nearest: none exist") as refused:
        load_probe("alpha")
    the_line(refused)


def test_what_the_wheel_installed_comes_before_a_foreign_folder_beside_it(beside: Path):
    make_checkout(beside, folder="interp_probes")
    lay_down(beside / "probes", "space", "foreign")
    assert list(list_probes()) == ["alpha"]


def test_a_file_finds_the_parts_in_a_folder_beside_it(tmp_path: Path):
    assert word_of(load_probe(str(lay_down(tmp_path / "my work.d", "alpha", "mine")))) == "minemine"


def test_two_files_of_one_name_keep_their_own_parts_and_methods(tmp_path: Path):
    first = load_probe(str(lay_down(tmp_path / "a", "alpha", "one", "The first?")))
    second = load_probe(str(lay_down(tmp_path / "b", "alpha", "two", "The second?")))
    beside_it = load_probe(str(lay_down(tmp_path / "a", "beta", "three", "The third?")))
    assert [word_of(probe) for probe in (first, second, beside_it)] == ["oneone", "twotwo", "threethree"]
    assert [probe.title for probe in (first, second, beside_it)] == ["The first?", "The second?", "The third?"]


def test_a_part_that_was_changed_is_read_anew(tmp_path: Path):
    file = lay_down(tmp_path, "alpha", "old")
    assert word_of(load_probe(str(file))) == "oldold"
    lay_down(tmp_path, "alpha", "newer")
    assert word_of(load_probe(str(file))) == "newernewer"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("from ._alpha.nowhere import x", "cannot be imported: ModuleNotFoundError"),
        ("from ..above import x", "cannot be imported: ImportError"),
        ("from ._alpha import x", "cannot be imported: ImportError"),
        ("def (", "is not Python"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path: Path, fault: str, line: str):
    file = lay_down(tmp_path, "alpha", "mine")
    file.write_text(f"{fault}\n{file.read_text()}")
    with pytest.raises(UserError, match=line) as refused:
        load_probe(str(file))
    assert the_line(refused).startswith(str(file))


def test_a_part_that_is_not_python_is_named(tmp_path: Path):
    file = lay_down(tmp_path, "alpha", "mine")
    (tmp_path / "_alpha" / "more.py").write_text("x = 1\ndef (")
    with pytest.raises(UserError, match=r"more\.py line 2 is not Python") as refused:
        load_probe(str(file))
    the_line(refused)
