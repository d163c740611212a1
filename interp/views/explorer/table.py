"""The rows of the table of all features: sorted, filtered and searched here, a block at a time for the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.errors import UserError, unknown
from interp.features.read.index import Index
from interp.features.read.search import search
from interp.views.explorer.context import WEAK
from interp.views.token_text import visible


@dataclass(frozen=True)
class Column:
    """A column: its key in the address, its head with the unit, what it means, its numbers, and how one is written."""

    key: str
    head: str
    meaning: str
    values: Callable[[Index], NDArray[Any]]
    write: str = "{:.3g}"
    width: int = 120


COLUMNS: tuple[Column, ...] = (
    Column("number", "feature", "number of the feature", lambda i: np.arange(len(i)), "{:d}", 92),
    Column("score", "label's score", "how well the label predicts firing on held-out text: 0 by chance, 1 always",
           lambda i: i["label_score"], "{:.2f}", 92),
    Column("rate", "fires on (%)", "share of tokens on which it fires, in percent",
           lambda i: 100 * i["rate"], "{:.3g}", 92),
    Column("maximum", "strongest", "its largest activation", lambda i: i["maximum"], "{:.3g}", 102),
    Column("effect", "effect (nats)", "rise of the model's loss at a token when the feature is taken away there",
           lambda i: i["effect"][:, 0], "{:+.3f}", 92),
    Column("control", "control (nats)", "the same for a random direction as long: what any change costs",
           lambda i: i["effect_random"], "{:+.3f}", 96),
    Column("token", "by token (%)", "share of its variance that the token alone explains, in percent",
           lambda i: 100 * i["by_token"], "{:.0f}", 92),
)  # fmt: skip
BY_KEY = {column.key: column for column in COLUMNS}


def find_rows(
    index: Index, text: str = "", sort: Sequence[Mapping[str, str]] = (), filters: Mapping[str, Any] | None = None
) -> NDArray[np.int64]:
    """Numbers of the features that fit, in order: as sorted, else as found, else ascending; what is no number last.

    `sort` and `filters` are AG Grid's models. Raises UserError for a column or a comparison that there is not.
    """
    chosen = np.arange(len(index))
    if text.strip():
        chosen = np.array([hit.feature for hit in search(index, text)], np.int64)
    for key, wanted in (filters or {}).items():
        chosen = chosen[_fits(index, key, wanted)[chosen]]
    for one in reversed(list(sort)):
        values = _column(str(one.get("colId"))).values(index)[chosen].astype(float)
        values = -values if one.get("sort") == "desc" else values
        chosen = chosen[np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")]
    return chosen


def row_of(index: Index, number: int) -> dict[str, Any]:
    """A feature as the grid shows it: text all through, so that nothing is left to its formatters."""
    label = index.labels[number]
    row: dict[str, Any] = {"number": number, "label": visible(label.text), "weak": bool(label.score < WEAK)}
    for column in COLUMNS[1:]:
        value = float(column.values(index)[number])
        row[column.key] = "–" if np.isnan(value) else _written(column, value)
    typical = [visible(index.text(t)) for t in index["typical_token"][number].tolist() if t >= 0]
    row["tokens"] = " · ".join(repr(text)[1:-1] if not text.strip() else text for text in typical[:5])
    return row


def _written(column: Column, value: float) -> str:
    text = column.write.format(value)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _column(key: str) -> Column:
    if key not in BY_KEY:
        raise unknown("column", key, BY_KEY)
    return BY_KEY[key]


def _fits(index: Index, key: str, wanted: Mapping[str, Any]) -> NDArray[np.bool_]:
    if key == "label":
        text = str(wanted.get("filter", "")).casefold()
        return np.array([text in label.text.casefold() for label in index.labels], bool)
    values = _column(key).values(index).astype(float)
    if "conditions" in wanted:
        both = [_compare(values, one) for one in wanted["conditions"]]
        return np.logical_or.reduce(both) if wanted.get("operator") == "OR" else np.logical_and.reduce(both)
    return _compare(values, wanted)


def _compare(values: NDArray[Any], wanted: Mapping[str, Any]) -> NDArray[np.bool_]:
    kind, low, high = wanted.get("type"), wanted.get("filter"), wanted.get("filterTo")
    empty = np.isnan(values)
    if kind in ("blank", "notBlank"):
        return empty if kind == "blank" else ~empty
    numbers = [float(end) for end in (low, high) if isinstance(end, int | float)]
    if len(numbers) < 1 + (kind == "inRange"):
        raise UserError(f"the filter {kind} came without a number; expected one")
    first, last = numbers[0], numbers[-1]
    with np.errstate(invalid="ignore"):
        found = {
            "equals": values == first,
            "notEqual": values != first,
            "greaterThan": values > first,
            "greaterThanOrEqual": values >= first,
            "lessThan": values < first,
            "lessThanOrEqual": values <= first,
            "inRange": (values >= first) & (values <= last),
        }
    if kind not in found:
        raise unknown("comparison", str(kind), found)
    return found[kind] & ~empty
