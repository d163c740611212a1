"""What a probe yields: a claim, the number measured for it, the control beside it, and the rule that decides.

No torch here: reports are rebuilt from these on machines that have none.

A verdict is computed, never written by hand. `expects` and `margin` are fixed in the probe's source before anything
runs. What decides is the interval of the *gap*, estimate minus control (`Finding.gap`):

- `greater`: yes when the whole interval of the gap lies above `margin`; no when it lies at or below it, so that a
  larger effect is ruled out; else unclear. `less` is the mirror image.
- `equal`: yes when the whole interval lies within `margin` of zero (an equivalence test: a wide interval is never a
  yes); no when it lies wholly outside; else unclear.
- Where the control is a null (permutations), a yes to `greater` or `less` also needs an estimate beyond the null's
  range: fewer than 2.5 % of the permutations reach it.
- An estimate or control from a single unit has no interval: always unclear.

So a false yes, and a false no, come in about 2.5 % of studies, however noisy the control is, where the intervals hold
what they promise. They do not for what few units cannot show: if one seed in five is unlike the others, five seeds
miss it in a third of all studies.

A table may hold what could not be measured: NaN is stored as null and shown as a gap. An infinite value is stored as
null too, and the caveat says where it stood, so that no finding is lost for one cell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import hypot
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args

from interp.errors import UserError
from interp.stats.estimate import HUGE, Estimate

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
    "plain_scalar",
    "storable",
]

Scalar = str | int | float | bool | None
Row = dict[str, Scalar]
Expects = Literal["greater", "less", "equal"]
Verdict = Literal["yes", "no", "unclear"]
T = TypeVar("T")


@dataclass(frozen=True)
class Control:
    """The number that the estimate must beat (or match) to mean anything, and what it is, in words."""

    name: str
    estimate: Estimate


@dataclass(frozen=True)
class Figure:
    """Names a picture kind of `interp.views` and the columns of the finding's table that it reads."""

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
    declared: str = ""  # the text of the `Claim` that it answers; "" in a probe that declares none
    arithmetic: bool = False  # holds by construction, whatever the model knows

    def __post_init__(self) -> None:
        if self.expects not in get_args(Expects):
            raise ValueError(f"expects must be one of {get_args(Expects)}, got {self.expects!r}")
        if self.estimate.unit != self.control.estimate.unit:
            raise ValueError(
                f"estimate is in {self.estimate.unit!r}, its control in {self.control.estimate.unit!r}: not comparable"
            )
        if not 0 <= self.margin < HUGE:
            raise ValueError(f"margin must be 0 or more, got {self.margin}")
        if self.expects == "equal" and self.margin <= 0:
            raise ValueError("expects='equal' needs a margin above 0: how far apart still counts as equal")

    @property
    def gap(self) -> Estimate:
        """Estimate minus control, with its interval.

        A number known beforehand, and the mean of a null, add no uncertainty. A measured control adds its own, as if
        it were independent (Newcombe 1998, method 10): the same units in both make the interval too wide, not too
        narrow, as long as they go up and down together.
        """
        ours, theirs = self.estimate, self.control.estimate
        mean = ours.mean - theirs.mean
        below, above = ours.mean - ours.low, ours.high - ours.mean
        if not (theirs.is_known or theirs.is_null):
            below, above = hypot(below, theirs.high - theirs.mean), hypot(above, theirs.mean - theirs.low)
        return Estimate(mean, mean - below, mean + above, ours.n, ours.unit, ours.over, ours.level)

    @property
    def verdict(self) -> Verdict:
        """yes, no or unclear, by the rule in this module's docstring."""
        ours, theirs, gap = self.estimate, self.control.estimate, self.gap
        if 1 in (ours.n, theirs.n):
            return "unclear"  # one unit has no interval, whatever its width says
        beyond, rounding = True, 1e-9 * max(abs(ours.mean), abs(theirs.mean))  # a null can hold the estimate itself
        if self.expects == "greater":
            yes, no = gap.low > self.margin, gap.high <= self.margin
            beyond = not theirs.is_null or ours.mean > theirs.high + rounding
        elif self.expects == "less":
            yes, no = gap.high < -self.margin, gap.low >= -self.margin
            beyond = not theirs.is_null or ours.mean < theirs.low - rounding
        else:
            yes = -self.margin <= gap.low and gap.high <= self.margin
            no = gap.low > self.margin or gap.high < -self.margin
        return "yes" if yes and beyond else "no" if no else "unclear"

    @property
    def rule(self) -> str:
        """The verdict rule in words, for the report."""
        single = next((e for e in (self.estimate, self.control.estimate) if e.n == 1), None)
        if single is not None:
            return f"unclear, whatever came: a single {single.over} gives no interval"
        return rule_in_words(self.expects, self.margin, self.estimate.unit, self.control.estimate.is_null)


