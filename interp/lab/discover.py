"""Find probes: files in `probes/`, a path, and other packages' entry points. No registry to edit."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from interp.errors import UserError, unknown
from interp.lab.probe import Probe
from interp.paths import expand

GROUP = "interp.probes"


def list_probes() -> dict[str, str]:
    """Every probe that can be run by name, with the first line of its docstring. Imports none of them."""
    found = {file.stem.replace("_", "-"): _first_line(file) for file in _probe_files()}
    found |= {entry.name: f"from {entry.value}" for entry in entry_points(group=GROUP)}
    return dict(sorted(found.items()))


def load_probe(name: str) -> Probe:
    """A probe by name or by the path of its file. Raises UserError with the nearest names."""
    if name.endswith(".py") or "/" in name:
        return _only_probe(_import_file(expand(name)), name)
    plain = name.replace("_", "-")
    files = {file.stem.replace("_", "-"): file for file in _probe_files()}
    if plain in files:
        return _only_probe(importlib.import_module(f"probes.{files[plain].stem}"), name)
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            loaded = entry.load()
            return loaded if isinstance(loaded, Probe) else _only_probe(loaded, name)
    raise unknown("probe", name, list_probes(), "`interp probe` lists them; a path to a .py file works too")


def _probe_files() -> list[Path]:
    found = importlib.util.find_spec("probes")  # not imported: the library does not know the probes
    roots = found.submodule_search_locations if found else None
    return sorted(f for root in roots or () for f in Path(root).glob("*.py") if not f.name.startswith("_"))


def _first_line(file: Path) -> str:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no such probe file: {path}; expected a .py file with a function under @probe")
    name = f"_probe_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; expected a .py file with a function under @probe")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the probe finds its module's docstring and type hints
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
    except (ImportError, NameError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}; mend the probe") from error
    return module


def _only_probe(module: ModuleType, name: str) -> Probe:
    found = [value for value in vars(module).values() if isinstance(value, Probe)]
    if len(found) != 1:
        raise UserError(f"{name} holds {len(found)} probes; expected exactly one function under @probe")
    return found[0]
