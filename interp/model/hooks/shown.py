"""How a result is shown: its fields, with the shape of a tensor instead of its thousand numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from numpy import ndarray
from torch import Tensor

MOST = 4  # of a collection, shown one by one
LONGEST = 60  # characters of a value


class Shown:
    """A dataclass, made with repr=False, that shows shapes of tensors: `HeadScores(scores={'induction': [8, 2]})`."""

    def __repr__(self) -> str:
        shown: Any = self
        parts = [f"{field.name}={in_short(getattr(self, field.name))}" for field in fields(shown)]
        return f"{type(self).__name__}({', '.join(parts)})"


def in_short(value: object) -> str:
    """One line for any value: the shape of a tensor, the first few of many."""
    if isinstance(value, Tensor | ndarray):
        return f"{list(value.shape)}" if value.ndim else f"{value.item():.4g}"
    if isinstance(value, Mapping) and type(value) is dict:
        several = [f"{key!r}: {in_short(one)}" for key, one in list(value.items())[:MOST]]
        return "{" + ", ".join([*several, *_more(value)]) + "}"
    if isinstance(value, list | tuple):
        several = [in_short(one) for one in value[:MOST]]
        return f"[{', '.join([*several, *_more(value)])}]"
    text = repr(value)
    is_long = isinstance(value, str) and len(text) > LONGEST
    return f"{text[:LONGEST]}…" if is_long else text


def _more(value: Collection[object]) -> list[str]:
    return [f"… {len(value):,} in all"] if len(value) > MOST else []