def rule_in_words(expects: Expects, margin: float, unit: str, null: bool = False) -> str:
    """When the verdict is yes, no and unclear; `null`: the control is the range of a number under chance."""
    if expects == "equal":
        return (
            f"yes if the gap's whole interval stays within {margin:g} {unit} of zero; no if it lies wholly outside; "
            "else unclear"
        )
    above, below = ("above", "below") if expects == "greater" else ("below", "above")
    size = margin if expects == "greater" else -margin
    line = f"{size:g} {unit}".replace("-", "−") if margin else "zero"
    beyond = f" and the estimate {above} the null's range" if null else ""
    yes = f"yes if the gap's whole interval lies {above} {line}{beyond}"
    return f"{yes}; no if it lies wholly {below} {line}; else unclear"


def storable(finding: Finding) -> Finding:
    """`finding` with a table and a figure that JSON can hold: NaN and infinite values become None, which is a gap.

    Where an infinite value stood is added to the caveat. Scalars of numpy and torch become Python's.
    Raises UserError, with row and column, for a cell that is no scalar.
    """
    infinite: list[str] = []
    table: list[Row] = []
    for number, row in enumerate(finding.table):
        if not isinstance(row, Mapping):
            raise UserError(
                f"the table of {finding.claim!r}: row {number} is {shown(row)}; expected a dict {{column: value}}"
            )
        table.append({})
        for column, cell in row.items():
            try:
                value = plain_scalar(cell)
            except TypeError:
                raise UserError(
                    f"the table of {finding.claim!r}: row {number}, column {column!r} is {shown(cell)}; expected text, "
                    "a number, True, False or None"
                ) from None
            if isinstance(value, float) and math.isinf(value):
                infinite.append(f"row {number}, column {column!r} ({value})")
            table[-1][str(column)] = None if isinstance(value, float) and not math.isfinite(value) else value
    told = ""
    if infinite:
        more = f" and {len(infinite) - 3} more" if len(infinite) > 3 else ""
        told = f"Infinite, and left out of the table (rows counted from 0): {'; '.join(infinite[:3])}{more}."
    figure = finding.figure
    if figure is not None and figure.chance is not None and not math.isfinite(figure.chance):
        figure = replace(figure, chance=None)
    return replace(finding, table=table, figure=figure, caveat=" ".join(filter(None, [finding.caveat, told])))


def plain_scalar(value: object) -> Scalar:
    """A cell as Python's own str, int, float, bool or None. Raises TypeError for what is no scalar."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Real):  # a scalar of numpy is one, too
        return int(value) if isinstance(value, Integral) else float(value)
    try:
        item = value.item()  # type: ignore[attr-defined]  # of torch, or numpy's bool
    except (AttributeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{shown(value)} is no scalar") from error
    if item is not None and not isinstance(item, str | bool | int | float):
        raise TypeError(f"{shown(value)} is no scalar")
    return item


def shown(value: object) -> str:
    """Any value for an error message, cut short: `the tuple (1, 2)`."""
    text = " ".join(repr(value).split())
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """A JSON-ready dict, verdict and rule included so that a reader needs no Python. The table is not in it."""
    out = {k: v for k, v in asdict(finding).items() if k != "table"}
    return {**out, "gap": asdict(finding.gap), "verdict": finding.verdict, "rule": finding.rule}


def finding_from_json(record: dict[str, Any], table: list[Row]) -> Finding:
    """Inverse of `finding_to_json`; the verdict is computed again, not trusted. ValueError on a bad record.

    What has a default may be missing: a run of an earlier version stays readable.
    """
    return checked(Finding, {**record, "table": table})


def checked(kind: type[T], record: object) -> T:
    """A dataclass from decoded JSON that came from outside, every field's type checked; unknown keys are passed over.

    Raises ValueError, in one line, for a field that is missing or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        # Strict about numbers and texts; in its JSON mode alone may a dict stand for a dataclass then. A lone
        # surrogate, from a path or a token that is no UTF-8, becomes a question mark: nothing could show it.
        text = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
