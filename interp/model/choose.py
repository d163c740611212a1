"""Where an edit acts: which tokens, heads, features and prompts of a site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks import Edit, Site

Pos = int | slice | None
Some = int | Iterable[int] | None  # None: all


def only(edit: Edit, *, pos: Pos = None, heads: Some = None, features: Some = None, prompts: Some = None) -> Edit:
    """Let `edit` act on the chosen tokens, heads, features and prompts, and leave the rest as it was.

    `pos` counts per prompt without its padding (None for all, -1 is the last token, or a slice); at an attention
    pattern it chooses queries. `heads` are those of the site (keys and values may have fewer than queries), `features`
    places on the last axis, `prompts` numbers in the caller's list. Raises UserError for one that is not there.
    """
    if not callable(edit):
        raise UserError(f"only() got a {type(edit).__name__}; expected an edit, such as ablate() or steer(direction)")

    chosen_by = [list(s) if isinstance(s, Iterator) else s for s in (heads, features, prompts)]  # read more than once

    def partly(activation: Tensor, site: Site) -> Tensor:
        chosen = choose(activation, site, pos, *chosen_by)
        result = edit(activation.clone(), site)
        if not isinstance(result, Tensor) or result.shape != activation.shape:
            return result  # refused, in its words, where edits are applied
        return result.where(chosen, activation)

    partly.__name__ = f"only({getattr(edit, '__name__', type(edit).__name__)})"
    return partly


def choose(
    activation: Tensor,
    site: Site,
    pos: Pos = None,
    heads: Some = None,
    features: Some = None,
    prompts: Some = None,
) -> Bool[Tensor, ...]:
    """True at the chosen entries, as a mask that broadcasts against `activation`."""
    axes = site.axes
    if axes[:1] != ("prompt",) or "pos" not in axes:
        raise UserError(f"this edit works per token, but {site.name} has axes {axes}; write a function for it")
    shape = [1] * activation.ndim
    shape[0], shape[axes.index("pos")] = site.mask.shape
    chosen = site.positions(pos).view(shape)
    if heads is not None:
        axis = _head_axis(site)
        chosen = chosen & _along(axis, _places("heads", heads, activation, axis, site), activation)
    if features is not None:
        last = activation.ndim - 1
        if axes[last] == "pos":
            raise UserError(f"features={features!r} at {site.name}, whose last axis is the keys; choose heads and pos")
        chosen = chosen & _along(last, _places("features", features, activation, last, site), activation)
    if prompts is not None:
        wanted = _numbers("prompts", prompts, site.total, site)
        here = torch.isin(site.prompts.to(activation.device), torch.tensor(wanted, device=activation.device))
        chosen = chosen & _along(0, here, activation)
    return chosen


def _head_axis(site: Site) -> int:
    """[prompt, pos, head, d_head] for q, k, v and z; [prompt, head, query, key] for scores and pattern."""
    if site.axes == ("prompt", "pos", "feature", "feature"):
        return 2
    if site.axes == ("prompt", "feature", "pos", "pos"):
        return 1
    raise UserError(f"{site.name} has no heads: its axes are {', '.join(site.axes)}; choose one such as attn.hook_z")


def _places(word: str, some: int | Iterable[int], activation: Tensor, axis: int, site: Site) -> Bool[Tensor, " n"]:
    wanted = torch.zeros(activation.shape[axis], dtype=torch.bool, device=activation.device)
    wanted[_numbers(word, some, activation.shape[axis], site)] = True
    return wanted


def _numbers(word: str, some: int | Iterable[int], n: int, site: Site) -> list[int]:
    some = some.tolist() if hasattr(some, "tolist") else some  # type: ignore[union-attr] # of torch or numpy
    try:
        numbers = [index(some)] if hasattr(some, "__index__") else [index(i) for i in some]  # type: ignore[arg-type,union-attr]
    except TypeError as error:
        raise UserError(f"{word}={some!r} at {site.name}; expected a number, or several") from error
    flags = isinstance(some, bool) or (not hasattr(some, "__index__") and any(isinstance(i, bool) for i in some))  # type: ignore[union-attr]
    if not numbers or flags or any(not -n <= i < n for i in numbers):
        raise UserError(f"{word}={some!r} at {site.name}; expected some of 0 to {n - 1}")
    return [i % n for i in numbers]


def _along(axis: int, wanted: Bool[Tensor, " n"], activation: Tensor) -> Tensor:
    shape = [1] * activation.ndim
    shape[axis] = len(wanted)
    return wanted.view(shape)
