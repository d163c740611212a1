"""Find probes: the bundled ones, a path, and other packages' entry points. No registry to edit.

The bundled probes lie beside `interp/`: in `probes/` in a checkout, and in `interp_probes/` where the wheel installed
them. They are found by that place and never by a search for the name `probes`, which other packages have too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import tomllib
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from interp.errors import UserError, unknown
from interp.lab.probe import Probe
from interp.paths import expand

GROUP = "interp.probes"
BESIDE = Path(__file__).resolve().parents[2]  # the folder that holds `interp/`
IN_WHEEL, IN_CHECKOUT = "interp_probes", "probes"


def list_probes() -> dict[str, str]:
    """Every probe that can be run by name, with the first line of its docstring. Imports none of them."""
    found = {name: _first_line(file) for name, file in _bundled().items()}
    found |= {entry.name: f"from {entry.value}" for entry in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def load_probe(name: str) -> Probe:
    """A probe by name or by the path of its file. Raises UserError with the nearest names."""
    if name.endswith(".py") or "/" in name:
        return _only_probe(_import_file(expand(name)), name)
    file = _bundled().get(name.replace("_", "-"))
    if file is not None:
        return _only_probe(importlib.import_module(f"{_package_at(file.parent)}.{file.stem}"), name)
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            loaded = entry.load()
            return loaded if isinstance(loaded, Probe) else _only_probe(loaded, name)
    for file in (Path(f"{name}.py"), Path(f"{name.replace('-', '_')}.py")):
        if file.is_file():
            raise UserError(
                f"unknown probe {name!r}; {file} lies here: name the file to run it, as `interp probe {file}`"
            )
    raise unknown("probe", name, list_probes(), "`interp probe` lists them; a path to a .py file works too")


def _bundled() -> dict[str, Path]:
    """The files of the bundled probes by the name of the probe."""
    folder = _bundled_folder()
    files = sorted(folder.glob("*.py")) if folder else []
    return {file.stem.replace("_", "-"): file for file in files if not file.name.startswith("_")}


def _bundled_folder() -> Path | None:
    """Where the bundled probes lie. Outside a checkout of this project, a folder `probes/` is somebody else's."""
    if (BESIDE / IN_WHEEL).is_dir():
        return BESIDE / IN_WHEEL
    in_checkout = BESIDE / IN_CHECKOUT
    return in_checkout if in_checkout.is_dir() and _is_checkout(BESIDE / "pyproject.toml") else None


def _is_checkout(settings: Path) -> bool:
    """Do these settings build this project? A project that keeps a copy of `interp/` may have `probes/` of its own."""
    try:
        return tomllib.loads(settings.read_text(encoding="utf-8"))["project"]["name"] == "interp-probes"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _package_at(folder: Path) -> str:
    """The name to import the package in `folder` by: its own, unless Python finds another package by that name."""
    if _lies_in(_find_spec(folder.name), folder):
        return folder.name
    name = f"_bundled_{folder.name}"
    if name not in sys.modules:
        _import_at(name, folder / "__init__.py", [str(folder)])
    return name


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module of that name was put into sys.modules by hand
        return None


def _lies_in(spec: ModuleSpec | None, folder: Path) -> bool:
    places = (spec.submodule_search_locations if spec else None) or ()
    return folder in [Path(place).resolve() for place in places]


def _first_line(file: Path) -> str:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def _import_file(path: Path) -> ModuleType:
    """Import a probe's file anew, in a package made for it: `from ._my_probe import x` reads the folder beside it."""
    if not path.is_file():
        raise UserError(f"no such probe file: {path}; expected a .py file with a function under @probe")
    place = path.resolve()
    package = f"_probe_{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"  # two files of one name stay apart
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        del sys.modules[name]  # its parts, which may have changed since
    parent = ModuleType(package)
    parent.__path__ = [str(place.parent)]
    sys.modules[package] = parent
    try:
        return _import_at(f"{package}.{place.stem.replace('.', '_')}", path)
    except SyntaxError as error:
        raise UserError(f"{error.filename or path} line {error.lineno} is not Python: {error.msg}") from error
    except (ImportError, NameError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}; fix the probe") from error


def _import_at(name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    """Import the file at `path` under `name`; with `folders`, as the package that has its modules there."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; expected a .py file with a function under @probe")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the probe finds its module's docstring and type hints
    spec.loader.exec_module(module)
    return module


def _only_probe(module: ModuleType, name: str) -> Probe:
    found = [value for value in vars(module).values() if isinstance(value, Probe)]
    if len(found) != 1:
        raise UserError(f"{name} holds {len(found)} probes; expected exactly one function under @probe")
    return found[0]
