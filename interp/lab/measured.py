"""What probes share: values by group as estimates, rows and a picture; the zero control; halves.

held = measured({(model, layer): values, …}, by=("model", "layer"), value="share held", over="document")
yield CLAIM.answer(held["trained", 0], Control("random weights", held["random", 0]), table=held.rows(),
                   figure=held.lines(x="layer", caption="…"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from interp.lab.findings import Control, Figure, Row, Scalar
from interp.stats.estimate import Estimate
from interp.stats.estimators import estimate_mean, known

Key = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Measured:
    """Estimates by group. `by` names the columns that say which group, `value` the column of the number."""

    by: tuple[str, ...]
    value: str
    estimates: dict[tuple[Scalar, ...], Estimate]

    def __getitem__(self, key: Key) -> Estimate:
        """The estimate of one group: `held["trained", 3]`. KeyError names the groups that there are."""
        whole = key if isinstance(key, tuple) else (key,)
        if whole not in self.estimates:
            raise KeyError(f"no group {whole}; groups by {self.by}: {list(self.estimates)[:8]}")
        return self.estimates[whole]

    def rows(self, **more: Scalar) -> list[Row]:
        """A table with a row a group: what it is, the mean, and both ends of its interval. `more` is in every row."""
        return [
            {**dict(zip(self.by, key, strict=True)), **more, self.value: at.mean, "low": at.low, "high": at.high}
            for key, at in self.estimates.items()
        ]

    def lines(self, x: str, caption: str = "", *, chance: float | None = None) -> Figure:
        """The value as lines with bands along one of the columns, a line for each group of another."""
        return self._figure("lines", x=x, y=self.value, group=self._other(x), caption=caption, chance=chance)

    def dots(self, y: str, caption: str = "", *, chance: float | None = None) -> Figure:
        """A dot with its interval for each group, one below another."""
        return self._figure("interval_dots", x=self.value, y=y, group=self._other(y), caption=caption, chance=chance)

    def bars(self, y: str, caption: str = "", *, chance: float | None = None) -> Figure:
        """A bar from zero with its interval for each group."""
        return self._figure("effect_bars", x=self.value, y=y, group=self._other(y), caption=caption, chance=chance)

    def _other(self, axis: str) -> str | None:
        if axis not in self.by:
            raise KeyError(f"no column {axis!r}; groups are by {self.by}")
        rest = [name for name in self.by if name != axis]
        return rest[0] if rest else None

    def _figure(self, kind: str, **named: Any) -> Figure:
        return Figure(kind, **named, low="low", high="high")


def measured(
    values: Mapping[Any, ArrayLike],
    *,
    by: Sequence[str],
    value: str,
    over: str,
    unit: str = "",
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
) -> Measured:
    """The mean of each group's values [unit, …] with its interval over the units (`interp.stats.estimate_mean`).

    Keys of `values` are what `by` names, a tuple where it names several. `unit` is `value` unless it is said. Raises
    ValueError for a key of another length, BadValuesError for values without a mean.
    """
    estimates = {}
    for key, of_group in values.items():
        whole = key if isinstance(key, tuple) else (key,)
        if len(whole) != len(by):
            raise ValueError(f"the group {whole} names {len(whole)} things; expected {len(by)}: {', '.join(by)}")
        estimates[whole] = estimate_mean(of_group, unit=unit or value, over=over, bounds=bounds, seed=seed)
    return Measured(tuple(by), value, estimates)


def zero(unit: str, name: str = "no difference") -> Control:
    """The control of a difference: known to be 0 where there is no effect."""
    return Control(name, known(0.0, unit=unit, why=name))


def same_as(unit: str, name: str) -> Control:
    """The control of a difference from something that is measured itself: 0 where the two are alike."""
    return zero(unit, f"the same as {name}")


def set_beforehand(value: float, unit: str, name: str) -> Control:
    """A line that was drawn before anything ran, such as half of the prompts."""
    return Control(name, known(value, unit=unit, why="set beforehand"))


def halves(values: Any) -> tuple[Any, Any]:
    """Every second one, and the others: the first half chooses (a layer, a head), the second judges what was chosen."""
    return values[::2], values[1::2]
