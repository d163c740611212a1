"""A measured number with its interval. No torch: reports read these back on machines that have none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

PERMUTATION = "permutation"
HUGE = 1e100  # beyond it, sums and squares would be infinite


@dataclass(frozen=True)
class Estimate:
    """A measured number: mean with a confidence interval.

    `n` counts what was resampled (`over`: "seed", "template", "fact" …), not the raw measurements under it.
    `unit` is written wherever the number is shown ("nats", "share of facts"). `n` is 0 for a number known beforehand.
    `alike`: all units had the same value and nothing bounds them, so that no interval could be told; a verdict on it is
    unclear. A null, `over` PERMUTATION, is no interval of a mean: it is where `level` of the values lie when there is
    no effect. `df`: the degrees of freedom of Student's quantile that made the interval, where they are not n - 1
    (crossed wordings, a slope): they say how fast it would widen at a stricter level. `note`: what a reader must know
    of this number; a claim that it answers (`Claim.answer`) takes it into its caveat.
    """

    mean: float
    low: float
    high: float
    n: int
    unit: str
    over: str = "item"
    level: float = 0.95
    alike: bool = False
    df: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) and abs(float(x)) < HUGE for x in (self.mean, self.low, self.high)):
            raise ValueError(f"an estimate must be finite, got {self.mean} [{self.low}, {self.high}]")
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"the mean must lie in its interval, got {self.mean} [{self.low}, {self.high}]")
        if self.n < 0 or not 0 < self.level < 1:
            raise ValueError(f"n must be 0 or more and the level between 0 and 1, got {self.n} and {self.level}")
        if self.df is not None and not 0 < self.df < math.inf:
            raise ValueError(f"degrees of freedom must be above 0 and finite, got {self.df}")

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the interval: `df`, or those of a mean of n units."""
        return max(self.n - 1, 1) if self.df is None else self.df

    @property
    def has_interval(self) -> bool:
        """Does the interval say anything? Not of a single unit, nor of units that are all alike."""
        return self.n != 1 and not self.alike

    @property
    def is_known(self) -> bool:
        """Was this number known beforehand, such as chance? Then `over` says why, and nothing was resampled."""
        return self.n == 0

    @property
    def is_null(self) -> bool:
        """Is this the spread of a number under chance, such as over permutations?"""
        return self.over == PERMUTATION

    @property
    def counted(self) -> str:
        """What was resampled, counted: `30 facts`."""
        word = self.over
        if self.n != 1 and not word.endswith("s"):
            word = word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"
        return f"{self.n:,} {word}"

    def __str__(self) -> str:
        if self.is_known:
            return f"{self.mean:.3g} {self.unit} ({self.over})"
        interval = f"[{self.low:.3g}, {self.high:.3g}]" if self.has_interval else "[no interval]"
        return f"{self.mean:.3g} {interval} {self.unit} (n = {self.counted})"
