"""A fault planted in the product for the time of a test: a line of a function, as somebody might have written it."""

from __future__ import annotations

import inspect
import textwrap
from functools import cached_property
from types import FunctionType
from typing import Any

import pytest


def plant(patched: pytest.MonkeyPatch, owner: Any, name: str, was: str, now: str) -> None:
    """Replace the text `was` in the source of `owner.name` by `now`, for all who hold the function.

    Fails where the text is not there any more: a fault that was not planted would be found by no test.
    """
    function = _plain(inspect.getattr_static(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert was in source, f"{name} has no {was!r} any more"
    made: dict[str, Any] = {}
    code = compile(
        "from __future__ import annotations\n" + source.replace(was, now), function.__code__.co_filename, "exec"
    )
    exec(code, function.__globals__, made)
    patched.setattr(function, "__code__", _plain(made[name]).__code__)


def _plain(found: Any) -> FunctionType:
    """The function that was written, under what decorators made of it."""
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, cached_property):
        found = found.func
    function = inspect.unwrap(getattr(found, "__func__", found))
    assert isinstance(function, FunctionType)
    return function
