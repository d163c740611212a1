"""The tensor dimensions that annotations name, checked while the tests run: `install` wraps what is imported after it.

After each call, the tensors that came in and went out must have the axes of their jaxtyping annotations, one length for
one name. A call that raises is left alone: refusing a wrong shape is the function's own business. jaxtyping's own
import hook would check every type of every call as well, at twice the tests' time, and before a function can refuse
what a user may give it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from inspect import signature, unwrap
from types import FunctionType, ModuleType, UnionType
from typing import Any, Union, get_args, get_origin

from jaxtyping import AbstractArray, jaxtyped


def install(*packages: str) -> None:
    """Check the functions of these packages that are imported from now on."""
    sys.meta_path.insert(0, _Finder(packages))


def check_dimensions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which fails where a tensor has other dimensions than its annotation says.

    One whose annotations name no dimensions comes back as it is.
    """
    names = unwrap(function).__globals__  # of the module that wrote it, not of one that decorates it
    said = {name: text for name, text in function.__annotations__.items() if _may_name_dimensions(str(text), names)}
    if not said:
        return function
    parameters = signature(function)
    hints: dict[str, Any] = {}

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not hints:  # at the first call, when every module that an annotation names is there
            hints.update({n: eval(t, names) if isinstance(t, str) else t for n, t in said.items()})
        _compare(function, hints, parameters.bind(*args, **kwargs).arguments | {"return": result})
        return result

    return checked


def _may_name_dimensions(text: str, names: Mapping[str, Any]) -> bool:
    """Is there a tensor with axes in this annotation, or the name of a type that has one?"""
    words = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    return "Tensor, " in text or any(_axes(names.get(word)) for word in words)


def _axes(hint: Any) -> bool:
    """Does this type, or an alias of it, name axes somewhere?"""
    return _is_array(hint) or any(_axes(part) for part in get_args(hint))


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _compare(function: Callable[..., Any], hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    with jaxtyped("context"):  # in which one name has one length
        for name, hint in hints.items():
            for tensor, arrays in _tensors(hint, values.get(name)):
                if not any(isinstance(tensor, array) for array in arrays):
                    said = " or ".join(array.__name__ for array in arrays)
                    came = {n: tuple(getattr(values.get(n), "shape", ())) for n in hints}
                    raise AssertionError(
                        f"{function.__qualname__}: {name} is {said} by its annotation, and {tuple(tensor.shape)} came; "
                        f"beside it {came}"
                    )


def _tensors(hint: Any, value: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The tensors of a value, each with the arrays of the annotation that it may be."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    arrays = [option for option in options if _is_array(option) and isinstance(value, option.array_type)]
    if arrays:
        yield value, arrays
    for option in options:
        origin, parts = get_origin(option), get_args(option)
        if not isinstance(origin, type) or not isinstance(value, origin):
            continue
        if issubclass(origin, Mapping):
            held: Iterable[tuple[Any, Any]] = ((parts[1], v) for v in value.values())
        elif issubclass(origin, tuple) and parts[-1] is not Ellipsis:
            held = zip(parts, value, strict=False)
        elif issubclass(origin, Sequence):
            held = ((parts[0], v) for v in value)
        else:
            continue  # a callable, an iterator that would be used up
        for part, one in held:
            yield from _tensors(part, one)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.packages:
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
        _wrap(module, module.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _wrap(owner: ModuleType | type, module: str) -> None:
    """Replace what a module or a class of it holds by what is checked."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, FunctionType) and value.__module__ == module:
            setattr(owner, name, check_dimensions(value))
        elif isinstance(value, type) and value.__module__ == module and isinstance(owner, ModuleType):
            _wrap(value, module)
        elif isinstance(value, property) and value.fget is not None:
            setattr(owner, name, property(check_dimensions(value.fget), value.fset, value.fdel, value.__doc__))
        elif isinstance(value, staticmethod | classmethod):
            setattr(owner, name, type(value)(check_dimensions(value.__func__)))
        elif isinstance(value, cached_property):
            kept = cached_property(check_dimensions(value.func))
            kept.attrname = name
            setattr(owner, name, kept)
