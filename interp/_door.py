"""What makes a package a front door: its names load when they are asked for, and a name that is none names the nearest.

A door says each name three times: in its imports under TYPE_CHECKING and in `__all__`, for type checkers and readers,
and in the table given to `lazy`, for Python. `tests/test_doors.py` holds the three equal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from interp.errors import nearest


def lazy(
    door: str, homes: Mapping[str, str], packages: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of the module `door`.

    `homes`: by module, what an import statement would name: `"Asked, KINDS as HEAD_KINDS"`. `packages`: modules of the
    door that are listed with its names. Every other module of it can be reached as well, so that it makes no difference
    what was imported before.
    """
    places: dict[str, tuple[str, str]] = {}
    for module, names in homes.items():
        for text in names.split(", "):
            name, _, shown = text.partition(" as ")
            places[shown or name] = (module, name)
    offered = [*places, *packages]

    def get(name: str) -> Any:
        if name in places:
            module, own = places[name]
            return getattr(import_module(module), own)
        if not name.startswith("_") and _is_module(f"{door}.{name}"):
            return import_module(f"{door}.{name}")
        near = ", ".join(map(repr, nearest(name, offered)))
        raise AttributeError(f"module {door!r} has no attribute {name!r}; nearest: {near}", name=name)

    def list_names() -> list[str]:
        return sorted({*offered, *(name for name in vars(sys.modules[door]) if name.startswith("__"))})

    return get, list_names


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the door is one file, which has no modules in it
        return False
