"""Reads a finding's rows for a figure: checks the columns, gives every row its place on an axis, writes labels.

Plotly reads labels as HTML and merges equal categories. So labels are escaped here (else the token `<bos>` would
vanish), and axes are numeric with the labels as tick texts (else two tokens `the` would become one).
"""

from __future__ import annotations

import textwrap
from collections import Counter
from html import escape

from interp.errors import UserError, nearest
from interp.lab import findings
from interp.lab.findings import Row, Scalar

ROLES = ("x", "y", "z", "group", "low", "high", "facet")


def check_columns(kind: str, rows: list[Row], spec: findings.Figure, needs: tuple[str, ...]) -> None:
    """Raise UserError unless the table has rows and every column that `spec` names, and `spec` names all `needs`."""
    if not rows:
        raise UserError(f"figure {kind!r} got a table without rows; expected at least one; give the finding a table")
    there = columns(rows)
    listed = ", ".join(map(repr, there))
    for role in ROLES:
        column = getattr(spec, role)
        if role in needs and column is None:
            raise UserError(f"figure {kind!r} needs the column for {role}; set Figure({role}=…) to one of {listed}")
        if column is not None and column not in there:
            near = ", ".join(map(repr, nearest(column, there, n=1)))
            raise UserError(
                f"figure {kind!r}: no column {column!r} for {role}; the table has {listed}; nearest: {near}"
            )


def columns(rows: list[Row]) -> list[str]:
    """Every column of the table, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def numbers(rows: list[Row], column: str) -> list[float | None]:
    """The column as numbers; an empty cell is None. Raises UserError on text."""
    out: list[float | None] = []
    for i, row in enumerate(rows):
        value = row.get(column)
        if isinstance(value, str):
            raise UserError(f"column {column!r} has {value!r} in row {i}; expected a number; draw another column")
        out.append(None if value is None else float(value))
    return out


def split(rows: list[Row], column: str | None) -> list[tuple[Scalar, list[Row]]]:
    """The rows of each value of `column`, values in order of first appearance; one nameless part without a column."""
    if column is None:
        return [(None, rows)]
    parts: dict[Scalar, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.get(column), []).append(row)
    return list(parts.items())


def slots(rows: list[Row], column: str, *within: str | None) -> tuple[list[Scalar], list[int]]:
    """The labels along an axis and each row's place on it.

    Rows that agree in `column` share a place unless they also agree in every column of `within`: then the first takes
    the first place of that label, the second the second, so that a repeated token keeps its own column.
    Numbers are put in ascending order, other labels in table order.
    """
    seen: Counter[tuple[Scalar, ...]] = Counter()
    places: dict[tuple[Scalar, int], int] = {}
    out = []
    for row in rows:
        same = (row.get(column), *(row.get(name) for name in within if name))
        out.append(places.setdefault((row.get(column), seen[same]), len(places)))
        seen[same] += 1
    order = _ascending([label for label, _ in places])
    rank = {old: new for new, old in enumerate(order)}
    labels = [label for label, _ in places]
    return [labels[i] for i in order], [rank[i] for i in out]


def distinct(rows: list[Row], column: str) -> list[Scalar]:
    """The values of a column without repeats, in the order that `slots` uses."""
    values = list(dict.fromkeys(row.get(column) for row in rows))
    return [values[i] for i in _ascending(values)]


def _ascending(values: list[Scalar]) -> list[int]:
    """The order of an axis: ascending where all are numbers, else as they came."""
    amounts = [value for value in values if isinstance(value, int | float)]
    if len(amounts) < len(values):
        return list(range(len(values)))
    return sorted(range(len(values)), key=amounts.__getitem__)


def written(value: Scalar) -> str:
    """One cell as text: four significant digits, and quotes where blanks at the ends matter."""
    if isinstance(value, str):
        return repr(value) if value != value.strip() else value
    if value is None:
        return "–"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("-", "−")


def _label(value: Scalar) -> str:
    """A cell as a label: without the blank before a token, which no axis can show; the hover text keeps it."""
    return " ".join(value.split()) or repr(value) if isinstance(value, str) else written(value)


def shortened(value: Scalar, width: int) -> str:
    """A label of one line for plotly: escaped, cut in the middle, for labels of one axis often begin alike."""
    text = _label(value)
    if len(text) > width:
        tail = width // 3
        text = f"{text[: width - tail - 1]}…{text[-tail:]}"
    return escape(text, quote=False)


def wrapped(value: Scalar, width: int, lines: int = 3) -> str:
    """A label for plotly: escaped, broken at about `width` characters, at most `lines` lines."""
    text = _label(value)
    pieces = textwrap.wrap(text, width, max_lines=lines, placeholder=" …") or [text]
    return "<br>".join(escape(piece, quote=False) for piece in pieces)


def hover(row: Row) -> str:
    """All values of a row, for the pointer."""
    lines = (f"<b>{escape(name, quote=False)}</b>: {_exactly(value)}" for name, value in row.items())
    return "<br>".join(lines)


def _exactly(value: Scalar) -> str:
    """A cell with its blanks, so that ' Paris' and 'Paris' differ, broken at 60 characters."""
    return "<br>".join(escape(piece, quote=False) for piece in textwrap.wrap(written(value), 60) or [""])


def title(column: str) -> str:
    """A column's name as an axis title, as it is (it carries the unit), broken where it is long."""
    return wrapped(column, 56)
