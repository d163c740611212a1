"""What a probe yields: a claim, the number measured for it, the control beside it, and the rule that decides.

No torch here: reports are rebuilt from these on machines that have none.

A verdict is computed, never written by hand. `expects` and `margin` are fixed in the probe's source before anything
runs; `verdict()` compares the two intervals and nothing else:

- `greater`: yes when the estimate's whole interval lies above the control's whole interval by more than `margin`; no
  when the whole interval lies at or below the control's mean plus `margin`, so that an effect of that size is ruled
  out; else unclear. A noisy study widens a null's interval too: that must make it unclear, never a no.
  `less` is the mirror image.
- `equal`: yes when the estimate's whole interval lies within `margin` of the control's mean (an equivalence test: a
  wide interval is never a yes); no when it lies wholly outside; else unclear.
- An estimate or control from a single unit has no interval: always unclear.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from interp.analysis.estimate import Estimate

__all__ = [
    "Control",
    "Estimate",
    "Expects",
    "Figure",
    "Finding",
    "Row",
    "Scalar",
    "Verdict",
    "finding_from_json",
    "finding_to_json",
]

Scalar = str | int | float | bool | None
Row = dict[str, Scalar]
Expects = Literal["greater", "less", "equal"]
Verdict = Literal["yes", "no", "unclear"]


@dataclass(frozen=True)
class Control:
    """The number that the estimate must beat (or match) to mean anything, and what it is, in words."""

    name: str
    estimate: Estimate


@dataclass(frozen=True)
class Figure:
    """Names a function of `interp.views.figures` and the columns of the finding's table that it reads."""

    kind: str
    x: str
    y: str
    z: str | None = None
    group: str | None = None
    low: str | None = None
    high: str | None = None
    facet: str | None = None
    chance: float | None = None
    caption: str = ""


@dataclass(frozen=True)
class Finding:
    """One claim of a probe with its evidence.

    `claim` says what a yes would mean, `measure` what the number is, `caveat` what could still fool us. `part` groups
    findings in the report. `table` holds the rows behind the number; `figure` names the picture that shows them.
    `answers`: is this one of the few claims that answer the probe's question? The report opens with them.
    """

    claim: str
    estimate: Estimate
    control: Control
    expects: Expects
    margin: float = 0.0
    part: str = ""
    caveat: str = ""
    table: list[Row] = field(default_factory=list)
    figure: Figure | None = None
    answers: bool = False
    measure: str = ""

    def __post_init__(self) -> None:
        if self.expects not in get_args(Expects):
            raise ValueError(f"expects must be one of {get_args(Expects)}, got {self.expects!r}")
        if self.estimate.unit != self.control.estimate.unit:
            raise ValueError(
                f"estimate is in {self.estimate.unit!r}, its control in {self.control.estimate.unit!r}: not comparable"
            )
        if self.expects == "equal" and self.margin <= 0:
            raise ValueError("expects='equal' needs a margin above 0: how far apart still counts as equal")

    @property
    def verdict(self) -> Verdict:
        """yes, no or unclear, by the rule in this module's docstring."""
        ours, theirs = self.estimate, self.control.estimate
        if 1 in (ours.n, theirs.n):
            return "unclear"  # one unit has no interval, whatever its width says
        if self.expects == "greater":
            yes, no = ours.low > theirs.high + self.margin, ours.high <= theirs.mean + self.margin
        elif self.expects == "less":
            yes, no = ours.high < theirs.low - self.margin, ours.low >= theirs.mean - self.margin
        else:
            low, high = theirs.mean - self.margin, theirs.mean + self.margin
            yes, no = low <= ours.low and ours.high <= high, ours.low > high or ours.high < low
        return "yes" if yes else "no" if no else "unclear"

    @property
    def rule(self) -> str:
        """The verdict rule in words, for the report."""
        margin = f"{self.margin:g} {self.estimate.unit}"
        single = next((e for e in (self.estimate, self.control.estimate) if e.n == 1), None)
        if single is not None:
            return f"unclear, whatever came: a single {single.over} gives no interval"
        if self.expects == "equal":
            return (
                f"yes if the whole interval stays within {margin} of the control's mean; no if it lies wholly "
                "outside; else unclear"
            )
        above, below = ("above", "below") if self.expects == "greater" else ("below", "above")
        by = f" by more than {margin}" if self.margin else ""
        sign = "+" if above == "above" else "−"
        line = f"the control's mean {sign} {margin}" if self.margin else "the control's mean"
        return (
            f"yes if the whole interval lies {above} the control's interval{by}; no if it lies wholly {below} {line}; "
            "else unclear"
        )


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """A JSON-ready dict, verdict and rule included so that a reader needs no Python. The table is not in it."""
    out = {k: v for k, v in asdict(finding).items() if k != "table"}
    return {**out, "verdict": finding.verdict, "rule": finding.rule}


def finding_from_json(record: dict[str, Any], table: list[Row]) -> Finding:
    """Inverse of `finding_to_json`; the verdict is computed again, not trusted. KeyError/TypeError on a bad record.

    What has a default may be missing: a run of an earlier version stays readable.
    """
    told = {field.name for field in fields(Finding)} & set(record)
    return Finding(
        **{name: record[name] for name in told - {"estimate", "control", "figure", "table"}},
        estimate=Estimate(**record["estimate"]),
        control=Control(record["control"]["name"], Estimate(**record["control"]["estimate"])),
        figure=Figure(**record["figure"]) if record.get("figure") else None,
        table=table,
    )
