"""The tensor dimensions that annotations name are checked while the tests run: an import hook wraps every function.

After a call, each tensor that came in or went out must have the axes of its jaxtyping annotation, one length for one
name. Calls that raise are left alone: refusing a wrong shape is the function's own business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from inspect import Signature, signature
from types import FunctionType, ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def install(package: str) -> None:
    """Check every function of `package` that is imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which fails where a tensor has other dimensions than its annotation says."""
    hints: dict[str, Any] = {}
    known: list[Signature] = []

    @wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not known:
            known.append(signature(function))
            hints.update(_tensor_hints(function))
        if hints:
            given = known[0].bind(*args, **kwargs).arguments
            _compare(function, hints, given | {"return": result})
        return result

    return checking


def _tensor_hints(function: Callable[..., Any]) -> dict[str, Any]:
    from jaxtyping import AbstractArray

    try:
        hints = get_type_hints(function)
    except Exception:  # a name that is there under TYPE_CHECKING only
        return {}
    made: dict[str, Any] = {}
    for name, hint in hints.items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        tensors = tuple(o for o in options if isinstance(o, type) and issubclass(o, AbstractArray))
        if tensors:
            made[name] = tensors
    return made


def _compare(function: Callable[..., Any], hints: dict[str, Any], values: dict[str, Any]) -> None:
    from jaxtyping import jaxtyped
    from torch import Tensor

    with jaxtyped("context"):  # in which one name has one length
        for name, options in hints.items():
            value = values.get(name)
            if isinstance(value, Tensor) and not any(isinstance(value, option) for option in options):
                said = " or ".join(str(option.__name__) for option in options)
                shapes = {n: tuple(values[n].shape) for n in hints if isinstance(values.get(n), Tensor)}
                raise AssertionError(f"{function.__qualname__}: {name} is {said} by its annotation; came {shapes}")


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _wrap(vars(module), module.__name__, lambda name, value: setattr(module, name, value))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _wrap(names: Any, module: str, put: Callable[[str, Any], None]) -> None:
    for name, value in list(names.items()):
        if isinstance(value, FunctionType) and value.__module__ == module:
            put(name, checked(value))
        elif isinstance(value, type) and value.__module__ == module and "." not in value.__qualname__:
            _wrap(vars(value), module, lambda n, v, owner=value: setattr(owner, n, v))
        elif isinstance(value, property) and value.fget is not None:
            put(name, property(checked(value.fget), value.fset, value.fdel, value.__doc__))
        elif isinstance(value, staticmethod | classmethod):
            put(name, type(value)(checked(value.__func__)))
        elif isinstance(value, cached_property):
            again = cached_property(checked(value.func))
            again.__set_name__(object, name)
            put(name, again)
