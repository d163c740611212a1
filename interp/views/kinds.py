"""The kinds of picture by name: a function of a table's rows and of the columns that a finding names."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import plotly.graph_objects as go
from markupsafe import Markup

from interp.lab import findings
from interp.lab.findings import Row
from interp.views.tables import check_columns

Picture = go.Figure | Markup
_P = TypeVar("_P", go.Figure, Markup)

KINDS: dict[str, Callable[[list[Row], findings.Figure], Picture]] = {}


def kind(
    *needs: str,
) -> Callable[[Callable[[list[Row], findings.Figure], _P]], Callable[[list[Row], findings.Figure], _P]]:
    """Make the function below a picture kind that needs those columns; they are checked before it is called."""

    def register(function: Callable[[list[Row], findings.Figure], _P]) -> Callable[[list[Row], findings.Figure], _P]:
        @wraps(function)
        def checked(rows: list[Row], spec: findings.Figure) -> _P:
            check_columns(function.__name__, rows, spec, needs)
            return function(rows, spec)

        KINDS[function.__name__] = checked
        return checked

    return register
