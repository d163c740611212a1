"""Edits and metrics as they are given: can it be called as one, or does it make such and was itself not called?

`steer(direction)` is an edit and `steer` is not; both are functions. What makes edits or metrics carries a mark, with a
call that shows how it is meant, so that whoever forgets the call is told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from interp.errors import UserError

Factory = TypeVar("Factory", bound=Callable[..., Any])


def makes(example: str) -> Callable[[Factory], Factory]:
    """Mark a function as one that makes an edit or a metric; `example` is a call of it."""

    def mark(factory: Factory) -> Factory:
        factory.call_it = example  # type: ignore[attr-defined]
        return factory

    return mark


def check_called(place: str, fn: object) -> None:
    """Raise UserError for a function that makes edits or metrics and was not called."""
    factory = getattr(fn, "func", fn)  # a functools.partial of one is one
    if example := getattr(factory, "call_it", None):
        raise UserError(
            f"{place} is {getattr(factory, '__name__', 'a function')} itself, which makes what is expected there; "
            f"call it, e.g. {example}"
        )


def check_edit(place: str, fn: object) -> None:
    """Raise UserError for what is no edit; `place` says where it was given: "the edit at blocks.3.hook_mlp_out"."""
    check_called(place, fn)
    if not callable(fn):
        raise UserError(
            f"{place} is a {type(fn).__name__}; expected a function (activation, where) -> activation, such as "
            "patch(source) or steer(direction)"
        )
    _check_takes(place, fn, "(activation, where)", "an edit")


def check_metric(metric: object) -> None:
    """Raise UserError for what is no metric."""
    check_called("the metric", metric)
    if not callable(metric):
        raise UserError(
            f"the metric is a {type(metric).__name__}; expected a function (logits, where) -> [prompt], such as "
            "logit_difference(right, wrong)"
        )
    _check_takes("the metric", metric, "(logits, where)", "a metric")


def _check_takes(place: str, fn: Callable[..., Any], parameters: str, kind: str) -> None:
    """What hides its parameters gets the benefit of the doubt."""
    try:
        signature(fn).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"{place} does not take {parameters}; write it with these two parameters, or call it, if it makes {kind}: "
            f"{getattr(fn, '__name__', 'it')}(…)"
        ) from error
    except ValueError:
        return
